"""Whole texts scored by a frozen language-model head, whose logits are never held."""

import pytest
import torch

from infoprompt.config import BackboneSettings
from infoprompt.data.batch import Batch
from infoprompt.model.backbone.load import load_backbone
from infoprompt.model.insert import insert_prompt

LABELS = [[40], [33, 51, 62], [33, 47]]


def batch():
    ids = torch.randint(30, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    slots = torch.full_like(ids, -1)
    slots[:, 3] = 0
    positions = ((slots < 0).cumsum(1) - 1).clamp(min=0)
    none = torch.zeros(2, dtype=torch.long)
    return Batch(ids, slots, slots < 0, positions, torch.zeros_like(ids), none, none, none)


def scores(backbone):
    """Log-probabilities of the labels, and the prompt vector that they depend on."""
    examples = batch()
    vector = torch.linspace(-1, 1, backbone.embedding_size).requires_grad_()
    embeddings = insert_prompt(backbone.embed(examples.input_ids_BL), vector.expand(2, 1, -1), examples.slot_BL)
    return backbone.score_texts(embeddings, examples, LABELS)[0], vector


# Gemma 2 caps its logits, BART adds a bias of its own, T5 scales its states.
@pytest.mark.parametrize("name", ["gemma2", "bart", "t5"])
def test_a_frozen_head_scores_as_a_trained_one_and_keeps_no_logits(tiny_backbones, name):
    results = []
    for frozen in (True, False):
        backbone = load_backbone(BackboneSettings(name=tiny_backbones[name], frozen=frozen), lm_head=True).eval()
        if name == "bart":
            backbone.model.final_logits_bias.copy_(torch.linspace(-2, 2, backbone.config.vocab_size))
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x) or x, lambda x: x):
            scores_BC, vector = scores(backbone)
        words = backbone.config.vocab_size
        assert frozen != any(words in tensor.shape for tensor in kept)
        gradient = torch.autograd.grad((scores_BC * torch.arange(6).view(2, 3)).sum(), vector)[0]
        results.append((scores_BC, gradient))
    # float32 sums in another order, through a few layers
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
