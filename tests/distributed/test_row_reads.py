"""Rows of a matrix in parts are those of the whole one, whatever each rank asks for, also rows that two ranks share."""

import pytest
import torch
from torch import nn

from infoprompt.config import build_config
from infoprompt.engine.engine import partitioned_loading
from infoprompt.engine.ranks import start_ranks, stop_ranks
from infoprompt.model.backbone.in_parts import PARTITIONS
from infoprompt.model.backbone.row_reads import embedded, read_by_row, rows_of

pytestmark = pytest.mark.distributed

ROWS, WIDTH, RANKS = 5, 7, 3  # 35 numbers in parts of 12: the second and the fourth row are cut


class Scaled(nn.Embedding):
    """As Gemma's and BART's."""

    def forward(self, ids):
        return super().forward(ids) * 3.7


def read(dtype):
    engine = {"kind": "deepspeed", "zero_stage": 3, "device": "cpu", "timeout_seconds": 120}
    config = build_config({"engine": engine, "data": {"batch_size": RANKS}})
    ranks = start_ranks(config.engine)
    table_VE = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype)
    table_VE[0, 0] = -0.0
    whole, parted = (Scaled(ROWS, WIDTH, padding_idx=1, _weight=table_VE.clone(), _freeze=True) for _ in range(2))
    assert not read_by_row(parted.weight)
    with partitioned_loading(config, ranks):
        PARTITIONS.get().part(parted.weight)
    assert read_by_row(parted.weight)
    assert parted.weight.numel() == 0
    found = []
    for ids in ([0, 1, 2, 3, 4], [4, 4, 1], [2], []):
        rows = rows_of(parted.weight, torch.tensor(ids, dtype=torch.long))
        found.append(torch.equal(rows.view(torch.uint8), table_VE[ids].view(torch.uint8)))
    for shape in ((2, 4), (1, 1), (4,)):
        ids = torch.randint(0, ROWS, shape, generator=torch.Generator().manual_seed(ranks.rank))
        found.append(torch.equal(embedded(parted, ids), whole(ids)))
    stop_ranks()
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_a_matrix_in_parts_are_those_of_the_whole(run_distributed, dtype):
    for found in run_distributed(__file__, "read", dtype, world_size=RANKS, seconds=180):
        assert found == [True] * 7
