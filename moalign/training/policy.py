"""The language model in training: what the host asks of it, on one device in one precision."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import cross_entropy

from moalign.components import Completions, LoadedPolicy, Rollout
from moalign.errors import ContractError, DataError, RecordError
from moalign.types import Prompt

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def choose_device_and_dtype(
    device: str = "auto",
) -> tuple[torch.device, torch.dtype]:
    """Return the device to train on and the precision to compute in.

    Args:
        device: ``auto`` takes CUDA if there is one, else the CPU; or a device by name.

    Returns:
        bfloat16 on CUDA, float32 elsewhere.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    return chosen, torch.bfloat16 if chosen.type == "cuda" else torch.float32


def micro_batches(lengths_B: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Pack rows of similar length so that little of a batch is padding.

    Args:
        lengths_B: tokens per row, prompt and completion.
        max_tokens: most tokens in one micro-batch, padding included; a longer row stands alone.

    Returns:
        indices of rows, longest rows first (what does not fit in memory fails at once); every row
        once. A function of the lengths: rows of equal length stay in order.
    """
    order = sorted(range(len(lengths_B)), key=lambda b: -lengths_B[b])
    parts: list[list[int]] = []
    for b in order:
        if parts and (len(parts[-1]) + 1) * lengths_B[parts[-1][0]] <= max_tokens:
            parts[-1].append(b)
        else:
            parts.append([b])
    return parts


class Policy:
    """A causal language model on a device, with what is needed to talk to it and to train it.

    Precision: with ``dtype`` bfloat16 the forward pass runs under autocast, but what is trained
    stays in float32, because usual updates are smaller than the spacing of bfloat16 numbers and
    would be rounded away. Frozen weights (those under LoRA) are stored in ``dtype``, in half the
    memory.

    The model is always in eval mode: without dropout the policy that is trained is the policy that
    sampled, and on-policy ratios are exactly 1. On a CPU equal calls give equal bits.

    Attributes:
        device: where the model is; results are there, too.
        dtype: precision of the forward pass.
        model: the causal language model; with LoRA the one that the adapter is built into.
        tokenizer: its tokenizer.
        end_ids: tokens that end a completion.
        pad_id: token that fills right padding.
    """

    def __init__(
        self,
        loaded: LoadedPolicy,
        device: torch.device,
        dtype: torch.dtype,
        reference: Callable[[], LoadedPolicy] | None = None,
    ) -> None:
        """Move a loaded policy to its device: the model itself, not a copy.

        Args:
            loaded: what a policy source loaded.
            device: where it is trained.
            dtype: torch.float32, or torch.bfloat16 for mixed precision.
            reference: loads the study's base policy, for :meth:`reference_logprobs`; called at
                the first use, and not at all with LoRA, where the adapter is switched off. What
                it returns is frozen and may be shared by the policies of a process.
        """
        self.device = device
        self.dtype = dtype
        self.tokenizer = loaded.tokenizer
        self.end_ids = loaded.end_ids
        self.pad_id = loaded.pad_id
        self._loaded = loaded
        self._load_reference = reference
        self._reference: PreTrainedModel | None = None
        # peft wraps the model; inside is the same model with adapters in its layers.
        wrapped: Any = loaded.model
        self._adapter: PeftModel | None = wrapped if hasattr(wrapped, "get_base_model") else None
        self.model: PreTrainedModel = wrapped.get_base_model() if self._adapter else wrapped
        self._place(wrapped, frozen=dtype)

    def _place(self, model: Any, frozen: torch.dtype) -> None:
        """Move a model to the device and its weights to float32, or if frozen to ``frozen``."""
        model.to(self.device).eval()
        for parameter in model.parameters():
            precision = torch.float32 if parameter.requires_grad else frozen
            parameter.data = parameter.data.to(precision)

    # --- text ----------------------------------------------------------------------------------

    def prompt_ids(self, prompt: Prompt, condition: Mapping[str, float] | None) -> list[int]:
        """Return the token ids of a prompt under a condition (weights by objective, or None).

        Raises:
            DataError: if there are none: a model cannot go on from nothing.
        """
        ids = self._loaded.render(prompt, condition)
        if not ids:
            raise DataError(
                f"prompt {prompt.id!r} ({prompt.text!r}) has no tokens; a prompt needs at least one"
            )
        return ids

    def completion_ids(self, text: str) -> list[int]:
        """Return the token ids of a completion as the policy would have written it, its end too."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids, min(self.end_ids)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return self.decode_all([ids])[0]

    def decode_all(self, ids_B: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each row of token ids, without special tokens or padding."""
        texts: list[str] = self.tokenizer.batch_decode(
            [list(ids) for ids in ids_B],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        return texts

    @property
    def context(self) -> int | None:
        """Most tokens that the model can read, prompt and completion; None if it has no limit."""
        limit: int | None = getattr(self.model.config, "max_position_embeddings", None)
        return limit

    @property
    def width(self) -> int:
        """D, the size of a hidden state."""
        embeddings: Any = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        return int(embeddings.weight.shape[1])

    # --- sampling ------------------------------------------------------------------------------

    def generate(
        self,
        rollout: Rollout,
        prompt_ids_P: Sequence[Sequence[int]],
        *,
        group: int,
        seeds_B: Sequence[int],
    ) -> Completions:
        """Sample ``group`` completions per prompt, in the policy's precision, on its device."""
        with torch.no_grad(), self.autocast():
            return rollout.generate(
                self.model,
                prompt_ids_P,
                group=group,
                seeds_B=seeds_B,
                end_ids=self.end_ids,
                pad_id=self.pad_id,
            )

    # --- forward passes ------------------------------------------------------------------------

    def logprobs(
        self,
        prompt_ids_B: Sequence[Sequence[int]],
        ids_BT: Tensor,
        mask_BT: Tensor,
        *,
        temperature: float = 1.0,
    ) -> Tensor:
        """Return log-probabilities of completion tokens, with gradient unless it is switched off.

        One forward pass over all the rows; see :func:`micro_batches`. Logits exist for completion
        tokens only, never for prompts and padding: the output layer reads ``[N, D]``, in the order
        of ``mask_BT.nonzero()``.

        Args:
            prompt_ids_B: token ids of each row's prompt, none of them empty.
            ids_BT: completion token ids, right-padded; what stands on padding does not matter.
            mask_BT: 1 on completion tokens, 0 on padding.
            temperature: divides the logits, as sampling did: the log-probabilities are those of
                the distribution that the tokens were drawn from.

        Returns:
            ``[B, T]`` float32, in nats, 0 on padding.
        """
        return self._logprobs(self.model, prompt_ids_B, ids_BT, mask_BT, temperature)

    @torch.no_grad()
    def reference_logprobs(
        self,
        prompt_ids_B: Sequence[Sequence[int]],
        ids_BT: Tensor,
        mask_BT: Tensor,
        *,
        temperature: float = 1.0,
    ) -> Tensor:
        """Return what :meth:`logprobs` gives under the study's base policy, without gradient.

        With LoRA the adapter is switched off; else the base policy is loaded at the first call.
        """
        with self._as_reference() as model:
            return self._logprobs(model, prompt_ids_B, ids_BT, mask_BT, temperature)

    def require_reference(self, who: str) -> None:
        """Raise unless there is a reference policy.

        Args:
            who: reads it, for the message.

        Raises:
            ContractError: there is none.
        """
        if self._adapter is None and self._load_reference is None:
            raise ContractError(
                f"{who} compares the policy with the study's base policy, and this policy was "
                "given none: give Policy(..., reference=) a function that loads it"
            )

    @contextmanager
    def _as_reference(self) -> Iterator[PreTrainedModel]:
        """Give the study's base policy: the adapter switched off, or loaded at the first use."""
        if self._adapter is not None:
            with self._adapter.disable_adapter():
                yield self.model
            return
        if self._reference is None:
            self.require_reference("what was asked for")
            assert self._load_reference is not None
            self._reference = self._load_reference().model.requires_grad_(False)
            # In the precision of the policy itself, so that the two are equal at step 0.
            self._place(self._reference, frozen=torch.float32)
        yield self._reference

    @torch.no_grad()
    def hidden(
        self, prompt_ids_B: Sequence[Sequence[int]], ids_BT: Tensor, mask_BT: Tensor
    ) -> Tensor:
        """Return the last hidden states at the positions that predict each completion token.

        Returns:
            ``[B, T, D]`` float32, what the output layer reads; 0 on padding; without gradient.
        """
        packed = _Packed(prompt_ids_B, ids_BT, mask_BT, self.pad_id, self.device)
        hidden_BLD = self._hidden(self.model, packed.inputs_BL)
        return packed.unpack(hidden_BLD.flatten(0, 1).index_select(0, packed.sources_N))

    @torch.no_grad()
    def prompt_features(
        self, prompt_ids_P: Sequence[Sequence[int]], *, micro_tokens: int | None = None
    ) -> Tensor:
        """Return the mean over each prompt of the base policy's last hidden states.

        The base policy's: they do not drift while the policy is trained.

        Args:
            prompt_ids_P: token ids of each prompt.
            micro_tokens: most tokens, padding included, in one forward pass; None: no limit.

        Returns:
            ``[P, D]`` float32.
        """
        lengths = [len(ids) for ids in prompt_ids_P]
        limit = len(lengths) * max(lengths) if micro_tokens is None else micro_tokens
        found: dict[int, Tensor] = {}
        with self._as_reference() as model:
            for part in micro_batches(lengths, limit):
                rows = [prompt_ids_P[p] for p in part]
                inputs_PL = _right_padded(rows, lengths[part[0]], self.pad_id).to(self.device)
                hidden_PLD = self._hidden(model, inputs_PL)
                found |= {
                    p: hidden_LD[: lengths[p]].mean(0)
                    for p, hidden_LD in zip(part, hidden_PLD, strict=True)
                }
        return torch.stack([found[p] for p in range(len(lengths))])

    def _logprobs(
        self,
        model: PreTrainedModel,
        prompt_ids_B: Sequence[Sequence[int]],
        ids_BT: Tensor,
        mask_BT: Tensor,
        temperature: float,
    ) -> Tensor:
        packed = _Packed(prompt_ids_B, ids_BT, mask_BT, self.pad_id, self.device)

        def select(hidden_BLD: Tensor) -> Tensor:
            return hidden_BLD.flatten(0, 1).index_select(0, packed.sources_N)

        logits_NV = self._logits(model, packed.inputs_BL, select).float() / temperature
        losses_N = cross_entropy(logits_NV, packed.targets_N, reduction="none")
        return packed.unpack(-losses_N)

    def _hidden(self, model: PreTrainedModel, inputs_BL: Tensor) -> Tensor:
        """Return the last hidden states, [B, L, D] float32."""
        found: list[Tensor] = []

        def select(hidden_BLD: Tensor) -> Tensor:
            found.append(hidden_BLD.float())
            return hidden_BLD[:0]  # no logits

        self._logits(model, inputs_BL, select)
        return found[0]

    def _logits(
        self, model: PreTrainedModel, inputs_BL: Tensor, select: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the logits of what ``select`` makes of the hidden states.

        Rows are padded on the right, so a causal model needs no mask: what is read lies before
        the padding. That keeps the fast attention kernels and needs nothing of the model but
        causality. Positions are selected on the way into the output layer, so that whatever a
        model does to its logits (capping, scaling) is done.
        """

        def pick(_: torch.nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            return (select(args[0]),)

        output_layer: torch.nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        hook = output_layer.register_forward_pre_hook(pick)
        try:
            with self.autocast():
                logits: Tensor = model(input_ids=inputs_BL, use_cache=False).logits
        finally:
            hook.remove()
        return logits

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass in the policy's precision."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    # --- what is trained -----------------------------------------------------------------------

    def trainable(self) -> list[tuple[str, Parameter]]:
        """Return what is trained, by name, in a fixed order; tied weights once."""
        return [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]

    def state(self) -> dict[str, Tensor]:
        """Return copies of what is trained, on the CPU; tied weights once."""
        return {n: p.detach().to("cpu", copy=True).contiguous() for n, p in self.trainable()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state that :meth:`state` returned.

        Raises:
            RecordError: if it belongs to another model.
        """
        own = dict(self.trainable())
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        wanted = {name: tuple(parameter.shape) for name, parameter in own.items()}
        if found != wanted:
            name = min(name for name, _ in found.items() ^ wanted.items())
            raise RecordError(
                f"this checkpoint belongs to another policy: {name} has shape "
                f"{found.get(name, 'none')} in it and {wanted.get(name, 'none')} in the policy"
            )
        for name, parameter in own.items():
            parameter.copy_(state[name])

    def export(self, folder: Path) -> None:
        """Write an ordinary model folder that ``transformers`` loads, tokenizer included.

        LoRA is merged into a copy. Weights keep the precision that they have here.
        """
        model: Any = self.model
        if self._adapter is not None:
            model = copy.deepcopy(self._adapter).merge_and_unload()
        model.generation_config.eos_token_id = sorted(self.end_ids)
        model.generation_config.pad_token_id = self.pad_id
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


class _Packed:
    """Rows of prompt and completion as one right-padded input, and where to read its output.

    Attributes:
        inputs_BL: prompt and completion without its last token, which predicts nothing needed.
        sources_N: positions in ``inputs_BL.flatten()`` that predict the N completion tokens.
        targets_N: the tokens.
    """

    def __init__(
        self,
        prompt_ids_B: Sequence[Sequence[int]],
        ids_BT: Tensor,
        mask_BT: Tensor,
        pad_id: int,
        device: torch.device,
    ) -> None:
        ids, mask = ids_BT.cpu(), mask_BT.cpu() > 0
        lengths = mask.sum(1).tolist()
        rows = [
            [*prompt, *row[: max(n - 1, 0)]]
            for prompt, row, n in zip(prompt_ids_B, ids.tolist(), lengths, strict=True)
        ]
        longest = max(map(len, rows))
        at_B, at_T = mask.nonzero(as_tuple=True)
        starts_B = torch.tensor([b * longest + len(p) - 1 for b, p in enumerate(prompt_ids_B)])
        self._shape = mask_BT.shape
        self._at = (at_B.to(device), at_T.to(device))
        self.inputs_BL = _right_padded(rows, longest, pad_id).to(device)
        self.sources_N = (starts_B[at_B] + at_T).to(device)
        self.targets_N = ids[at_B, at_T].to(device)

    def unpack(self, values_N: Tensor) -> Tensor:
        """Put one value per completion token (a number or a vector) at its place; 0 elsewhere."""
        zeros = values_N.new_zeros(*self._shape, *values_N.shape[1:])
        return zeros.index_put(self._at, values_N)


def _right_padded(rows: Sequence[Sequence[int]], width: int, pad_id: int) -> Tensor:
    return torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows])
