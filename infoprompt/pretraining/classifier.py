"""The classifier in which a table of instance-wise prompts is pretrained, and its optimiser.

Shapes: B examples, C classes, P prompt vectors (looked up), V vocabulary, W width of a table row.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprompt.config import OptimSettings
from infoprompt.model.prompt_table import TableEncoder


class TableClassifier(nn.Module):
    """Token ids -> rows of the table -> features -> scores of the classes."""

    def __init__(self, table_VW: Tensor, encoder: TableEncoder, num_classes: int) -> None:
        super().__init__()
        self.table_VW = nn.Parameter(table_VW)
        self.encoder = encoder
        self.encoder.up.requires_grad_(False)
        self.head = nn.Linear(encoder.up.in_features, num_classes)

    def forward(self, ids_BP: Tensor) -> Tensor:
        """Scores, [B, C]."""
        # sparse: a dense step would read and write the whole table for the few rows of a batch
        rows_BPW = F.embedding(ids_BP, self.table_VW, sparse=True)
        logits_BC: Tensor = self.head(self.encoder.features(rows_BPW))
        return logits_BC

    def trained(self) -> dict[str, nn.Parameter]:
        """What is trained: all but the encoder's last layer."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def beside_table(self) -> list[nn.Parameter]:
        """What is trained but for the table."""
        return [parameter for name, parameter in self.trained().items() if name != "table_VW"]

    def trained_state(self) -> dict[str, Tensor]:
        """A copy of what is trained."""
        return {name: parameter.detach().clone() for name, parameter in self.trained().items()}

    @torch.no_grad()
    def load_trained(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `trained_state`."""
        for name, parameter in self.trained().items():
            parameter.copy_(state[name])


class TableOptimizer:
    """AdamW for the encoder and the linear layer, and its sparse form for the table.

    A row of the table, its moments included, changes only in updates whose batch has its token, and has no weight
    decay. So at the same rate a rare token moves as far at each of its appearances as a frequent one, and a token that
    never appears keeps its start.
    """

    def __init__(self, model: TableClassifier, optim: OptimSettings) -> None:
        self.model = model
        self.max_grad_norm = optim.max_grad_norm
        self.table = torch.optim.SparseAdam([model.table_VW], lr=optim.lr, betas=optim.betas, eps=optim.eps)
        self.rest = torch.optim.AdamW(
            model.beside_table(), lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay
        )

    def step(self, loss: Tensor, lr: float) -> None:
        """One update; `optim.max_grad_norm` is that of all gradients together."""
        for optimizer in (self.table, self.rest):
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = lr
        loss.backward()
        self._clip()
        self.table.step()
        self.rest.step()

    def _clip(self) -> None:
        table_VW = self.model.table_VW
        assert table_VW.grad is not None
        table_VW.grad = table_VW.grad.coalesce()
        if not self.max_grad_norm:
            return
        gradients = [table_VW.grad.values(), *(p.grad for p in self.model.beside_table() if p.grad is not None)]
        norm = torch.nn.utils.get_total_norm(gradients)
        for gradient in gradients:
            gradient.mul_((self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
