"""What a component returned, held against its contract: shapes, finiteness, what it declares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moalign.components import Optimizer, Weighting
from moalign.errors import ContractError, NonFiniteError
from moalign.types import Batch, Objective, ResponseScores, Step, Weights


def check_advantages(
    optimizer: Optimizer, advantages: Tensor, batch: Batch, objectives: int
) -> None:
    """Check an optimizer's advantages.

    Raises:
        ContractError: wrong shape.
        NonFiniteError: an infinity or NaN.
    """
    rows, tokens = batch.mask_BT.shape
    if tuple(advantages.shape) not in {(rows, 1, objectives), (rows, tokens, objectives)}:
        raise ContractError(
            f"optimizer {optimizer.name} returned advantages of shape {list(advantages.shape)}; "
            f"they must be [B, 1, K] or [B, T, K] = {[rows, tokens, objectives]}"
        )
    if not torch.isfinite(advantages).all():
        raise NonFiniteError(f"optimizer {optimizer.name} returned advantages that are not finite")


def check_selected(optimizer: Optimizer, chosen: Tensor, shape: Sequence[int]) -> None:
    """Check which completions an optimizer learns from.

    Raises:
        ContractError: not [P, S] different indices below G.
    """
    prompts, group = shape
    fits = chosen.ndim == 2 and len(chosen) == prompts and 1 <= chosen.shape[1] <= group
    if fits and not chosen.is_floating_point():
        ordered = chosen.sort(1).values
        fits = bool(((ordered >= 0) & (ordered < group)).all())
        if fits and not (ordered[:, 1:] == ordered[:, :-1]).any():
            return
    raise ContractError(
        f"optimizer {optimizer.name}: select() must return [P, S] integers, for each of "
        f"{prompts} prompts different indices from 0 to {group - 1}; found {chosen.tolist()}"
    )


def check_returned(weighting: Weighting, returned: Weights | ResponseScores, step: Step) -> None:
    """Check what a weighting returned against its contract.

    Raises:
        ContractError: wrong type or shape, or off the simplex without declaring it.
        NonFiniteError: an infinity or NaN where there must be none.
    """
    who = f"weighting {weighting.name}"
    prompts, group, objectives = step.scores_PGK.shape
    notes: object = getattr(returned, "notes", ())
    if not isinstance(notes, tuple) or not all(isinstance(note, str) for note in notes):
        raise ContractError(f"{who} returned the notes {notes!r}; they must be a tuple of texts")
    if isinstance(returned, ResponseScores):
        if tuple(returned.values_PG.shape) != (prompts, group):
            raise ContractError(
                f"{who} returned response scores of shape {list(returned.values_PG.shape)}; they "
                f"must be [P, G] = {[prompts, group]}"
            )
        if torch.isinf(returned.values_PG).any():
            raise NonFiniteError(f"{who} returned a response score that is infinite")
        return
    if not isinstance(returned, Weights):
        raise ContractError(
            f"{who} returned {type(returned).__name__}; it must return moalign.Weights or "
            "moalign.ResponseScores"
        )
    values, shape = returned.values, tuple(returned.values.shape)
    allowed = {(objectives,), (1, 1, objectives), (prompts, 1, objectives)}
    if shape not in allowed | {(1, group, objectives), (prompts, group, objectives)}:
        raise ContractError(
            f"{who} returned weights of shape {list(shape)}; they must be [K], [P, 1, K] or "
            f"[P, G, K] = {[prompts, group, objectives]}, one per objective: "
            f"{', '.join(step.names)}"
        )
    if not torch.isfinite(values).all():
        raise NonFiniteError(
            f"{who} returned weights that are not finite: {values.tolist()}, for "
            f"{_where(~torch.isfinite(values), step)}"
        )
    if "signed" not in weighting.declares and (values < 0).any():
        raise ContractError(
            f"{who} returned a negative weight ({float(values.min())}) without declaring "
            f"'signed', for {_where(values < 0, step)}"
        )
    sums = values.sum(-1)
    if "unnormalised" not in weighting.declares and (sums - 1).abs().max() > 1e-4:
        raise ContractError(
            f"{who} returned weights that sum to "
            f"{float(sums.flatten()[(sums - 1).abs().argmax()]):.6g}, not 1, without declaring "
            f"'unnormalised', for {', '.join(step.names)}"
        )
    gain = torch.as_tensor(returned.gain)
    if tuple(gain.shape) not in {(), (prompts, 1)} or not torch.isfinite(gain).all():
        raise ContractError(
            f"{who} returned the gain {returned.gain}; it must be a finite number or a [P, 1] = "
            f"{[prompts, 1]} tensor"
        )


def _where(wrong: Tensor, step: Step) -> str:
    """Return the objectives for which something is wrong somewhere."""
    wrong_K = wrong.flatten(0, -2).any(0) if wrong.ndim > 1 else wrong
    return ", ".join(name for name, bad in zip(step.names, wrong_K.tolist(), strict=True) if bad)


def check_prompt_weights(
    weighting: Weighting, weights_PK: Tensor, prompts: int, objectives: Sequence[Objective]
) -> None:
    """Check the weights that a weighting says prompts call for.

    Raises:
        ContractError: wrong shape, or off the simplex.
    """
    shape = (prompts, len(objectives))
    who = f"weighting {weighting.name}: prompt_weights()"
    if tuple(weights_PK.shape) != shape:
        raise ContractError(
            f"{who} returned shape {list(weights_PK.shape)}; it must be [P, K] = {list(shape)}"
        )
    off = (weights_PK.sum(-1) - 1).abs().max() > 1e-4
    if not torch.isfinite(weights_PK).all() or (weights_PK < 0).any() or off:
        raise ContractError(
            f"{who} returned weights that are not finite, not negative and of sum 1; the first row "
            f"is {weights_PK[0].tolist()}"
        )
