"""Putting the prompt into the input, and reading states of real tokens out of the output.

Shapes: B examples, L positions, P prompt vectors, E embedding width, D hidden width, S words.
"""

import torch
from torch import Tensor

from infoprompt.data.batch import Batch


def insert_prompt(embeddings_BLE: Tensor, prompt_BPE: Tensor, slot_BL: Tensor) -> Tensor:
    """Word embeddings with the prompt's vectors at its slots, [B, L, E], in the embeddings' dtype.

    Args:
        embeddings_BLE: word embeddings.
        prompt_BPE: prompt vectors of each example.
        slot_BL: index of the prompt vector at a position, -1 where there is none.
    """
    index_BLE = slot_BL.clamp(min=0).unsqueeze(-1).expand(-1, -1, embeddings_BLE.shape[-1])
    vectors_BLE = prompt_BPE.to(embeddings_BLE.dtype).gather(1, index_BLE)
    return torch.where((slot_BL >= 0).unsqueeze(-1), vectors_BLE, embeddings_BLE)


def pool(states_BLD: Tensor, batch: Batch, pooling: str) -> Tensor:
    """One state per example, float32, [B, D]; of real tokens alone, wherever the padding is.

    Args:
        states_BLD: states of all positions.
        batch: what they are the states of.
        pooling: the `mask` token's, the `first` or the `last` real token's, the `mean` over real tokens, or both
            `entities`' markers side by side, [B, 2D]. In a text without entities, such as a label's, the mean stands
            for both.
    """
    states_BLD = states_BLD.float()
    if pooling == "entities" and batch.marked_B2 is None:
        return pool(states_BLD, batch, "mean").repeat(1, 2)
    if pooling == "mean":
        weight_BL1 = batch.real_BL.unsqueeze(-1).to(states_BLD.dtype)
        return (states_BLD * weight_BL1).sum(1) / weight_BL1.sum(1)
    return _at(states_BLD, _index(batch, pooling)).flatten(1)


def pooled_BL(batch: Batch, pooling: str) -> Tensor:
    """Which positions `pool` reads, bool."""
    if pooling == "mean" or (pooling == "entities" and batch.marked_B2 is None):
        return batch.real_BL
    return torch.zeros_like(batch.real_BL).scatter(1, _index(batch, pooling), value=True)


def _index(batch: Batch, pooling: str) -> Tensor:
    """Positions to read, [B, 1], or [B, 2] for entities."""
    real_BL = batch.real_BL.long()
    if pooling == "first":
        return real_BL.argmax(1, keepdim=True)
    if pooling == "last":
        return real_BL.shape[1] - 1 - real_BL.flip(1).argmax(1, keepdim=True)
    if pooling == "entities" and batch.marked_B2 is not None:
        return batch.marked_B2
    assert pooling == "mask", pooling
    return batch.mask_index_B.unsqueeze(1)


def _at(states_BLD: Tensor, index_BS: Tensor) -> Tensor:
    return states_BLD.gather(1, index_BS.unsqueeze(-1).expand(-1, -1, states_BLD.shape[-1]))
