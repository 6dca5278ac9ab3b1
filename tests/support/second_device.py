"""A second device, pretended on the CPU: tensors that lie there must not meet tensors that do not.

What mixes devices on a GPU is found without one. A tensor of the second device holds one of the CPU
and computes on it, so numbers are those of the CPU. It calls itself ``meta``, because that is the
one other device that every build of PyTorch knows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

AWAY: Final = torch.device("meta")
_ATEN: Final = torch.ops.aten
_MOVES: Final = {_ATEN.copy_.default, _ATEN._to_copy.default}
_INDEXES: Final = {
    _ATEN.index.Tensor,
    _ATEN.index_put.default,
    _ATEN.index_put_.default,
    _ATEN._index_put_impl_.default,
}
"""An index may lie on the CPU."""


class Away(Tensor):
    """A tensor of the second device.

    Attributes:
        here: the tensor of the CPU that it stands for.
    """

    here: Tensor
    is_meta = False  # or modules would take no state
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: Tensor) -> Away:
        made = Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=AWAY,
        )
        made.here = here
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Away({self.here!r})"

    def tolist(self) -> Any:
        return self.here.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("numpy() of a tensor of another device; take .cpu() first")

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class _Dispatched(TorchDispatchMode):
    """Sees to what is made on the second device, or moved there."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class _Called(TorchFunctionMode):
    """Sees to what PyTorch makes of Python's numbers and lists without a dispatch."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and _is_away(kwargs.get("device")):
            del kwargs["device"]
            return func(*args, **kwargs).to(AWAY)
        if func is Tensor.new_tensor and isinstance(args[0], Away):
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(AWAY)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(i) if isinstance(i, list) else i for i in index)
            args = (args[0], index, *args[2:])
        if func == Tensor.data.__set__ and isinstance(args[1], Away) > isinstance(args[0], Away):
            moved = torch.nn.Parameter(args[1], args[0].requires_grad)
            return torch.utils.swap_tensors(args[0], moved)
        return func(*args, **kwargs)


@contextlib.contextmanager
def second_device() -> Iterator[torch.device]:
    """Let there be a second device, and yield it."""
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    inference_mode = torch.inference_mode
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch.inference_mode = torch.no_grad  # type: ignore[misc,assignment]  # has no such tensors
    try:
        with _Dispatched(), _Called():
            yield AWAY
    finally:
        torch.inference_mode = inference_mode  # type: ignore[misc]
        torch.__future__.set_swap_module_params_on_conversion(swaps)


def _is_away(device: Any) -> bool:
    return device is not None and torch.device(device) == AWAY


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    given = [*_tensors(args), *_tensors([*kwargs.values()])]
    away = [x for x in given if isinstance(x, Away)]
    home = [x for x in given if not isinstance(x, Away)]
    if any(x.device == AWAY for x in home):
        raise AssertionError(f"{func}: a tensor was made on the second device unseen")
    indexed = func in _INDEXES and isinstance(args[0], Away)
    meet = [x for x in (args[2:3] if indexed else home) if isinstance(x, Tensor) and x.ndim]
    if away and func not in _MOVES and any(not isinstance(x, Away) for x in meet):
        shapes = [f"{'away' if isinstance(x, Away) else 'cpu'} {list(x.shape)}" for x in given]
        raise RuntimeError(f"{func}: tensors on two devices: {', '.join(shapes)}")
    target = kwargs.get("device")
    if _is_away(target):
        kwargs = {**kwargs, "device": torch.device("cpu")}
    named = {name: _mapped(_here, value) for name, value in kwargs.items()}
    found = func(*_mapped(_here, args), **named)
    if func is _ATEN.copy_.default:
        return args[0]
    stays = not away if target is None else not _is_away(target)
    if stays or func is _ATEN._local_scalar_dense.default:
        return found
    return return_and_correct_aliasing(func, args, kwargs, _mapped(Away, found))


def _here(tensor: Tensor) -> Tensor:
    return tensor.here if isinstance(tensor, Away) else tensor


# Each operator passes here: with PyTorch's own trees, which know any container, most of the time
# of a step would go there.


def _tensors(given: Sequence[Any]) -> Iterator[Tensor]:
    for item in given:
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, (list, tuple)):
            yield from _tensors(item)


def _mapped(function: Callable[[Tensor], Tensor], given: Any) -> Any:
    if isinstance(given, Tensor):
        return function(given)
    if type(given) in (list, tuple):
        return type(given)(_mapped(function, item) for item in given)
    return given
