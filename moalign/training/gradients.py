"""Inner products of per-objective policy gradients, behind ``step.gram()``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter


def gram_of(gradients_KN: Tensor) -> Tensor:
    """Return the Gram matrix of gradients, ``[K, N]`` float32 to ``[K, K]`` float64."""
    return (gradients_KN.double() @ gradients_KN.double().T).cpu()


def per_objective_gradients(
    parameters: Sequence[Parameter],
    passes: Sequence[Callable[[], Tensor]],
    objectives: int,
) -> Tensor:
    """Return one flat gradient per objective, summed over micro-batches.

    One forward pass per micro-batch is shared by all objectives; there are K backward passes.

    Args:
        parameters: what is trained, each once.
        passes: one function per micro-batch that returns its K scalar terms, ``[K]``.
        objectives: K.

    Returns:
        ``[K, N]`` float32, N the number of parameters' elements; the gradient of each term.
    """
    size = sum(parameter.numel() for parameter in parameters)
    total = torch.zeros(objectives, size, device=parameters[0].device)
    for terms in passes:
        terms_K = terms()
        for k in range(objectives):
            grads = torch.autograd.grad(
                terms_K[k],
                parameters,
                retain_graph=k < objectives - 1,
                materialize_grads=True,
            )
            total[k] += torch.cat([grad.flatten().float() for grad in grads])
    return total
