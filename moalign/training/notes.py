"""What people should be told while a trial trains, each sentence once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

FLAT: Final = 5
"""Steps in a row without any advantage after which an objective is worth a sentence."""


class Notes:
    """Remembers what a trial has said."""

    def __init__(self) -> None:
        """Nothing has been said."""
        self._said: set[str] = set()
        self._flat: dict[str, int] = {}

    def new(self, sentences: Iterable[str]) -> tuple[str, ...]:
        """Return the sentences that have not been said, and count them as said."""
        fresh = tuple(s for s in dict.fromkeys(sentences) if s not in self._said)
        self._said |= set(fresh)
        return fresh

    def state_dict(self) -> dict[str, Any]:
        """Return what has been said, and since when each objective has given no advantage."""
        return {"said": sorted(self._said), "flat": dict(self._flat)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self._said = set(state["said"])
        self._flat = {name: int(count) for name, count in state["flat"].items()}

    def flat(
        self, names: Sequence[str], columns: Sequence[Tensor], *, preferences: bool = False
    ) -> list[str]:
        """Return a sentence for each objective that has given no advantage for :data:`FLAT` steps.

        All completions of every prompt scored alike on it, or it applied to none.

        Args:
            names: of the objectives.
            columns: the advantages per objective of what the step learned from, and what objectives
                prefer among completions, each [B, T, K] or [B, 1, K].
            preferences: whether it was learned from completions to choose between only.
        """
        end = f"for {FLAT} steps in a row, so it trains nothing"
        sentences = []
        flat_NK = torch.stack([(columns_BTK == 0).all(1).all(0).cpu() for columns_BTK in columns])
        for name, flat in zip(names, flat_NK.all(0).tolist(), strict=True):
            self._flat[name] = self._flat.get(name, 0) + 1 if flat else 0
            if self._flat[name] == FLAT:
                sentences.append(
                    f"objective {name} preferred no completion to another {end}; preferences that "
                    "concern it, or a finer reward, may tell them apart"
                    if preferences
                    else f"objective {name} scored all completions of every prompt alike {end}; a "
                    "larger training.group or a finer reward may tell them apart"
                )
        return sentences
