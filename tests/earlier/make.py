"""Makes the backbone and the data of the examples that an earlier version left: `artifact` and `state`.

Every weight is a quotient of whole numbers, so that the backbone is the same on every machine.

The examples are of commit 272b991, whose artifacts and resume states have no fields beyond those of format 1.
"""

import json
from pathlib import Path
from typing import Any

import torch

WORDS = "the a film movie was good bad great awful it and they car".split()


def make_backbone(folder: Path) -> str:
    """A BERT of two layers, 16 wide."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokens), max_position_embeddings=32, **size))
    with torch.no_grad():
        for number, (name, parameter) in enumerate(sorted(model.named_parameters())):
            steps = torch.arange(parameter.numel(), dtype=torch.int64) * 7919 + number * 104729
            values = (steps % 2003 - 1001).double() / 4096
            parameter.copy_((values + (1 if "LayerNorm.weight" in name else 0)).view_as(parameter))
    model.save_pretrained(folder)
    BertTokenizerFast(vocab={token: index for index, token in enumerate(tokens)}).save_pretrained(folder)
    return str(folder)


def make_data(folder: Path) -> dict[str, str]:
    """Files of 24 training, 8 held-out and 8 test rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 24), ("validation", 8), ("test", 8)):
        rows = [
            {
                "text": f"the {('film', 'movie', 'car')[row % 3]} was {('good', 'bad', 'great', 'awful')[row % 4]}",
                "label": ("good", "bad")[row % 2],
            }
            for row in range(count)
        ]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {part: str(folder / f"{part}.jsonl") for part in ("train", "validation", "test")}


def settings(folder: Path) -> dict[str, Any]:
    """Nested settings of the run that left the examples, in `folder`."""
    return {
        "backbone": {"name": make_backbone(folder / "backbone")},
        "data": {**make_data(folder / "data"), "batch_size": 8},
        "prompt": {"kind": "static", "length": 2, "init": "random"},
        "objective": {"head_weight": 0, "representation_weight": 0},
        "optim": {"lr": 1e-2, "epochs": 4},
        "checkpoint": {"keep": 1},
        "engine": {"kind": "plain"},
        "tracking": {"enabled": False, "every_steps": 1},
        "run": {"output_dir": str(folder / "run")},
    }
