"""A trial that goes on where another one stands, as after a stop."""

from __future__ import annotations

from pathlib import Path

from moalign.training import checkpoint
from moalign.training.loop import Trial


def resumed(first: Trial, fresh: Trial, folder: Path) -> Trial:
    """Put a trial's policy and state through a checkpoint into a fresh trial, and return that."""
    checkpoint.save_state(first.policy.state(), folder, "policy")
    checkpoint.save_state(first.state(), folder, "trial")
    fresh.policy.load_state(checkpoint.load_state(folder, "policy"))
    fresh.load_state(checkpoint.load_state(folder, "trial"))
    return fresh
