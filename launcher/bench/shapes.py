"""Backbones of random weights in the shape of large ones, which need no download."""

import string
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

SHAPES: dict[str, dict[str, Any]] = {
    "roberta-large-shape": {
        "class": "Roberta",
        "vocab_size": 50265,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "max_position_embeddings": 514,
    },
    # 8 of its 32 layers: they are alike, so neither the share of the card's rate nor that of the host changes
    "llama-8b-shape": {
        "class": "Llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "num_hidden_layers": 8,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
    },
}
NOTES = {"roberta-large-shape": "random weights", "llama-8b-shape": "random weights, 8 of 32 layers"}


@contextmanager
def backbone_folder(name: str) -> Iterator[str]:
    """`backbone.name` of a shape, whose folder is there within; of any other name, itself."""
    if name not in SHAPES:
        yield name
        return
    with TemporaryDirectory(prefix="infoprompt-") as folder:
        write_shape(SHAPES[name], Path(folder))
        yield folder


def write_shape(shape: dict[str, Any], folder: Path) -> None:
    """Save a model of random weights in bfloat16, and a tokenizer of words, as `save_pretrained` does."""
    import transformers

    words = [first + last for first in string.ascii_lowercase for last in ("ad", "en", "ip", "or", "ut", "ale", "ine")]
    letters = list(string.ascii_lowercase)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *words, *[f"##{each}" for each in letters]]
    tokenizer = transformers.BertTokenizerFast(vocab={token: index for index, token in enumerate(vocabulary)})
    sizes = {key: value for key, value in shape.items() if key != "class"}
    config = getattr(transformers, f"{shape['class']}Config")(**sizes, pad_token_id=0, bos_token_id=2, eos_token_id=3)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    with torch.device(device):
        model: nn.Module = getattr(transformers, f"{shape['class']}Model")._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)
