"""Sampling in plain PyTorch: a preallocated key-value cache that drops finished sequences."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

from annotated_types import Ge, Gt

from moalign.components import Completions, Rollout
from moalign.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.cache_utils import DynamicLayer

# Least room for tokens to come, in a cache that has just been copied. More is slower: rows then lie
# farther apart in memory, and many end before they would use it.
ROOM: Final = 8


class Eager(Rollout):
    """Samples from the model's own distribution, at a temperature, with ``transformers`` alone.

    Each prompt is read once, however many completions it gets; keys and values then go into
    buffers of their final size, and sequences that have ended leave the batch. Token ``t`` of a
    row is the inverse of the cumulative distribution at a uniform number that the row's seed and
    ``t`` alone decide: rows do not influence one another, and policies compared under the same
    seeds see the same luck.

    The last bits of a row's logits depend on the shape of the batch (about 1e-7 of a probability
    in float32), so a completion can differ where a uniform number falls that close to a boundary.
    Equal calls give equal completions.

    ``greedy()`` takes the likeliest token instead, the first of several.

    Runs any causal language model for which ``transformers`` can build a cache, on the model's
    device. The right choice up to some hundred completions of some hundred tokens.

    Example:
        ``rollout: {eager: {max_tokens: 64, temperature: 1.0}}``
    """

    name: ClassVar[str] = "eager"

    def __init__(
        self,
        *,
        max_tokens: Annotated[int, Ge(1)] = 64,
        temperature: Annotated[float, Gt(0)] = 1.0,
    ) -> None:
        """Take the options.

        Args:
            max_tokens: limit per completion, end token included.
            temperature: divides the logits; 1 is the model's own distribution.
        """
        self.max_tokens = max_tokens
        self.temperature = temperature

    def greedy(self) -> Eager:
        """Return the same engine at temperature 0: the likeliest token, the first of several."""
        greedy = copy.copy(self)
        greedy.temperature = 0.0
        return greedy

    def generate(
        self,
        model: PreTrainedModel,
        prompt_ids_P: Sequence[Sequence[int]],
        *,
        group: int,
        seeds_B: Sequence[int],
        end_ids: frozenset[int],
        pad_id: int,
    ) -> Completions:
        """Sample ``group`` completions per prompt, in eval mode and without gradient.

        At temperature 0 the seeds decide nothing.

        Args:
            model: a causal language model; its mode is restored.
            prompt_ids_P: token ids of each prompt, none of them empty.
            group: G, completions per prompt.
            seeds_B: one seed per row, in [0, 2^128).
            end_ids: tokens that end a completion.
            pad_id: fills the right; may be an end token.

        Returns:
            tensors on the model's device, T being the longest completion.

        Raises:
            OptionError: if a prompt and ``max_tokens`` together exceed the model's context.
        """
        import torch

        context = getattr(model.config, "max_position_embeddings", None)
        longest = max(map(len, prompt_ids_P))
        if context is not None and longest + self.max_tokens > context:
            raise OptionError(
                f"rollout eager: a prompt of {longest} tokens and max_tokens {self.max_tokens} do "
                f"not fit in the model's context of {context}; lower max_tokens to "
                f"{context - longest} or shorten the prompts",
                "max_tokens",
            )
        uniforms_BT = _uniforms(seeds_B, self.max_tokens).to(model.device)
        ids_BT = torch.full(uniforms_BT.shape, pad_id, dtype=torch.long, device=model.device)
        end_ids_E = torch.tensor(sorted(end_ids), device=model.device)
        training = model.training
        model.train(False)
        try:
            with torch.inference_mode():
                decoder = _Decoder(model, prompt_ids_P, group, self.max_tokens, pad_id)
                rows = torch.arange(len(ids_BT), device=model.device)  # those that go on
                for t in range(self.max_tokens):
                    ids = self._choose(decoder.logits_BV, uniforms_BT[rows, t])
                    ids_BT[rows, t] = ids
                    going = torch.isin(ids, end_ids_E, invert=True).nonzero().squeeze(1)
                    if len(going) == 0 or t + 1 == self.max_tokens:
                        break
                    if len(going) < len(rows):
                        rows, ids = rows[going], ids[going]
                        decoder.keep(going)
                    decoder.step(ids)
        finally:
            model.train(training)
        return _cut(ids_BT, end_ids_E, pad_id)

    def _choose(self, logits_BV: Tensor, uniforms_B: Tensor) -> Tensor:
        if self.temperature == 0:
            return logits_BV.argmax(-1)
        return _sample(logits_BV / self.temperature, uniforms_B)


def _uniforms(seeds_B: Sequence[int], count: int) -> Tensor:
    """Return ``[B, count]`` float64 numbers in [0, 1); a row is a function of its seed."""
    import numpy as np
    import torch

    streams = (np.random.Generator(np.random.Philox(key=seed)) for seed in seeds_B)
    return torch.from_numpy(np.stack([stream.random(count) for stream in streams]))


def _sample(logits_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """Return token ids at the given quantiles of ``softmax(logits)``.

    In float64: in float32 the sums of a large vocabulary would round away what is rare, and a
    uniform number next to 1 would reach past the last token.
    """
    import torch

    sums_BV = logits_BV.softmax(-1).cumsum(-1, dtype=torch.float64)
    targets_B1 = (uniforms_B * sums_BV[:, -1]).unsqueeze(1)
    return torch.searchsorted(sums_BV, targets_B1, right=True).squeeze(1)


def _cut(ids_BT: Tensor, end_ids_E: Tensor, pad_id: int) -> Completions:
    """Cut each row after its first end token."""
    import torch

    ends_BT = torch.isin(ids_BT, end_ids_E)
    finished_B = ends_BT.any(1)
    limit = ids_BT.shape[1]
    lengths_B = torch.where(finished_B, ends_BT.int().argmax(1) + 1, limit)
    width = int(lengths_B.max())
    mask_BT = torch.arange(width, device=ids_BT.device) < lengths_B[:, None]
    return Completions(
        ids_BT=ids_BT[:, :width].where(mask_BT, pad_id),
        mask_BT=mask_BT.float(),
        finished_B=finished_B,
    )


class _Decoder:
    """The model in front of a cache: logits of the next token for the rows that go on.

    Prompts are padded on the left, so that all rows write to the same column of the cache.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompt_ids_P: Sequence[Sequence[int]],
        group: int,
        max_tokens: int,
        pad_id: int,
    ) -> None:
        import torch
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        longest = max(map(len, prompt_ids_P))
        self._model = model
        self._seen = longest
        self._cache = DynamicCache(config=model.config)
        self._cache.layers = [
            _preallocated()() if type(layer) is DynamicLayer else layer
            for layer in self._cache.layers
        ]
        pads = [longest - len(ids) for ids in prompt_ids_P]
        ids_PL = torch.tensor(
            [[pad_id] * pad + list(ids) for pad, ids in zip(pads, prompt_ids_P, strict=True)]
        )
        columns = torch.arange(longest + max_tokens)
        mask_PL = columns >= torch.tensor(pads)[:, None]
        positions_PL = (columns - torch.tensor(pads)[:, None]).clamp(min=0)
        self._positional = "position_ids" in inspect.signature(model.forward).parameters
        self._padded = any(pads)
        self._mask_BL = mask_PL.to(model.device)
        self._positions_BL = positions_PL.to(model.device)
        logits_PV = self._forward(ids_PL.to(model.device), 0, longest)
        prompt_B = torch.arange(len(prompt_ids_P), device=model.device).repeat_interleave(group)
        self.logits_BV = logits_PV.index_select(0, prompt_B)
        self.keep(prompt_B)

    def _forward(self, ids_BL: Tensor, start: int, stop: int) -> Tensor:
        inputs: dict[str, Any] = {}
        if self._padded:
            inputs["attention_mask"] = self._mask_BL[:, :stop]
        if self._positional:
            inputs["position_ids"] = self._positions_BL[:, start:stop]
        logits_BLV: Tensor = self._model(
            input_ids=ids_BL,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            **inputs,
        ).logits
        return logits_BLV[:, -1].float()

    def keep(self, rows: Any) -> None:
        """Go on with these rows; a row may be taken several times."""
        self._cache.reorder_cache(rows)
        self._mask_BL = self._mask_BL.index_select(0, rows)
        self._positions_BL = self._positions_BL.index_select(0, rows)

    def step(self, ids_B: Tensor) -> None:
        """Read one token per row."""
        self.logits_BV = self._forward(ids_B[:, None], self._seen, self._seen + 1)
        self._seen += 1


@cache
def _preallocated() -> type[DynamicLayer]:
    """Return the cache layer; made here so that importing this module does not import torch."""
    from transformers.cache_utils import DynamicLayer

    class Preallocated(DynamicLayer):  # type: ignore[no-untyped-call]
        """A layer's keys and values in buffers with room to grow, instead of a copy per step."""

        keys: Tensor
        values: Tensor

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.used = 0

        def update(
            self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
        ) -> tuple[Tensor, Tensor]:
            if not self.is_initialized:
                self.dtype, self.device = key_states.dtype, key_states.device
                self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
                self.is_initialized = True
            stop = self.used + key_states.shape[2]
            if stop > self.keys.shape[2]:
                self.keys, self.values = (
                    self._grown(states, stop + max(ROOM, stop // 2))
                    for states in (self.keys, self.values)
                )
            self.keys[:, :, self.used : stop] = key_states
            self.values[:, :, self.used : stop] = value_states
            self.used = stop
            return self.keys[:, :, :stop], self.values[:, :, :stop]

        def _grown(self, states: Tensor, size: int) -> Tensor:
            grown = states.new_empty(*states.shape[:2], size, states.shape[3])
            grown[:, :, : self.used] = states[:, :, : self.used]
            return grown

        def get_seq_length(self) -> int:
            return self.used

    return Preallocated
