"""How much each class counts in the loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from infoprompt.config import ConfigError, DataSettings
from infoprompt.data.class_weights import class_weights
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.encoded import EncodedText, EncodedTexts
from infoprompt.data.ragged import Ragged
from infoprompt.data.task import Task
from infoprompt.objective.task import example_losses, task_loss

TASK = Task("mail", ("ham", "spam", "never"), ("ham", "spam", "never"), ("accuracy", "macro_f1"), "single")
TAGS = replace(TASK, kind="tags")


def rows_of(labels: list[int], **fields) -> EncodedDataset:
    texts = EncodedTexts.of([EncodedText([7] * 3, [-1] * 3, [0] * 3, 0, False)] * len(labels))
    return EncodedDataset(texts, labels, pad_id=0, **fields)


def weights(asked, task: Task = TASK, rows: EncodedDataset | None = None) -> torch.Tensor | None:
    return class_weights(DataSettings(class_weights=asked), task, rows or rows_of([0] * 6 + [1] * 2))


def test_balanced_weights_are_those_of_scikit_learn():
    labels = [0] * 6 + [1] * 2
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=np.array(labels))
    assert weights("balanced").tolist() == pytest.approx([*expected, 1.0])


def test_tags_are_counted_by_words():
    rows = rows_of([-1, -1], tags=Ragged.of([[0, 0, 1], [0, -1]]))
    assert weights("balanced", TAGS, rows).tolist() == pytest.approx([4 / (2 * 3), 4 / 2, 1.0])


def test_named_classes_weigh_what_is_said_and_the_others_one():
    assert weights({"spam": 4}).tolist() == [1.0, 4.0, 1.0]
    numbers = replace(TASK, labels=("0", "1", "2"))
    assert weights({1: 2.5}, numbers).tolist() == [1.0, 2.5, 1.0]
    assert weights("none") is None
    assert weights({}) is None


def test_what_does_not_fit_is_named_with_the_way_out():
    with pytest.raises(ConfigError, match=r"class_weights names spamm, .*Did you mean spam"):
        weights({"spamm": 2})
    for kind in ("choice", "regression"):
        with pytest.raises(ConfigError, match=r"class_weights is balanced, but mail has rows of .* Set it to none"):
            weights("balanced", replace(TASK, kind=kind))
    with pytest.raises(ValueError, match="greater than 0"):
        weights({"spam": 0})


def test_a_weight_multiplies_the_loss_of_its_rows_whatever_stands_beside_them():
    batch = rows_of([0, 1, 1, 0]).batch(range(4))
    scores = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    each = F.cross_entropy(scores, batch.label_B, reduction="none")
    weighed = task_loss(scores, batch, torch.tensor([1.0, 4.0, 1.0]))
    assert weighed.item() == pytest.approx((each * torch.tensor([1.0, 4.0, 4.0, 1.0])).mean().item())
    halves = [rows_of(labels).batch(range(2)) for labels in ([0, 1], [1, 0])]
    parts = [task_loss(scores[2 * i : 2 * i + 2], half, torch.tensor([1.0, 4.0, 1.0])) for i, half in enumerate(halves)]
    assert torch.stack(parts).mean().item() == pytest.approx(weighed.item()), "micro-batches change the loss"
    assert task_loss(scores, batch, torch.ones(3)).item() == pytest.approx(task_loss(scores, batch).item())


def test_a_weight_multiplies_the_loss_of_words():
    batch = replace(
        rows_of([-1, -1]).batch(range(2)),
        word_BS=torch.tensor([[0, 1], [0, -1]]),
        tag_BS=torch.tensor([[0, 1], [1, -1]]),
    )
    scores = torch.zeros(2, 2, 3)
    weighed = task_loss(scores, batch, torch.tensor([1.0, 4.0, 1.0]))
    assert weighed.item() == pytest.approx(np.log(3) * (1 + 4 + 4) / 3)


def test_the_mean_of_single_losses_is_the_loss():
    scores = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    batch = rows_of([0, 1, 1, 0]).batch(range(4))
    assert np.mean(example_losses(scores, batch)) == pytest.approx(task_loss(scores, batch).item())
    values = replace(batch, value_B=torch.tensor([0.0, 0.5, 1.0, 0.2]))
    assert np.mean(example_losses(scores[:, :1], values)) == pytest.approx(task_loss(scores[:, :1], values).item())
