"""The weights that a prompt calls for, when a policy is used: from a run, or from an export.

From an export, in Python::

    from moalign.reporting.adapter import load_adapter

    adapter = load_adapter("exported/adapter")
    adapter("17+48+25")     # {"accuracy": 0.5, "conciseness": 0.1, "clarity": 0.4}
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from moalign.errors import RecordError
from moalign.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.components import PolicySource, Weighting
    from moalign.search.folders import RunFolder
    from moalign.study.study import Study
    from moalign.training.policy import Policy

FOLDER: Final = "adapter"
"""Where it lies beside an exported policy."""

_FORMAT: Final = 1
_ABOUT: Final = "adapter.json"
_PREPARED: Final = "prepared"
_BASE: Final = "base"


class Adapter:
    """Says what weights a prompt calls for.

    Attributes:
        names: the objectives.
    """

    def __init__(
        self, weighting: Weighting, names: Sequence[str], source: PolicySource, base: Path
    ) -> None:
        """Take a weighting that has learnt, and where the base policy lies, in case it is read.

        Args:
            weighting: declares ``prompt-weights``; what it prepared is loaded.
            names: the training objectives, in their order.
            source: loads the base policy.
            base: its folder.
        """
        self.names = tuple(names)
        self._weighting, self._source, self._base = weighting, source, base

    def __call__(self, text: str) -> dict[str, float]:
        """Return the weights by objective of a prompt, given as the policy reads it."""
        return self.weights(Prompt(id="typed", text=text))

    def weights(self, prompt: Prompt) -> dict[str, float]:
        """Return the weights by objective that a prompt calls for; they sum to 1."""
        weights_PK = self._weighting.prompt_weights([prompt], lambda: self._features(prompt))
        return dict(zip(self.names, weights_PK[0].double().tolist(), strict=True))

    def _features(self, prompt: Prompt) -> Tensor:
        return self._reader.prompt_features([self._reader.prompt_ids(prompt, None)]).cpu()

    @cached_property
    def _reader(self) -> Policy:
        """The base policy."""
        from moalign.training.policy import Policy, choose_device_and_dtype

        loaded = self._source.load(self._base, list(self.names))
        return Policy(loaded, *choose_device_and_dtype(), lambda: loaded)


def adapter_of(study: Study, run: RunFolder) -> Adapter | None:
    """Return the adapter of a study's weighting; None if a policy has no use for one.

    Args:
        study: with the values of the trial whose policy is used.
        run: where what was prepared is cached.
    """
    from moalign.search.artifacts import base_folder, prepared

    weighting = study.new_weighting()
    if study.policy.condition == "none" or "prompt-weights" not in weighting.declares:
        return None
    state = prepared(study, run)
    if state is not None:
        weighting.load_prepared(state)
    names = [o.name for o in study.train_objectives]
    return Adapter(weighting, names, study.policy, base_folder(study, run))


def write_adapter(study: Study, run: RunFolder, folder: Path) -> None:
    """Write a study's adapter to a new folder: what it has learnt, and what it reads prompts with.

    If it reads the base policy's features, that policy lies in ``base``: the model that was built
    from scratch, or which pretrained one it is. Files are linked where the disk allows it.

    Raises:
        OSError: full disk, read-only folder.
    """
    from moalign.search.artifacts import base_folder, prepared
    from moalign.training.checkpoint import save_state

    weighting = study.new_weighting()
    about = {
        "format": _FORMAT,
        "objectives": [o.name for o in study.train_objectives],
        "weighting": study.data["weighting"],
        "policy": study.data["policy"],
    }
    folder.mkdir()
    (folder / _ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    state = prepared(study, run)
    if state is not None:
        save_state(state, folder, _PREPARED)
    if "prompt_features" in weighting.needs:
        shutil.copytree(base_folder(study, run), folder / _BASE, copy_function=_linked)


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def load_adapter(folder: str | Path, plugin_files: Iterable[Path] = ()) -> Adapter:
    """Load an adapter that was exported beside a policy.

    Args:
        folder: the folder ``adapter`` of the export.
        plugin_files: those that the study was run with.

    Raises:
        RecordError: it is no such folder, or is damaged.
        PluginError: its weighting or its policy source is not installed.
    """
    from moalign import plugins
    from moalign.components import PolicySource, Weighting
    from moalign.training.checkpoint import load_state

    folder = Path(folder)
    try:
        about: Mapping[str, Any] = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        names, given, policy = about["objectives"], about["weighting"], about["policy"]
        if about["format"] != _FORMAT:
            raise ValueError(f"its format is {about['format']}, this version reads {_FORMAT}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(
            f"{folder} holds no adapter that can be read ({error}); give the folder {FOLDER!r} of "
            "an exported policy"
        ) from error
    catalogue = plugins.load(plugin_files)
    weighting = catalogue.build(Weighting, given)
    if weighting.recipe() is not None:
        weighting.load_prepared(load_state(folder, _PREPARED))
    return Adapter(weighting, names, catalogue.build(PolicySource, policy), folder / _BASE)
