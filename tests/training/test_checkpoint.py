"""States on disk: equal to the bit, no pickle, damage is told."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from moalign import RecordError
from moalign.training.checkpoint import load_state, publish, save_state


def test_round_trip(tmp_path: Path) -> None:
    state = {
        "float": 0.1 + 0.2,
        "infinite": math.inf,
        "none": None,
        "yes": True,
        "text": "ü",
        "list": [1, [2.5, torch.arange(3)]],
        "keys": {0: torch.ones(2, dtype=torch.float64), 1: {"a": torch.zeros(0)}},
    }
    save_state(state, tmp_path / "new", "state")
    back = load_state(tmp_path / "new", "state")
    assert back["float"] == state["float"]
    assert back["infinite"] == math.inf
    assert back["none"] is None
    assert back["yes"] is True
    assert back["text"] == "ü"
    assert torch.equal(back["list"][1][1], torch.arange(3))
    assert list(back["keys"]) == [0, 1]
    assert back["keys"][0].dtype == torch.float64
    assert back["keys"][1]["a"].shape == (0,)


def test_aliased_and_strided_tensors_are_saved_apart(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    save_state({"a": whole, "b": whole[::2], "c": whole}, tmp_path, "state")
    back = load_state(tmp_path, "state")
    assert torch.equal(back["b"], torch.tensor([0.0, 2.0, 4.0]))
    assert torch.equal(back["a"], back["c"])


def test_torch_optimizer_state_goes_through(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    parameter.sum().backward()
    optimizer.step()
    save_state(optimizer.state_dict(), tmp_path, "state")
    other = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))], lr=0.1)
    other.load_state_dict(load_state(tmp_path, "state"))
    mine, theirs = optimizer.state_dict(), other.state_dict()
    # Tuples come back as lists, which is all the same to torch.
    assert theirs["param_groups"] == [g | {"betas": [0.9, 0.999]} for g in mine["param_groups"]]
    for name, value in mine["state"][0].items():
        assert torch.equal(value, theirs["state"][0][name])


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="holds a set; states are tensors"):
        save_state({"a": [{1}]}, tmp_path, "state")


@pytest.mark.parametrize("damage", ["missing", "truncated", "json"])
def test_damage_is_told(tmp_path: Path, damage: str) -> None:
    save_state({"a": torch.ones(10)}, tmp_path, "state")
    tensors = tmp_path / "state.safetensors"
    if damage == "missing":
        tensors.unlink()
    elif damage == "truncated":
        tensors.write_bytes(tensors.read_bytes()[:-5])
    else:
        (tmp_path / "state.json").write_text("{")
    with pytest.raises(RecordError, match="state cannot be read"):
        load_state(tmp_path, "state")


def test_the_first_rename_wins(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"attempt{number}").mkdir()
        (tmp_path / f"attempt{number}" / "file").write_text(str(number))
    assert publish(tmp_path / "attempt1", tmp_path / "final")
    assert not publish(tmp_path / "attempt2", tmp_path / "final")
    assert (tmp_path / "final" / "file").read_text() == "1"
    assert not (tmp_path / "attempt2").exists()
