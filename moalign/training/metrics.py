"""One training step in numbers, for the trackers. Computes and returns; logs nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from moalign.training.gradients import PolicyGradients
from moalign.training.passes import Lesson
from moalign.training.scoring import grouped
from moalign.types import ResponseScores, Step, Weights


def describe(
    step: Step, returned: Weights | ResponseScores, columns: Sequence[str], lesson: Lesson
) -> dict[str, float]:
    """Return a step's metrics by name.

    Of what the policy wrote, none of which there is if nothing is rolled out: ``length``, its mean
    number of tokens; ``finished``, the share that came to its end; ``objective/NAME``, the mean raw
    score. ``loss/NAME`` is an objective's own loss; ``flat_groups/NAME`` the share of prompts
    without an advantage, or without a preference; ``weighting/NAME`` what the weighting reports.

    Args:
        step: what the weighting saw.
        returned: what it returned, checked.
        columns: names of all objectives, monitored ones included.
        lesson: what the step learns from.
    """
    names, batch = step.names, step.batch
    metrics: dict[str, float] = {"learning_rate": step.learning_rate}
    if not lesson.preferences:
        metrics["length"] = float(batch.lengths_B().float().mean())
        metrics["finished"] = float(batch.finished_B.float().mean())
        means = lesson.everything.scores_BK.nanmean(0).tolist()
        for name, mean in zip(columns, means, strict=True):
            if not math.isnan(mean):
                metrics[f"objective/{name}"] = mean
    if step.losses_K is not None:
        for name, loss in zip(names, step.losses_K.tolist(), strict=True):
            if not math.isnan(loss):
                metrics[f"loss/{name}"] = loss
    flat_K = grouped((step.advantages_BTK == 0).all(1), batch).all(1).float().mean(0)
    for k, name in enumerate(names):
        metrics[f"flat_groups/{name}"] = float(flat_K[k])
    metrics |= {f"weighting/{name}": float(v) for name, v in returned.metrics.items()}
    return metrics


def describe_weights(step: Step, used: Sequence[Weights | ResponseScores]) -> dict[str, float]:
    """Return what a step was weighted with, as means over its updates; empty for scores.

    ``weight/NAME`` is the mean weight, ``advantage_share/NAME`` mean |w_k A_k| over the sum of
    these, ``gain`` the mean gain.

    Args:
        step: what the weighting saw.
        used: what it returned for each mini-batch of each epoch, checked.
    """
    weights = [one for one in used if isinstance(one, Weights)]
    if not weights:
        return {}
    values_UPGK = torch.stack([one.values.expand(step.scores_PGK.shape) for one in weights])
    advantages_PGK = grouped(step.advantages_BTK.abs().mean(1), step.batch)
    shares_K = (values_UPGK.abs() * advantages_PGK).mean((0, 1, 2))
    total = float(shares_K.sum())
    gains = [float(torch.as_tensor(one.gain, dtype=torch.float64).mean()) for one in weights]
    metrics = {"gain": math.fsum(gains) / len(gains)}
    for k, name in enumerate(step.names):
        metrics[f"weight/{name}"] = float(values_UPGK[..., k].mean())
        metrics[f"advantage_share/{name}"] = float(shares_K[k]) / total if total else 0.0
    return metrics


def norm_gap(
    step: Step,
    returned: Weights | ResponseScores,
    gradients: PolicyGradients,
    norm: float,
) -> dict[str, float]:
    """Return ``gram/norm_gap``: | |sum_k w_k g_k| - |gradient of the update| |.

    It is 0 if the update is what its weights say: the weighted sum of the objectives' gradients.
    Whitening, rewards that are summed before they are normalised, weights per prompt, terms of the
    loss that are no objective's, and several mini-batches part the two.

    Empty unless the weighting asked for the Gram matrix of everything that is trained, exactly.

    Args:
        step: what the weighting saw.
        returned: its weights, whose mean over completions is w, gain included.
        gradients: g_k.
        norm: of the update's gradient, before it is clipped; mean over the mini-batches.

    Source: a diagnostic of the code of arXiv 2509.11452.
    """
    if isinstance(returned, ResponseScores):
        return {}
    weights = returned.values * torch.as_tensor(returned.gain).unsqueeze(-1)
    expected = gradients.norm(weights.expand(step.scores_PGK.shape).mean((0, 1)))
    return {} if math.isnan(expected) else {"gram/norm_gap": abs(expected - norm)}
