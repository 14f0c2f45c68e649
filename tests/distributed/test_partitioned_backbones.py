"""A backbone whose weights are parted over the ranks (ZeRO-3) gives what a whole one gives, at every way in."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from infoprompt.config import ConfigError, build_config
from infoprompt.data.batch import Batch
from infoprompt.engine import deepspeed_config
from infoprompt.engine.engine import build_engine, gathered, partitioned_loading
from infoprompt.engine.ranks import start_ranks, stop_ranks
from infoprompt.model.backbone.load import Backbone, load_backbone
from infoprompt.model.backbone.row_reads import own_parameter
from infoprompt.model.insert import insert_prompt, pool
from infoprompt.model.prompts.kind import DeepPrompt
from infoprompt.model.shared import SharedModel
from infoprompt.objective.encoding import Encoding
from infoprompt.ranks import Ranks

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(1200)]  # several starts, on a busy machine

FAMILIES = ["bert", "gemma", "t5"]
LABELS = [[40], [33, 51, 62], [33, 47]]
# float32 sums in another order, through AdamW's division by the root of small second moments
CLOSE = {"rtol": 1e-3, "atol": 1e-5}


class EveryPlace(nn.Module):
    """Trained vectors at the input, a prefix, and vectors at a layer; scores by the model's own words."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
        shape = (backbone.num_layers, 2, 1, backbone.num_kv_heads, 3, backbone.head_size)
        self.vectors = nn.Parameter(draw(1, 1, backbone.embedding_size))
        self.prefix = nn.Parameter(draw(*shape))
        self.layer = nn.Parameter(draw(1, 1, backbone.hidden_size))
        self.words_read = -1

    def forward(self, batch: Batch) -> Encoding:
        backbone, size = self.backbone, len(batch)
        table = own_parameter(backbone.body.get_input_embeddings(), "weight")
        prefix = tuple((keys, values) for keys, values in self.prefix)
        deep = DeepPrompt(prefix, layers={1: lambda states, batch: self.layer.expand(size, -1, -1)}, adds=True)
        vectors = self.vectors.expand(size, -1, -1)
        embeddings = insert_prompt(backbone.embed(batch.input_ids_BL), vectors, batch.slot_BL)
        if backbone.kind == "encoder":
            pooled = pool(backbone(embeddings, batch, deep), batch, "first")
            scores = backbone.word_scores(pooled, [ids[-1] for ids in LABELS])
            self.words_read = table.numel()
            return Encoding(scores, pooled)
        scores, states = backbone.score_texts(embeddings, batch, LABELS, deep)
        return Encoding(scores, pool(states, batch, "last"))


def batch_of(seed: int) -> Batch:
    ids = torch.randint(30, 60, (2, 7), generator=torch.Generator().manual_seed(seed))
    slots = torch.full_like(ids, -1)
    slots[:, 3] = 0
    real = slots < 0
    real[1, 5:] = False
    none = torch.zeros(2, dtype=torch.long)
    positions = (real.cumsum(1) - 1).clamp(min=0)
    return Batch(ids, slots, real, positions, torch.zeros_like(ids), none, none + seed, none)


def curve(folder: str, kind: str, stage: int, **engine: Any) -> tuple[list[float], Tensor, str, int]:
    config = build_config(
        {
            "backbone": {"name": folder, "gradient_checkpointing": True},
            "data": {"batch_size": 4, "micro_batch_size": 2},
            "optim": {"lr": 0.05},
            "engine": {"kind": kind, "zero_stage": stage, "device": "cpu", "timeout_seconds": 120, **engine},
        }
    )
    ranks: Ranks = start_ranks(config.engine)
    with partitioned_loading(config, ranks):
        backbone = load_backbone(config.backbone, ranks.device, gathered, lm_head=True)
    held = sum(parameter.numel() for parameter in backbone.parameters())
    table, fingerprint = backbone.embedding_table(), backbone.fingerprint()
    ids = [5, 0, len(table) - 1, 5]
    assert torch.equal(backbone.embedding_rows(ids), table[ids])
    model = EveryPlace(backbone)
    engine = build_engine(SharedModel([model]), [config], ranks)
    losses = []
    for _ in range(3):
        batch = batch_of(ranks.rank)
        engine.infer({0: batch})
        loss = nn.functional.cross_entropy(engine.forward({0: batch})[0].logits_BC, batch.label_B)
        engine.step({0: loss})
        losses.append(ranks.mean({"loss": loss.item()})["loss"])
    engine.close()
    stop_ranks()
    if stage == 3 and backbone.kind == "encoder":
        assert model.words_read == 0, "the table of words, which is the output's too, was made whole"
    return losses, table, fingerprint, held


def run_family(folder: str) -> dict[str, Any]:
    deepspeed_config.PERSISTENCE_NUMEL = 0
    return {kind: curve(folder, kind, stage) for kind, stage in (("plain", 0), ("deepspeed", 3))}


def run_families(folders: list[str]) -> list[dict[str, Any]]:
    return [run_family(folder) for folder in folders]


def test_a_backbone_in_parts_gives_what_a_whole_one_gives(run_distributed, tiny_backbones):
    folders = [tiny_backbones[family] for family in FAMILIES]
    for families in run_distributed(__file__, "run_families", folders):
        for family, results in zip(FAMILIES, families, strict=True):
            losses, table, fingerprint, _ = results["plain"]
            same_losses, same_table, same_fingerprint, held = results["deepspeed"]
            assert held == 0, "no weight is whole outside a gathered context"
            assert fingerprint == same_fingerprint
            assert torch.equal(table, same_table)
            assert losses[0] > losses[-1], family
            torch.testing.assert_close(
                same_losses, losses, **CLOSE, msg=lambda text, family=family: f"{family}: {text}"
            )


def run_offloaded(folder: str, engine: dict[str, Any]) -> tuple[list[float], Tensor, str, int]:
    deepspeed_config.PERSISTENCE_NUMEL = 0
    return curve(folder, "deepspeed", 3, **engine)


def test_parts_that_are_offloaded_give_the_same(run_distributed, tiny_backbones):
    plain = run_distributed(__file__, "run_offloaded", tiny_backbones["bert"], {})
    offloaded = run_distributed(__file__, "run_offloaded", tiny_backbones["bert"], {"offload": "cpu"})
    for one, other in zip(plain, offloaded, strict=True):
        assert one[0] == other[0], "losses"
        assert torch.equal(one[1], other[1]), "tables"
        assert one[2] == other[2], "fingerprints"


def test_offloading_without_parts_is_refused():
    with pytest.raises(ConfigError, match=r"engine\.offload is cpu, but .*engine\.zero_stage is 2.*zero_stage=3"):
        build_config({"engine": {"zero_stage": 2, "offload": "cpu"}})
