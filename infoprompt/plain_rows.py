"""The rows of a run with the states of their plain texts: without a prompt, made when they are first asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor

from infoprompt.data.dataset import EncodedDataset
from infoprompt.model.unprompted import text_states, with_unprompted_states
from infoprompt.setup import Setup


@dataclass
class PlainRows:
    """The data sets with the states of their plain texts, each made when it is first asked for."""

    setup: Setup
    rows: Mapping[str, EncodedDataset]
    key: str
    labels: EncodedDataset
    """The label texts."""
    _filled: dict[str, EncodedDataset] = field(default_factory=dict)

    def __getitem__(self, name: str) -> EncodedDataset:
        if name not in self._filled:
            setup = self.setup
            self._filled[name] = with_unprompted_states(
                self.rows[name],
                setup.infer,
                setup.ranks,
                backbone_key=self.key,
                batch_size=setup.config.evaluation.batch_size,
            )
        return self._filled[name]

    @cached_property
    def label_states(self) -> Tensor:
        """Pooled states of the label texts, [C, D]; every rank takes part."""
        setup = self.setup
        return text_states(self.labels, setup.infer, setup.ranks, setup.config.evaluation.batch_size)

    def states_of(self, name: str, part: EncodedDataset) -> EncodedDataset:
        """The same rows with other fields, and with these states."""
        return replace(part, summary_MD=self[name].summary_MD, pooled_MD=self[name].pooled_MD)
