"""Where everything of a run lies. The record and the checkpoint folders are the only truth.

::

    runs/
      .artifacts/<hash>/            base policies and prepared artifacts, shared by runs
      mlflow.db  mlflow/            the default tracking store and its artifacts
      <run>/
        study.yaml                  the fully resolved study
        events.jsonl  lock          the record; written by the driver only
        base/artifact.json          which artifact the base policy is
        base/<weighting>-*.json     which artifact a weighting has prepared; so for what was
                                    sampled or measured of the base policy before training
        base/step-00000/            the base policy's measurements
        trials/0003/step-00040/     a checkpoint
          validation.json           measurements; always kept (test.json beside it at the end)
          policy/                   what was trained, safetensors; kept while it is of use
          training/                 what is needed to go on; kept while the trial lives
        front.png  front.html  points.csv  report.md  front/<point>/
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path

from moalign.types import BASE, Split


def beside_of(path: Path) -> Path:
    """Return where to write what is to stand at a path once it is whole: a name of its own.

    Machines that share a folder may share process numbers, too.
    """
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def artifacts(self) -> Path:
        """Base policies and prepared artifacts."""
        return self.path.parent / ".artifacts"

    @property
    def events(self) -> Path:
        """The record."""
        return self.path / "events.jsonl"

    @property
    def lock(self) -> Path:
        """The lock file that keeps a second driver out."""
        return self.path / "lock"

    @property
    def study(self) -> Path:
        """The fully resolved study."""
        return self.path / "study.yaml"

    @property
    def base_artifact(self) -> Path:
        """The file that names the artifact of the base policy."""
        return self.path / "base" / "artifact.json"

    def prepared_artifact(self, asked: str) -> Path:
        """Return the file that names the artifact that was prepared for what was asked."""
        return self.path / "base" / f"{asked}.json"

    def used_artifacts(self) -> list[Path]:
        """Return the folders of all artifacts that the run uses, whether they stand or not."""
        return self._artifacts(list(self.base_artifact.parent.glob("*.json")))

    def prepared_artifacts(self) -> list[Path]:
        """Return what was made before training beside the base policy, as far as it is left."""
        memories = self.base_artifact.parent.glob("*.json")
        found = self._artifacts([memory for memory in memories if memory != self.base_artifact])
        return [path for path in found if path.is_dir()]

    def _artifacts(self, memories: list[Path]) -> list[Path]:
        found = set()
        for memory in memories:
            try:
                name = json.loads(memory.read_text(encoding="utf-8"))["artifact"]
            except (OSError, ValueError, KeyError):  # whoever needs it makes it again
                continue
            found.add(self.artifacts / str(name))
        return sorted(found)

    def trial(self, trial: int) -> Path:
        """Return the folder of a trial, or of the base policy."""
        return self.path / "base" if trial == BASE else self.path / "trials" / f"{trial:04d}"

    def checkpoint(self, trial: int, step: int) -> Path:
        """Return the folder of a checkpoint."""
        return self.trial(trial) / f"step-{step:05d}"

    def measurements(self, trial: int, step: int, split: Split) -> Path:
        """Return the file with a checkpoint's measurements on a split."""
        return self.checkpoint(trial, step) / f"{split}.json"

    def policy(self, trial: int, step: int) -> Path:
        """Return the folder with what was trained up to a checkpoint."""
        return self.checkpoint(trial, step) / "policy"

    def training(self, trial: int, step: int) -> Path:
        """Return the folder with what is needed to go on from a checkpoint."""
        return self.checkpoint(trial, step) / "training"
