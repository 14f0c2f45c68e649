"""Small networks between looked-up table rows and prompt vectors, and the folder that pretraining leaves.

Shapes: B examples, F features, P prompt vectors, V vocabulary, W width of a table row.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn import functional as F

from infoprompt.config import ConfigError
from infoprompt.files import heal, read_object, whole_folder
from infoprompt.nested import get_nested
from infoprompt.settings.prompt import IptSettings
from infoprompt.tensor_file import read_tensors, save_tensors, unfit

TABLE_FILE = "table.safetensors"
CARD_FILE = "table.json"
FORMAT_VERSION = 1


class TableEncoder(nn.Module):
    """Looked-up rows -> features -> all prompt vectors at once. Source: IPT (arXiv:2206.01958), released code."""

    def __init__(self, num_features: int, length: int, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(num_features, length * width)
        self.shape_PW = (length, width)

    def features(self, rows_BPW: Tensor) -> Tensor:
        """One vector per example, [B, F]."""
        raise NotImplementedError

    def forward(self, rows_BPW: Tensor) -> Tensor:
        """Prompt vectors, [B, P, W]."""
        vectors_BPW: Tensor = self.up(self.features(rows_BPW)).unflatten(1, self.shape_PW)
        return vectors_BPW


class ConvolutionEncoder(TableEncoder):
    """One convolution channel for each of the sizes 3, 4 and 5, ReLU, the maximum over positions: three features."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__(3, length, width)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, 1, size, padding=size - 1) for size in (3, 4, 5))

    def features(self, rows_BPW: Tensor) -> Tensor:
        """One vector per example, [B, 3]."""
        rows_BWP = rows_BPW.transpose(1, 2)
        return torch.cat([F.relu(convolution(rows_BWP)).amax(2) for convolution in self.convolutions], dim=1)


class RecurrentEncoder(TableEncoder):
    """Two bidirectional LSTM layers of 64 each way; the last state of both directions."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__(128, length, width)
        self.lstm = nn.LSTM(width, 64, num_layers=2, bidirectional=True, batch_first=True)

    def features(self, rows_BPW: Tensor) -> Tensor:
        """One vector per example, [B, 128]."""
        _, (last_4BF, _) = self.lstm(rows_BPW)
        return torch.cat([last_4BF[-2], last_4BF[-1]], dim=1)


class FeedForwardEncoder(TableEncoder):
    """The mean row, a linear layer, ReLU and dropout."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__(width, length, width)
        self.dropout = nn.Dropout(0.5)

    def features(self, rows_BPW: Tensor) -> Tensor:
        """One vector per example, [B, W]."""
        return rows_BPW.mean(1)

    def forward(self, rows_BPW: Tensor) -> Tensor:
        """Prompt vectors, [B, P, W]."""
        made: Tensor = self.dropout(F.relu(self.up(self.features(rows_BPW))))
        return made.unflatten(1, self.shape_PW)


ENCODERS: dict[str, type[ConvolutionEncoder] | type[RecurrentEncoder] | type[FeedForwardEncoder]] = {
    "cnn": ConvolutionEncoder,
    "rnn": RecurrentEncoder,
    "mlp": FeedForwardEncoder,
}


def build_encoder(name: str, width: int, length: int) -> TableEncoder | None:
    """The encoder of that name for rows of `width` and `length` prompt vectors; None for `none`."""
    return None if name == "none" else ENCODERS[name](width, length)


@dataclass(frozen=True)
class TableCard:
    """What a pretrained table fits, and where it comes from."""

    encoder: str
    """The encoder trained beside it."""
    mode: str
    """`prompt.mode`."""
    length: int
    """Tokens of each text that were looked up."""
    vocabulary: str
    """`vocabulary_hash` of the tokenizer whose ids are the table's rows."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """Data, backbone, scores and seed, for people."""


def vocabulary_hash(tokenizer: Any) -> str:
    """SHA-256 over every token and its id."""
    pairs = sorted(tokenizer.get_vocab().items(), key=lambda pair: (pair[1], pair[0]))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def claim_table_folder(name: str) -> Path:
    """The folder to write a table to, which can be written and holds nothing but an earlier table.

    Raises:
        ConfigError: it holds other files, or is one.
        OSError: it cannot be written.
    """
    folder = Path(name).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"prompt.table is {name}, but that is a file. Name a folder.")
    others = sorted({path.name for path in folder.glob("*")} - {TABLE_FILE, CARD_FILE})
    if others:
        raise ConfigError(
            f"prompt.table is {name}, but that folder holds other files ({', '.join(others[:3])}), which would be "
            "lost. Name a folder of its own."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    probe = folder.with_name(f".probe-{folder.name}")
    probe.mkdir(exist_ok=True)
    probe.rmdir()
    return folder


def save_table(folder: Path, table_VW: Tensor, encoder: TableEncoder, card: TableCard) -> None:
    """Write a table with the trained part of its encoder, whole or not at all; an earlier one is overwritten.

    The encoder's last layer, from features to prompt vectors, is left out: pretraining has no use for it.
    """
    state = {f"encoder.{key}": value for key, value in encoder.state_dict().items() if not key.startswith("up.")}
    tensors = {"table": table_VW, **state}
    values = {"format_version": FORMAT_VERSION, "shape": list(table_VW.shape), **asdict(card)}
    with whole_folder(folder) as new:
        save_tensors(new / TABLE_FILE, tensors)
        (new / CARD_FILE).write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")


def load_table(settings: IptSettings, encoder: TableEncoder | None, shape: tuple[int, int], tokenizer: Any) -> Tensor:
    """The table in the folder `prompt.table`; sets the encoder's weights to those trained beside it.

    Without an encoder any table of the right mode and vocabulary fits, whatever it was trained beside.

    Raises:
        ConfigError: there is none, or it was made for another vocabulary, prompt mode, encoder or length.
    """
    folder = Path(settings.table or "").expanduser()
    heal(folder)
    if not all((folder / name).is_file() for name in (TABLE_FILE, CARD_FILE)):
        raise ConfigError(
            f"prompt.table is {settings.table}, but {folder.absolute()} has no {TABLE_FILE} with a {CARD_FILE}. "
            "Make them with `infoprompt pretrain`, or leave prompt.table out for a random table."
        )
    card = _read_card(folder, settings)
    _check_fits(card, settings, encoder is not None, tokenizer)
    try:
        tensors = read_tensors(folder / TABLE_FILE)
    except ValueError as error:
        raise _unfit(settings, f"cannot be read: {error}") from None
    table_VW = tensors.pop("table", torch.empty(0))
    if tuple(table_VW.shape) != shape:
        raise _unfit(settings, f"has the shape {list(table_VW.shape)}, but this backbone needs {list(shape)}")
    problem = unfit({"table": table_VW}, {"table": torch.Size(shape)}, torch.float32)
    if encoder is not None:
        up = {key: value for key, value in encoder.state_dict().items() if key.startswith("up.")}
        own = {f"encoder.{key}": value.shape for key, value in encoder.state_dict().items() if key not in up}
        problem = problem or unfit(tensors, own, torch.float32)
    if problem is not None:
        raise _unfit(settings, problem)
    if encoder is not None:
        encoder.load_state_dict({**up, **{key.removeprefix("encoder."): value for key, value in tensors.items()}})
    return table_VW


def _read_card(folder: Path, settings: IptSettings) -> TableCard:
    try:
        values = read_object(folder / CARD_FILE)
        version = values.get("format_version")
        card = TableCard(**{key: values[key] for key in TableCard.__dataclass_fields__})
        TypeAdapter(TableCard).validate_python(asdict(card))
    except (ValueError, KeyError):
        raise _unfit(settings, f"has no readable {CARD_FILE}") from None
    if version != FORMAT_VERSION:
        raise _unfit(settings, f"has the format {version}, but this version reads {FORMAT_VERSION}")
    return card


def _check_fits(card: TableCard, settings: IptSettings, with_encoder: bool, tokenizer: Any) -> None:
    if card.vocabulary != vocabulary_hash(tokenizer):
        made_for = get_nested(card.origin, "backbone.name", "another backbone")
        raise _unfit(settings, f"has a row for each token of {made_for}, but this backbone has another vocabulary")
    if card.mode != settings.mode:
        raise _unfit(settings, f"was made for prompt.mode {card.mode}, but prompt.mode is {settings.mode}")
    if with_encoder and card.encoder != settings.encoder:
        raise _unfit(
            settings, f"was trained beside the encoder {card.encoder}, but prompt.encoder is {settings.encoder}"
        )
    if with_encoder and card.length != settings.length:
        raise _unfit(
            settings, f"has an encoder of the first {card.length} tokens, but prompt.length is {settings.length}"
        )


def _unfit(settings: IptSettings, reason: str) -> ConfigError:
    return ConfigError(
        f"prompt.table is {settings.table}, whose table {reason}. Run `infoprompt pretrain` with these settings, or "
        "name another folder."
    )
