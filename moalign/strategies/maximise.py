"""The best point of a search space by a function of rows, as an acquisition function is.

Shapes: N rows, D columns (:class:`~moalign.strategies.coordinates.Coordinates`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from moalign.strategies.coordinates import Coordinates

if TYPE_CHECKING:
    from torch import Tensor

    Score = Callable[[Tensor], Tensor]

ENUMERATED: Final = 512  # rows of a finite space that are all looked at
DRAWN: Final = 128  # rows drawn from any other
NEIGHBOURS: Final = 64  # rows around good ones
STARTS: Final = 6  # local searches; combinations of choices up to here get one each
ITERATIONS: Final = 60  # of each
CHUNK: Final = 64  # rows scored at once
RADIUS: Final = 0.2  # within which a better row stands for another
STEP: Final = 0.1  # standard deviation of a neighbour's columns
TINY: Final = 1e-9  # added to weights, so that a sum is never 0


def maximise(
    score: Score,
    coordinates: Coordinates,
    *,
    good: Sequence[Sequence[float]],
    taken: Sequence[Sequence[float]],
    seed: int,
) -> list[float]:
    """Return the row with the best score that is found, of parameters that are allowed.

    A small finite space is looked at as a whole. Of any other, rows are drawn (Sobol) and varied
    from good ones; the best of them that are not close to each other are improved by L-BFGS-B,
    choices held fixed: with few combinations of choices each gets its own start, else those of the
    best rows do. Integers are rounded at the end, and what was improved and where it began are
    scored again as they would be run. A row that is ``taken`` is returned only if all are.

    On a simplex the search moves proportions in [0, 1], which are divided by their sum before
    they are scored: every face and corner is reached, at a bound, and no stretch of the box stands
    for one point only.

    Args:
        score: values ``[n]`` of rows ``[n, D]`` whose weights sum to 1; differentiable.
        coordinates: the space, of at least one column.
        good: rows that are known to be good.
        taken: rows that were measured or run now.
        seed: of the rows drawn.

    Raises:
        botorch.exceptions.errors.OptimizationGradientError: a derivative is NaN.
    """
    known = {_key(row) for row in taken}
    rows = coordinates.every(ENUMERATED)
    if not rows:
        drawn = _drawn(coordinates, good, seed)
        starts = _starts(drawn, _scores(score, drawn), coordinates)
        rows = [coordinates.legal(row) for row in _improve(score, coordinates, starts)] + starts
    rows = [row for row in rows if _key(row) not in known] or rows
    return rows[int(_scores(score, rows).argmax())]


def _key(row: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value, 9) for value in row)


def _scores(score: Score, rows: Sequence[Sequence[float]]) -> Tensor:
    """Return the scores, without derivatives; one that is not a number is the worst."""
    import torch

    with torch.no_grad():
        chunks = torch.split(torch.tensor(rows, dtype=torch.double), CHUNK)
        values = torch.cat([score(chunk) for chunk in chunks])
    return values.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def _drawn(
    coordinates: Coordinates, good: Sequence[Sequence[float]], seed: int
) -> list[list[float]]:
    """Return rows from the whole space, and some around the good ones."""
    import torch
    from torch.quasirandom import SobolEngine

    generator = torch.Generator().manual_seed(seed)
    engine = SobolEngine(coordinates.uniforms, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    rows = [coordinates.drawn(u) for u in engine.draw(DRAWN, dtype=torch.double).tolist()]
    if not good:
        return rows
    copies = -(-NEIGHBOURS // len(good))
    around = torch.tensor(good, dtype=torch.double).repeat(copies, 1)[:NEIGHBOURS]
    noise = STEP * torch.randn(around.shape, generator=generator, dtype=torch.double)
    noise[:, coordinates.chosen] = 0.0
    return rows + [coordinates.legal(row) for row in (around + noise).clamp(0.0, 1.0).tolist()]


def _starts(
    rows: Sequence[list[float]], values: Tensor, coordinates: Coordinates
) -> list[list[float]]:
    """Return rows to begin local searches at: good ones, apart from one another."""
    order = values.argsort(descending=True, stable=True).tolist()
    chosen = coordinates.chosen
    starts: list[list[float]] = []
    for combination in coordinates.combinations(STARTS) if chosen else []:
        same = (rows[i] for i in order if [rows[i][c] for c in chosen] == combination)
        starts += [row for row in [next(same, None)] if row]
    for index in order:
        if len(starts) >= STARTS:
            break
        if all(_distance(rows[index], start) > RADIUS for start in starts):
            starts.append(rows[index])
    return starts


def _distance(row: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(row, other, strict=True))


def _improve(
    score: Score, coordinates: Coordinates, starts: Sequence[Sequence[float]]
) -> list[list[float]]:
    """Climb from every start; choices stay as they are."""
    import torch
    from botorch.generation.gen import gen_candidates_scipy

    if len(coordinates.chosen) == coordinates.width:
        return []

    def climbed(rows: Tensor) -> Tensor:
        return score(_weighted(rows.squeeze(-2), coordinates))

    begin = torch.tensor(starts, dtype=torch.double)
    improved, _ = gen_candidates_scipy(
        begin.unsqueeze(1),
        climbed,  # type: ignore[arg-type]
        torch.zeros(coordinates.width, dtype=torch.double),
        torch.ones(coordinates.width, dtype=torch.double),
        options={"maxiter": ITERATIONS},
        fixed_features={column: begin[:, column] for column in coordinates.chosen},
    )
    rows: list[list[float]] = improved.squeeze(1).tolist()
    return rows


def _weighted(rows: Tensor, coordinates: Coordinates) -> Tensor:
    """Divide the columns of each simplex by their sum."""
    import torch

    parts, done = [], 0
    for columns in coordinates.simplexes:
        proportions = rows[..., columns.start : columns.stop] + TINY
        parts += [
            rows[..., done : columns.start],
            proportions / proportions.sum(-1, keepdim=True),
        ]
        done = columns.stop
    return torch.cat([*parts, rows[..., done:]], dim=-1)
