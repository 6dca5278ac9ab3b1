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


def seed_torch(seed: int) -> None:
    """Seed torch's own generators, as ``torch.manual_seed`` does, but at no cost without a device.

    Where there is no accelerator, ``torch.manual_seed`` writes the whole stack down for each that
    may be found later: up to milliseconds per call.

    Args:
        seed: from :func:`key`, or any other of torch's range.
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
