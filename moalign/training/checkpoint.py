"""Component states on disk: tensors in safetensors, the rest in JSON. No pickle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from moalign.errors import RecordError

_TENSOR = "$tensor"
_PAIRS = "$pairs"


def save_state(state: Mapping[str, Any], folder: Path, name: str) -> None:
    """Write a nested state to ``name.json`` and ``name.safetensors`` in ``folder``.

    Takes tensors, numbers, text, booleans, None, and lists and mappings of these. Numbers come
    back equal to the bit; infinities and NaN are allowed.

    Raises:
        TypeError: anything else.
    """
    tensors: dict[str, Tensor] = {}
    plain = _flatten(state, tensors, name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(plain), encoding="utf-8")
    # Through bytes: safetensors' own writing hides what the system says of a full disk.
    (folder / f"{name}.safetensors").write_bytes(save(tensors))


def load_state(folder: Path, name: str) -> dict[str, Any]:
    """Read what :func:`save_state` wrote; tensors are on the CPU.

    Raises:
        RecordError: a file is missing or damaged.
    """
    try:
        plain = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / f"{name}.safetensors")
        state: dict[str, Any] = _restore(plain, tensors)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise RecordError(
            f"checkpoint {folder}: {name} cannot be read ({error}); delete the checkpoint's folder "
            "and run the same command again"
        ) from error
    return state


def _flatten(value: Any, tensors: dict[str, Tensor], path: str) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        if all(isinstance(k, str) for k in value):
            return {k: _flatten(v, tensors, f"{path}.{k}") for k, v in value.items()}
        if not all(isinstance(k, str | int) for k in value):
            raise TypeError(f"the state {path} has keys that are neither text nor whole numbers")
        return {_PAIRS: [[k, _flatten(v, tensors, f"{path}.{k}")] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [_flatten(v, tensors, f"{path}.{i}") for i, v in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"the state {path} holds a {type(value).__name__}; states are tensors, numbers, text, and "
        "lists and mappings of these"
    )


def _restore(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_TENSOR}:
            return tensors[value[_TENSOR]]
        if set(value) == {_PAIRS}:
            return {k: _restore(v, tensors) for k, v in value[_PAIRS]}
        return {k: _restore(v, tensors) for k, v in value.items()}
    if isinstance(value, list):
        return [_restore(v, tensors) for v in value]
    return value


def publish(written: Path, final: Path) -> bool:
    """Rename a finished folder into place; the first one wins.

    Returns:
        False if ``final`` stood already; ``written`` is then deleted.
    """
    for file in written.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    try:
        written.rename(final)
    except OSError:
        if not final.is_dir():
            raise
        shutil.rmtree(written)
        return False
    return True
