"""One training step in numbers, for the trackers. Computes and returns; logs nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from moalign.training.scoring import Scores, grouped
from moalign.types import ResponseScores, Step, Weights


def describe(
    step: Step, returned: Weights | ResponseScores, columns: Sequence[str], everything: Scores
) -> dict[str, float]:
    """Return a step's metrics by name.

    ``objective/NAME`` is the mean raw score; ``flat_groups/NAME`` the share of prompts without an
    advantage; ``weight/NAME`` the mean weight; ``advantage_share/NAME`` is mean |w_k A_k| over
    the sum of these.

    Args:
        step: what the weighting saw.
        returned: what it returned, checked.
        columns: names of all objectives, monitored ones included.
        everything: their scores.
    """
    names, batch = step.names, step.batch
    metrics: dict[str, float] = {
        "learning_rate": step.learning_rate,
        "length": float(batch.lengths_B().float().mean()),
        "finished": float(batch.finished_B.float().mean()),
    }
    means = everything.scores_BK.nanmean(0).tolist()
    for name, mean in zip(columns, means, strict=True):
        if not math.isnan(mean):
            metrics[f"objective/{name}"] = mean
    flat_K = grouped((step.advantages_BTK == 0).all(1), batch).all(1).float().mean(0)
    for k, name in enumerate(names):
        metrics[f"flat_groups/{name}"] = float(flat_K[k])
    metrics |= {f"weighting/{name}": float(v) for name, v in returned.metrics.items()}
    if isinstance(returned, Weights):
        shape = step.scores_PGK.shape
        values_PGK = returned.values.expand(shape)
        advantages = grouped(step.advantages_BTK.abs().mean(1), batch)
        shares_K = (values_PGK.abs() * advantages).mean((0, 1))
        total = float(shares_K.sum())
        for k, name in enumerate(names):
            metrics[f"weight/{name}"] = float(values_PGK[..., k].mean())
            metrics[f"advantage_share/{name}"] = float(shares_K[k]) / total if total else 0.0
        gain = returned.gain
        metrics["gain"] = float(gain.mean()) if isinstance(gain, Tensor) else float(gain)
    return metrics
