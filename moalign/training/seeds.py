"""Random numbers keyed by what they are for, so that nothing depends on what ran before."""

from __future__ import annotations

import hashlib
import json

import torch


def key(*parts: object) -> int:
    """Return a 63-bit seed for a purpose, for example ``key(seed, trial, step, "dropout")``.

    Args:
        parts: plain data; equal parts give equal seeds on every machine.
    """
    text = json.dumps(parts, separators=(",", ":"))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*parts: object) -> torch.Generator:
    """Return a CPU generator seeded by :func:`key`."""
    return torch.Generator().manual_seed(key(*parts))
