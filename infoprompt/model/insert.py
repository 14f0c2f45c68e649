"""Putting the prompt into the input, and reading states of real tokens out of the output.

Letters: B examples, L positions, P prompt vectors, E embedding width, D hidden width.
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
    """One state per example, [B, D], float32: the `mask` token's, the `first` token's, or the `mean` of real tokens."""
    states_BLD = states_BLD.float()
    if pooling == "mean":
        weight_BL1 = batch.real_BL.unsqueeze(-1).to(states_BLD.dtype)
        return (states_BLD * weight_BL1).sum(1) / weight_BL1.sum(1)
    if pooling == "first":
        return states_BLD[:, 0]
    return states_BLD[torch.arange(len(batch), device=states_BLD.device), batch.mask_index_B]
