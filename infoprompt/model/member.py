"""What one run trains around the backbone: prompt, head and information terms.

Shapes: B examples (or their choices), D hidden width, E embedding width, L positions.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from torch import Tensor, nn

from infoprompt.data.batch import Batch
from infoprompt.model.backbone.load import Backbone
from infoprompt.model.gaussian import GaussianLayer
from infoprompt.model.heads.kind import Head, Reading
from infoprompt.model.insert import pool, pooled_BL
from infoprompt.model.prompts.kind import Prompt, PromptParts
from infoprompt.model.shared import Pass, shared_pass
from infoprompt.objective.encoding import Encoding, Latent
from infoprompt.objective.head_information import HeadInformation
from infoprompt.objective.label_information import LabelInformation, StartAnchor
from infoprompt.objective.representation_information import RepresentationInformation


class Member(nn.Module):
    """Prompt, head and information terms of one run, over a backbone that others may share.

    The backbone is frozen unless the run fine-tunes it.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        pooling: str,
        *,
        prompt: Prompt | None = None,
        gaussian: GaussianLayer | None = None,
        head_information: HeadInformation | None = None,
        representation_information: RepresentationInformation | None = None,
        label_information: LabelInformation | None = None,
        start_anchor: StartAnchor | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.prompt = prompt
        self.gaussian = gaussian
        self.head = head
        self.head_information = head_information
        self.representation_information = representation_information
        self.label_information = label_information
        self.start_anchor = start_anchor
        self.drawing: Callable[[], AbstractContextManager[None]] | None = None
        """Where what dropout draws comes from in training; torch's own stream if None."""

    def draws(self) -> AbstractContextManager[None]:
        """Around what may draw random numbers: in training those of the run's own stream."""
        return self.drawing() if self.training and self.drawing is not None else nullcontext()

    def forward(self, batch: Batch) -> Encoding:
        """The member's batch alone in a pass, see `shared_pass`."""
        return shared_pass([self], [batch])[0]

    def make_prompt(self, batch: Batch) -> PromptParts:
        """The prompt of each example; none of the unprompted pass."""
        if self.prompt is None or batch.unprompted:
            return PromptParts()
        made: PromptParts = self.prompt(batch)
        return made

    def reads_BL(self, batch: Batch) -> Tensor:
        """Positions whose last states `read` looks at, bool."""
        read_BL = pooled_BL(batch, self.pooling)
        if batch.unprompted:
            read_BL = read_BL | pooled_BL(batch, self.backbone.summary)
        if batch.word_BS is not None:
            read_BL = read_BL.scatter(1, batch.word_BS.clamp(min=0), value=True)
        return read_BL

    def read(self, own: Pass) -> Encoding:
        """The encoding of a pass."""
        batch = own.batch
        pooled_BD = pool(own.states_BLD, batch, self.pooling)
        if batch.unprompted:
            summary_BD = pool(own.states_BLD, batch, self.backbone.summary)
            return Encoding(pooled_BD.new_zeros(len(batch), 1), pooled_BD, summary_BD=summary_BD)
        latent = None if self.gaussian is None else self.gaussian(pooled_BD)
        logits_BC = own.logits_BC
        if logits_BC is None:
            logits_BC = self.head(Reading(pooled_BD, latent, batch, self.backbone, own.states_BLD))
        if not self.training:
            return Encoding(logits_BC, pooled_BD, prompt_BPE=own.made.input_BPE)
        made, batch, latent = own.made.input_BPE, batch.labelled(), _first(latent, batch.num_labelled)
        prompt_BPE = None if made is None else made[: len(batch)]
        unprompted = None
        if self.gaussian is not None and batch.pooled_BD is not None:
            unprompted = self.gaussian(batch.pooled_BD)
        head, representation = None, None
        if self.head_information is not None:
            embeddings_BLE = own.embeddings_BLE[: len(batch)]
            head = self.head_information(prompt_BPE, embeddings_BLE, self.head.class_vectors(), batch)
        if self.representation_information is not None:
            representation = self.representation_information(prompt_BPE, latent, unprompted, batch)
        return self._with_label_terms(
            Encoding(
                logits_BC,
                pooled_BD[: len(batch)],
                prompt_BPE=prompt_BPE,
                latent=latent,
                unprompted_latent=unprompted,
                head=head,
                representation=representation,
            ),
            own.batch,
        )

    def read_kept(self, batch: Batch) -> Encoding:
        """The encoding of a batch whose kept states are all that is read."""
        assert batch.pooled_BD is not None
        latent = None if self.gaussian is None else self.gaussian(batch.pooled_BD)
        logits_BC: Tensor = self.head(Reading(batch.pooled_BD, latent, batch, self.backbone))
        encoding = Encoding(logits_BC, batch.pooled_BD, latent=_first(latent, batch.num_labelled))
        return self._with_label_terms(encoding, batch) if self.training else encoding

    def _with_label_terms(self, encoding: Encoding, batch: Batch) -> Encoding:
        """The encoding with the scores of the labelled rows alone, and what the others' are for."""
        label = anchor = None
        if batch.num_unlabelled and self.label_information is not None:
            label = self.label_information(encoding.logits_BC[batch.num_labelled :])
        if self.start_anchor is not None:
            anchor = self.start_anchor(self.head.class_vectors())
        return replace(encoding, logits_BC=encoding.logits_BC[: batch.num_labelled], label=label, anchor=anchor)


def _first(latent: Latent | None, count: int) -> Latent | None:
    return None if latent is None else Latent(latent.mean_BZ[:count], latent.log_std_BZ[:count])
