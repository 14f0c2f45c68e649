"""The language model that reads a prompt; frozen unless the run fine-tunes it.

Shapes: B examples, L positions, E embedding width, D hidden width, V vocabulary, S words, C classes (their
texts), T tokens of all texts, M rows (examples and tokens below each other).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprompt.config import ConfigError
from infoprompt.data.batch import Batch
from infoprompt.kernels.frozen_linear_cross_entropy.op import frozen_linear_cross_entropy
from infoprompt.model.backbone.deberta import take_distances
from infoprompt.model.backbone.families import FAMILIES
from infoprompt.model.backbone.hooks import (
    Reached,
    deep_prompt,
    distances,
    ended_at,
    learned_positions,
    passed_over,
    position_bias,
    recompute_in_backward,
    starts_at,
)
from infoprompt.model.backbone.in_parts import numbers
from infoprompt.model.backbone.last_layer import make_where_read
from infoprompt.model.backbone.masks import attention_mask
from infoprompt.model.backbone.packing import Packing
from infoprompt.model.backbone.row_reads import embedded, own_parameter, read_by_row, rows_of
from infoprompt.model.prompts.kind import DeepPrompt

Gather = Callable[[Sequence[nn.Parameter]], AbstractContextManager[Any]]
"""Makes partitioned parameters whole while its context is open (DeepSpeed ZeRO-3); every rank must enter it."""


def whole(parameters: Sequence[nn.Parameter]) -> AbstractContextManager[Any]:
    """The `Gather` of parameters that are not partitioned."""
    return nullcontext()


class Backbone(nn.Module):
    """A model that reads embeddings of our making; `backbone.load_backbone` makes one."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        name: str,
        gather: Gather = whole,
        *,
        frozen: bool = True,
        lm_head: bool = False,
        gradient_checkpointing: bool = False,
        unpadded: bool = False,
        skip_unread: bool = False,
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(not frozen)
        self.tokenizer = tokenizer
        self.name = name
        self.gather = gather
        self.frozen = frozen
        self.lm_head = lm_head
        config = self.config
        self.family = FAMILIES[config.model_type]
        self.kind: str = self.family.kind
        """`encoder`, `decoder` or `encoder-decoder`."""
        self.summary: str = self.family.summary
        """The pooling whose state stands for a text."""
        self.hidden_size: int = config.hidden_size
        self.embedding_size: int = getattr(config, "embedding_size", None) or config.hidden_size
        self.num_layers: int = config.num_hidden_layers
        self.num_kv_heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self.head_size: int = _head_size(config)
        self.position_offset: int = config.pad_token_id + 1 if self.family.after_padding else 0
        self.max_length: int = _positions(config) - self.position_offset
        self.num_segments: int = max(getattr(config, "type_vocab_size", 1), 1) if self.family.segments else 1
        self.packs = unpadded and self.family.packs
        """Whether a pass on a CPU leaves padding out."""
        if self.family.positions == "distances":
            take_distances(self.layers)
        self.skips_unread = self.packs and skip_unread and self.family.last_layer is not None
        """Whether the last layer is made only where it is read, in a pass that leaves padding out."""
        if self.skips_unread and self.family.last_layer is not None:
            make_where_read(self.layers[-1], self.family.last_layer)
        if gradient_checkpointing:
            recompute_in_backward(self.layers)

    @property
    def config(self) -> Any:
        """The model's own configuration."""
        return self.model.config

    @property
    def body(self) -> nn.Module:
        """The part that makes states: all but the language-model head; of an encoder-decoder the encoder."""
        model: Any = self.model
        if not self.lm_head:
            return self.model
        body: nn.Module = model.get_encoder() if self.kind == "encoder-decoder" else model.base_model
        return body

    @property
    def layers(self) -> list[nn.Module]:
        """The body's layers; ALBERT has fewer than it passes."""
        return list(attrgetter(self.family.layers)(self.body))

    def train(self, mode: bool = True) -> "Backbone":
        """A frozen model stays in evaluation mode: it has no use for dropout."""
        if self.frozen and not self.training:
            return self  # every pass of a run asks, and a walk over all modules takes longer than a head's update
        return super().train(mode and not self.frozen)

    def embed(self, input_ids_BL: Tensor) -> Tensor:
        """Word embeddings as the first layer takes them (scaled, where the family scales), [B, L, E]."""
        embedding = self._embedding()
        if read_by_row(self._table):
            return embedded(embedding, input_ids_BL)
        embeddings_BLE: Tensor = embedding(input_ids_BL)
        return embeddings_BLE

    def forward(
        self, embeddings_BLE: Tensor, batch: Batch, deep: DeepPrompt | None = None, read_BL: Tensor | None = None
    ) -> Tensor:
        """Last hidden states, [B, L, D], in the backbone's dtype; of an encoder-decoder the encoder's.

        Args:
            embeddings_BLE: of every position, prompt vectors at their slots.
            batch: what is real, where slots are, positions (real tokens have theirs whether or not there is a prompt).
            deep: what enters below the input.
            read_BL: positions that are read, bool; states elsewhere may be zeros. All if None.
        """
        return self._states(embeddings_BLE, batch, batch.attended_BL, deep, read_BL=read_BL)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of its weights and states."""
        return self._table.dtype

    def leaves_out_padding(self, device: torch.device) -> bool:
        """Whether a pass on that device does; then an example's numbers do not depend on who shares it."""
        return self.packs and device.type == "cpu"

    def can_start_at(self, layer: int) -> bool:
        """Whether a pass can start at a layer, of kept states."""
        return self.frozen and self.packs and 0 < layer < len(self.layers) == self.num_layers

    def states_below(self, layer: int, embeddings_BLE: Tensor, batch: Batch) -> Tensor:
        """States that come to a layer, [B, L, D], in the backbone's dtype, zeros at padding; the rest is not passed."""
        packing = Packing.of(batch.attended_BL, batch.position_BL)
        try:
            with ended_at(self.layers, layer):
                self._states(embeddings_BLE, batch, batch.attended_BL, None)
        except Reached as reached:
            return packing.unpack(reached.states)
        raise AssertionError("a pass comes to every layer")

    def word_scores(self, state_BD: Tensor, token_ids: Sequence[int]) -> Tensor:
        """Scores (logits) of words by the model's language-model head on given states, [B, S], float32.

        Only the words' rows of the output matrix are used. Needs `lm_head=True` at loading.
        """
        assert self.lm_head, "loaded without its language-model head"
        assert self.family.head is not None, "no family of this kind is loaded to score words"
        transform, output, bias_V = self.family.head(self.model)
        weight_VD = own_parameter(output, "weight")
        hidden_BD = transform(state_BD.to(weight_VD.dtype))
        index_S = torch.tensor(token_ids, device=state_BD.device)
        # Read as an attribute, a weight in parts is made whole until the end of the pass.
        rows_SD = rows_of(weight_VD, index_S) if read_by_row(weight_VD) else output.weight[index_S]
        bias_S = None if bias_V is None else bias_V[index_S]
        return self._capped(F.linear(hidden_BD, rows_SD, bias_S).float())

    def score_texts(
        self, embeddings_BLE: Tensor, batch: Batch, text_ids: Sequence[Sequence[int]], deep: DeepPrompt | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log probability of each text after the prompted input, [B, C] in nats, and the input's states, [B, L, D].

            log p(text | x) = sum_t log p(token_t | x, tokens before t)

        A decoder reads the input once, with all texts behind it. Each text sees the input and itself alone, and has the
        positions that follow the input's. To layer prompts the texts are not there. An encoder-decoder encodes once and
        decodes each text, from its start token. Needs `lm_head=True` at loading.

        Args:
            embeddings_BLE: as for `forward`.
            batch: as for `forward`.
            text_ids: tokens of each text, with an end token if that is to be predicted too.
            deep: as for `forward`.
        Raises:
            ConfigError: input and longest text together are longer than the model allows.
        """
        assert self.lm_head, "loaded without its language-model head"
        if self.kind == "encoder-decoder":
            return self._decoded(self.forward(embeddings_BLE, batch, deep), batch, text_ids)
        length, longest = embeddings_BLE.shape[1], max(len(ids) for ids in text_ids)
        if length + longest > self.max_length:
            raise ConfigError(
                f"backbone.max_length leaves {length} positions to the input, but a label text of {longest} tokens "
                f"comes behind it, and {self.name!r} has {self.max_length} positions. Set backbone.max_length to at "
                f"most {self.max_length - longest}."
            )
        return self._continued(embeddings_BLE, batch, text_ids, deep)

    def score_choices(
        self, embeddings_BLE: Tensor, batch: Batch, deep: DeepPrompt | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log probability of the marked tokens of each input, [B] in nats, and the input's states, [B, L, D].

            log p(choice | x) = sum_t log p(token_t | x, tokens before t)

        A decoder's alone, which reads the choice where it stands. Needs `lm_head=True` at loading.

        Args:
            embeddings_BLE: as for `forward`.
            batch: as for `forward`; `marked_B2` says where the choices stand.
            deep: as for `forward`.
        """
        assert self.lm_head, "loaded without its language-model head"
        assert batch.marked_B2 is not None, "not laid out with a choice"
        states_BLD = self.forward(embeddings_BLE, batch, deep)
        place_L = torch.arange(batch.length, device=states_BLD.device)
        first_B1, last_B1 = batch.marked_B2.split(1, dim=1)
        # a first position has nothing before it that could predict it
        row_T, place_T = ((place_L >= first_B1.clamp(min=1)) & (place_L <= last_B1)).nonzero(as_tuple=True)
        log_prob_T = self._log_prob(states_BLD[row_T, place_T - 1], batch.input_ids_BL[row_T, place_T])
        return log_prob_T.new_zeros(len(batch)).index_add(0, row_T, log_prob_T), states_BLD

    @property
    def num_embeddings(self) -> int:
        """Rows of the embedding table, also where it is partitioned."""
        return int(getattr(self._table, "ds_shape", self._table.shape)[0])

    @torch.no_grad()
    def embedding_table(self) -> Tensor:
        """A float32 copy of all word embeddings as `embed` gives them, [V, E], on the CPU; all ranks take part."""
        with self.gather([self._table]):
            table_VE: Tensor = self._table.detach().to("cpu", torch.float32, copy=True)
        return table_VE * self._embedding_scale()

    @torch.no_grad()
    def embedding_rows(self, ids: Sequence[int]) -> Tensor:
        """Rows of `embedding_table`, [P, E], without the others; all ranks ask for the same."""
        return rows_of(self._table, torch.tensor(ids)).to("cpu", torch.float32) * self._embedding_scale()

    def _embedding_scale(self) -> Tensor:
        embedding = self._embedding()
        return torch.as_tensor(getattr(embedding, "embed_scale", 1.0)).to("cpu", self.dtype).float()

    @torch.no_grad()
    def fingerprint(self) -> str:
        """SHA-256 over names, shapes and bfloat16 values of the body's weights.

        The same for float32 and bfloat16 loads, with or without the language-model head or LoRA. All ranks take part.
        """
        digest = hashlib.sha256()
        named = {name: parameter for name, parameter in self.body.named_parameters() if ".lora_" not in name}
        plain = {name.replace(".base_layer.", "."): parameter for name, parameter in named.items()}
        for name, parameter in sorted(plain.items()):
            shape = list(getattr(parameter, "ds_shape", parameter.shape))
            digest.update(f"{name} {shape}\n".encode())
            for piece in numbers(parameter):
                digest.update(piece.to("cpu", torch.bfloat16).view(torch.int16).numpy().data)
        return digest.hexdigest()

    def _embedding(self) -> Any:
        body: Any = self.body
        return body.get_input_embeddings()

    @property
    def _table(self) -> nn.Parameter:
        return own_parameter(self._embedding(), "weight")

    @property
    def _softcap(self) -> float | None:
        cap: float | None = getattr(self.config, "final_logit_softcapping", None)
        return cap

    def _capped(self, logits: Tensor) -> Tensor:
        cap = self._softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _states(
        self,
        embeddings_BLE: Tensor,
        batch: Batch,
        attended_BL: Tensor,
        deep: DeepPrompt | None,
        branch_L: Tensor | None = None,
        read_BL: Tensor | None = None,
    ) -> Tensor:
        causal = self.kind == "decoder"
        packs = branch_L is None and self.leaves_out_padding(embeddings_BLE.device)
        packing = Packing.of(attended_BL, batch.position_BL, _owners(deep, len(batch))) if packs else None
        if packing is not None and self.skips_unread and read_BL is not None:
            packing = packing.reading(read_BL)
        pack = (lambda tensor: tensor) if packing is None else packing.pack
        arguments: dict[str, Any] = {"inputs_embeds": pack(embeddings_BLE)}
        if packing is None:
            window = self.family.window
            mask = attention_mask(self.config, window, attended_BL, batch.position_BL, causal, branch_L)
            arguments["attention_mask"] = mask
        else:  # a mask that transformers passes on as it is; attention reads the packing
            arguments["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=embeddings_BLE.device)
        if self.family.positions in ("given", "distances"):
            arguments["position_ids"] = pack(batch.position_BL + self.position_offset)
        if self.family.segments:
            arguments["token_type_ids"] = pack(batch.token_type_BL.clamp(max=self.num_segments - 1))
        if causal:
            arguments["use_cache"] = False
        kept = starts_at(deep, batch) if packing is not None else 0
        with (
            self._with_positions(batch.position_BL),
            passed_over(self.layers[:kept]),
            deep_prompt(self.layers, self.num_layers, deep, batch, causal, packing),
        ):
            states: Tensor = self.body(**arguments).last_hidden_state
        return states if packing is None else packing.unpack_last(states)

    @contextmanager
    def _with_positions(self, position_BL: Tensor) -> Iterator[None]:
        with ExitStack() as stack:
            if self.family.positions == "bias_by_index":
                stack.enter_context(position_bias(self.layers, position_BL))
            if self.family.positions == "distances":
                stack.enter_context(distances(self.layers, position_BL))
            if self.family.positions == "learned_by_index":
                body: Any = self.body
                stack.enter_context(learned_positions(body.embed_positions, position_BL))
            yield

    def _continued(
        self, embeddings_BLE: Tensor, batch: Batch, text_ids: Sequence[Sequence[int]], deep: DeepPrompt | None
    ) -> tuple[Tensor, Tensor]:
        size, length = len(batch), batch.length
        device = embeddings_BLE.device
        sizes = [len(ids) for ids in text_ids]
        token_T = torch.tensor([token for ids in text_ids for token in ids], device=device)
        step_T = torch.tensor([step for ids in text_ids for step in range(len(ids))], device=device)
        text_T = torch.tensor([text for text, count in enumerate(sizes) for _ in range(count)], device=device)
        texts_BTE = self.embed(token_T.expand(size, -1))
        attended_BL = batch.attended_BL
        next_B1 = batch.position_BL.where(attended_BL, -1).amax(1, keepdim=True) + 1
        longer = batch.extended(token_T.expand(size, -1), next_B1 + step_T)
        joined_BLD = self._states(
            torch.cat([embeddings_BLE, texts_BTE], 1),
            longer,
            F.pad(attended_BL, (0, len(token_T)), value=True),
            deep,
            F.pad(text_T + 1, (length, 0)),
        )
        # A token is predicted by the state before it: the first ones by the input's last.
        last_B = length - 1 - attended_BL.long().flip(1).argmax(1)
        previous_BT = torch.where(step_T > 0, length - 1 + torch.arange(len(token_T), device=device), last_B[:, None])
        reading_BTD = joined_BLD.gather(1, previous_BT.unsqueeze(-1).expand(-1, -1, joined_BLD.shape[-1]))
        log_prob_BT = self._token_log_prob(reading_BTD, token_T)
        scores_BC = log_prob_BT.new_zeros(size, len(sizes)).index_add(1, text_T, log_prob_BT)
        return scores_BC, joined_BLD[:, :length]

    def _decoded(self, states_BLD: Tensor, batch: Batch, text_ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        model: Any = self.model
        decoder, scores = model.get_decoder(), []
        for ids in text_ids:
            token_T = torch.tensor(ids, device=states_BLD.device)
            given_T = torch.cat([token_T.new_tensor([self.config.decoder_start_token_id]), token_T[:-1]])
            decoded_BTD = decoder(
                input_ids=given_T.expand(len(batch), -1),
                encoder_hidden_states=states_BLD,
                encoder_attention_mask=batch.attended_BL.long(),
                use_cache=False,
            ).last_hidden_state
            scores.append(self._token_log_prob(decoded_BTD, token_T).sum(1))
        return torch.stack(scores, 1), states_BLD

    def _token_log_prob(self, states_BTD: Tensor, token_T: Tensor) -> Tensor:
        """Of the same tokens in every row, [B, T]."""
        return self._log_prob(states_BTD.flatten(0, 1), token_T.repeat(len(states_BTD))).view(states_BTD.shape[:2])

    def _log_prob(self, states_MD: Tensor, token_M: Tensor) -> Tensor:
        """Log probability of a token after each state, [M], in nats."""
        model: Any = self.model
        if getattr(self.config, "scale_decoder_outputs", False):  # T5 with tied embeddings
            states_MD = states_MD * self.hidden_size**-0.5
        head, last_bias_1V = model.get_output_embeddings(), getattr(model, "final_logits_bias", None)  # BART
        if self.frozen:
            # Under ZeRO-3, reading the weight makes it whole until the end of the pass; the op's backward needs none.
            return -frozen_linear_cross_entropy(
                states_MD,
                head.weight,
                token_M,
                head.bias if last_bias_1V is None else last_bias_1V.squeeze(0),
                softcap=self._softcap,
            )
        logits_MV = self._capped(head(states_MD).float())
        logits_MV = logits_MV if last_bias_1V is None else logits_MV + last_bias_1V
        return logits_MV.log_softmax(-1).gather(1, token_M[:, None]).squeeze(1)


def _owners(deep: DeepPrompt | None, num_rows: int) -> Tensor | None:
    """Whose each row is, [B], where prompts with keys and values of their own share a pass."""
    if deep is None or not deep.owners:
        return None
    first = torch.tensor([start for start, _ in deep.owners])
    return torch.searchsorted(first, torch.arange(num_rows), right=True) - 1


def _head_size(config: Any) -> int:
    size: int = (
        getattr(config, "head_dim", None)
        or getattr(config, "d_kv", None)
        or config.hidden_size // config.num_attention_heads
    )
    return size


def _positions(config: Any) -> int:
    # T5 has no table of positions; this is the length it was trained with.
    limit: int = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 512
    return limit
