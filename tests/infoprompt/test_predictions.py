"""From scores to predictions, and the loss of every kind of task."""

from dataclasses import replace

import pytest
import torch

from infoprompt.data.batch import Batch
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.encoded import EncodedText, EncodedTexts
from infoprompt.data.ragged import Ragged
from infoprompt.data.rows import Candidate
from infoprompt.data.task import Task
from infoprompt.objective.task import task_loss
from infoprompt.predictions import as_array, compared, completed, predicted, targets

CLASSES = Task("c", ("a", "b"), ("a", "b"), ("accuracy",), "single")
TAGS = Task("t", ("B-x", "O"), ("x", "o"), ("entity_f1",), "tags")
ANSWERS = Task("a", ("false", "true"), ("no", "yes"), ("answer_f1",), "answer")
VALUES = Task("v", (), (), ("pearson",), "regression", (1.0, 5.0))


def batch(count: int = 2, **fields) -> Batch:
    texts = EncodedTexts.of([EncodedText([7] * 3, [-1] * 3, [0] * 3, 0, False)] * count)
    return replace(EncodedDataset(texts, [0, 1, 1, 0][:count], pad_id=0).batch(range(count)), **fields)


def test_equal_scores_cost_the_log_of_the_number_of_classes():
    assert task_loss(torch.zeros(2, 5), batch()).item() == pytest.approx(torch.log(torch.tensor(5.0)).item())


def test_choices_are_compared_with_one_label_each():
    choices = batch(4, num_choices=2, label_B=torch.tensor([1, 1, 0, 0]))
    right = torch.tensor([[-9.0, 9.0], [9.0, -9.0]])
    assert task_loss(right, choices).item() < 1e-6
    assert task_loss(-right, choices).item() == pytest.approx(18, rel=1e-3)


def test_words_without_a_known_tag_cost_nothing():
    tags = batch(word_BS=torch.tensor([[0, 1], [0, -1]]), tag_BS=torch.tensor([[0, -1], [1, -1]]))
    scores = torch.zeros(2, 2, 2)
    scores[:, 1] = torch.tensor([50.0, -50.0])  # nowhere a known tag
    assert task_loss(scores, tags).item() == pytest.approx(torch.log(torch.tensor(2.0)).item())
    unknown = replace(tags, tag_BS=torch.full((2, 2), -1))
    leaf = scores.clone().requires_grad_()
    loss = task_loss(leaf, unknown)
    loss.backward()
    assert loss.item() == 0
    assert (leaf.grad == 0).all()


def test_a_regression_costs_its_squared_error():
    assert task_loss(torch.tensor([[0.5], [1.0]]), batch(value_B=torch.tensor([0.0, 1.0]))).item() == 0.125


def test_predictions_come_back_in_the_tasks_own_terms():
    scores = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
    assert predicted(scores, batch(), CLASSES) == [1, 0]
    assert predicted(torch.tensor([[0.25], [1.0]]), batch(), VALUES) == [2.0, 5.0]
    words = batch(word_BS=torch.tensor([[0, 1], [2, -1]]))
    assert predicted(torch.stack([scores, scores]), words, TAGS) == [[1, 0], [1]]


def test_the_best_scored_candidate_answers_its_question():
    candidates = [
        Candidate(question, text, right)
        for question, text, right in (
            ("q", "Ann", ("Bob",)),
            ("r", "Ann", ("Ann", "Ann Lee")),
            ("q", "Bob", ("Bob",)),
            ("r", "Cem", ("Ann", "Ann Lee")),
        )
    ]
    scores = predicted(torch.tensor([[0.0, 1.0], [2.0, 0.0], [9.0, 9.5], [1.0, -1.0]]), batch(4), ANSWERS)
    assert scores == [1.0, -2.0, 0.5, -2.0]
    texts = EncodedTexts.of([EncodedText([7], [-1], [0], 0, False)] * 4)
    rows = EncodedDataset(texts, [0, 1, 1, 0], 0, candidates=candidates)
    labels, answers = compared(rows, ANSWERS, scores)
    assert labels.tolist() == [["Bob"], ["Ann", "Ann Lee"]]
    assert answers.tolist() == ["Ann", "Ann"]  # of equally good ones, the first
    assert compared(replace(rows, candidates=None), CLASSES, [1, 1, 0, 0])[0].tolist() == [0, 1, 1, 0]


def test_words_that_were_cut_off_count_as_outside():
    assert completed([0], [0, 0, 1], TAGS) == [0, 1, 1]
    assert completed(1, 0, CLASSES) == 1


def test_targets_are_those_of_the_rows():
    texts = EncodedTexts.of([EncodedText([7], [-1], [0], 0, False)] * 2)
    assert targets(EncodedDataset(texts, [1, 0], 0), CLASSES) == [1, 0]
    assert targets(EncodedDataset(texts, [-1, -1], 0, tags=Ragged.of([[0, 1], [1]])), TAGS) == [[0, 1], [1]]
    assert targets(EncodedDataset(texts, [-1, -1], 0, values=[0.0, 0.5]), VALUES) == [1.0, 3.0]


def test_lists_of_equal_length_stay_lists():
    array = as_array([[0, 1], [1, 0]])
    assert array.shape == (2,)
    assert array.tolist() == [[0, 1], [1, 0]]
