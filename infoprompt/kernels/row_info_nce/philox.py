"""Standard normal draws that are a pure function of seed, offset, row and column, in torch on any device.

So they can be made again instead of being kept, are the same however the work is cut into parts, and are those of the
Triton kernel to float rounding. Source of the generator: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
3" (Philox-4x32-10). Letters: B rows, K columns, Q groups of four columns.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
"""The largest 32-bit word; torch has no unsigned arithmetic, so words stand in int64."""


def philox_4x32_10(counter: Sequence[Tensor], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four random 32-bit words for each counter.

    Args:
        counter: four words, int64 in [0, 2**32), of shapes that broadcast.
        key: two words.
    Returns:
        Four words, int64 in [0, 2**32).
    """
    (word0, word1, word2, word3), (key0, key1) = counter, key
    for _ in range(10):
        # products of two words wrap around at 64 bits, which leaves all of their bits in place
        first, second = word0 * 0xD2511F53, word2 * 0xCD9E8D57
        word0, word1 = ((second >> 32) & WORD) ^ (word1 ^ key0), second & WORD
        word2, word3 = ((first >> 32) & WORD) ^ (word3 ^ key1), first & WORD
        key0, key1 = (key0 + 0x9E3779B9) & WORD, (key1 + 0xBB67AE85) & WORD
    return word0, word1, word2, word3


def gaussian_draws(
    seed: int, offset: int, rows: range, columns: range, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Standard normal draws, [B, K].

    Column k of row i is draw k % 4 of the counter (k // 4, i, offset), of which the words are, from the first on, two
    pairs (a, b) that Box and Muller's transform turns into two draws each:

        sqrt(-2 log u(a)) cos(2 pi (u(b) - 1/2)),  the same with sin,  u(x) = ((x >> 9) + 1/2) / 2^23

    u is exact in float32, so that every dtype has the same uniform draws. No draw is larger than 5.8.

    Args:
        seed, offset: from 0, below 2^63.
        rows: consecutive, [B], below 2^32.
        columns: consecutive, [K], below 2^34.
    """
    first, last = columns.start // 4, -(-columns.stop // 4)
    group_1Q = torch.arange(first, last, device=device).unsqueeze(0)
    row_B1 = torch.arange(rows.start, rows.stop, device=device).unsqueeze(1)
    low, high = (torch.full((), word, dtype=torch.int64, device=device) for word in (offset & WORD, offset >> 32))
    words_BQ = philox_4x32_10((group_1Q, row_B1, low, high), (seed & WORD, seed >> 32))
    uniform_BQ = [((word_BQ >> 9).to(dtype) + 0.5) * 2.0**-23 for word_BQ in words_BQ]
    draws_BQ = []
    for i in (0, 2):
        radius_BQ = (-2 * uniform_BQ[i].log()).sqrt()
        angle_BQ = 2 * math.pi * (uniform_BQ[i + 1] - 0.5)
        draws_BQ += [radius_BQ * angle_BQ.cos(), radius_BQ * angle_BQ.sin()]
    start = columns.start - 4 * first
    return torch.stack(draws_BQ, 2).flatten(1)[:, start : start + len(columns)]
