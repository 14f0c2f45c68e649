"""Small networks between looked-up table rows and prompt vectors, and the folder that pretraining leaves.

Letters: B examples, F features, P prompt vectors, V vocabulary, W width of a table row.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from infoprompt.config import ConfigError, PromptSettings

TABLE_FILE = "table.safetensors"


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


def save_table(folder: Path, table_VW: Tensor, encoder: TableEncoder, name: str) -> None:
    """Write a pretrained table with its encoder."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"encoder.{key}": value.detach().contiguous() for key, value in encoder.state_dict().items()}
    save_file({"table": table_VW.detach().contiguous(), **tensors}, folder / TABLE_FILE)
    (folder / "table.json").write_text(json.dumps({"encoder": name, "shape": list(table_VW.shape)}, indent=1))


def load_table(settings: PromptSettings, encoder: TableEncoder | None, shape: tuple[int, int]) -> Tensor:
    """The table in the folder `prompt.table`; sets the encoder's weights where both have the same one.

    Raises:
        ConfigError: there is none, or it was made for another backbone, prompt mode or encoder.
    """
    folder = Path(settings.table or "").expanduser()
    if not (folder / TABLE_FILE).is_file():
        raise ConfigError(
            f"prompt.table is {settings.table}, but there is no {folder.absolute() / TABLE_FILE}. Make one with "
            "`infoprompt pretrain`, or leave prompt.table out for a random table."
        )
    tensors = load_file(folder / TABLE_FILE)
    table_VW = tensors.pop("table")
    if tuple(table_VW.shape) != shape:
        raise ConfigError(
            f"prompt.table is {settings.table}, whose table has the shape {list(table_VW.shape)}, but this backbone and "
            f"prompt.mode={settings.mode} need {list(shape)}. Run `infoprompt pretrain` with the same settings."
        )
    if encoder is None:
        return table_VW
    state = {key.removeprefix("encoder."): value for key, value in tensors.items()}
    needed = {key: tuple(value.shape) for key, value in encoder.state_dict().items()}
    if {key: tuple(value.shape) for key, value in state.items()} != needed:
        raise ConfigError(
            f"prompt.table is {settings.table}, whose encoder does not fit prompt.encoder={settings.encoder} with "
            f"prompt.length={settings.length}. Run `infoprompt pretrain` with the same settings."
        )
    encoder.load_state_dict(state)
    return table_VW
