"""The tracker mlflow: one run per study, one nested run per trial, the front as model versions.

Three parts: :class:`MLflow` hears the hooks and returns at once, :class:`_Writer` does jobs in a
thread, and :class:`_Store`, which the jobs act on, is the only part that knows MLflow.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
import math
import os
import queue
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from moalign import BASE, MoalignError, Tracker, hookimpl
from moalign.types import Evaluation, Objective, Observation, Proposal, Start, StepEvent

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.entities.model_registry import RegisteredModel

DELAY: Final = 1.0  # seconds that a metric waits for others before it is written
PATIENCE: Final = 120.0  # seconds without any success after which flushing gives up

_METRICS: Final = 1000  # the most that MLflow takes in one call
_TAGS: Final = 100  # and the most parameters or tags
_ENVIRONMENT: Final = {  # read by mlflow; what stands there already is respected
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_NAMED_BY_PEOPLE: Final = {"objectives", "search.space"}  # their keys name no components
_LONGEST: Final = 500  # characters of a parameter
_ROWS: Final = 20  # points of the front in the description

_RUN: Final = "moalign.run"  # tag: which run of moalign, the same after a resume
_PART: Final = "moalign.part"  # tag: "study", "base", or a trial's number
_NOTE: Final = "mlflow.note.content"
_BETWEEN_NOTES: Final = " | "
_VIEW: Final = "mlflow.sharedViewState."  # tag of an experiment: a saved view of the UI
_KIND: Final = {"mlflow.experimentKind": "custom_model_development"}  # else the UI asks

T = TypeVar("T")

Values = Mapping[str, tuple[float, float]]
"""Mean and standard error by objective."""


class MLflow(Tracker):
    """Writes a study to MLflow: watch it while it runs, compare its trials, find its policies.

    One run per study, named after its folder; nested below it one run per trial, and one for the
    base policy. A trial's run holds its parameters; per step every objective, weight and advantage
    share, loss, entropy and length; at rungs and at the end what validation measured, with standard
    errors; and a table of sample completions with their scores. Tags say how it ended, why, and
    whether it is on the front. The study's run holds the hypervolume over the trials and, at the
    end, the front as picture and page, all points, and the resolved study. Each point of the front
    is a version of a registered model called like the run, under an alias called like the point
    (``models:/restaurants@t03``). Its source is the exported folder as it is, no pickled flavour.

    Where: at ``MLFLOW_TRACKING_URI`` if that is set, else in the SQLite file ``mlflow.db`` beside
    the run's folder, with artifacts in ``mlflow/`` beside it; no server is needed, and
    ``moalign ui`` opens it. Credentials come from the environment and are never written down.
    MLflow's own telemetry is off unless ``MLFLOW_DISABLE_TELEMETRY`` says otherwise.

    All writing happens in a thread, metrics at most a second late; a new SQLite file takes some
    seconds. What cannot be written is reported, and training goes on. A study that is gone on with
    goes on with its runs: a value that is there already is not written twice.

    Example:
        ``trackers: [{mlflow: {experiment: summaries}}]``
    """

    name: ClassVar[str] = "mlflow"

    def __init__(self, *, experiment: str | None = None) -> None:
        """Take the experiment's name.

        Args:
            experiment: the MLflow experiment that the runs belong to; default: the study's name.
        """
        self._experiment = experiment
        self._writer: _Writer | None = None

    @hookimpl
    def moalign_study_started(  # noqa: PLR0917
        self,
        run: Path,
        study: Mapping[str, Any],
        objectives: Sequence[Objective],
        time: float,
        versions: Mapping[str, str],
        plugins: Mapping[str, str],
        revision: str | None,
    ) -> None:
        """Open the store, find or create the study's run, and say what it is."""
        self.close()
        for variable, value in _ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        # MLflow brings it in, in the thread; plotly and matplotlib look for it among the loaded
        # modules, where they must not find half of it.
        importlib.import_module("pandas")
        about = _About(run.resolve(), study, tuple(objectives), time, versions, plugins, revision)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or None
        experiment = self._experiment or str(study["study"])
        self._writer = _Writer(lambda: _Store(uri, experiment, about), uri or about.database)
        self._do(_Store.study_started)

    @hookimpl
    def moalign_base_measured(self, evaluation: Evaluation, values: Values, time: float) -> None:
        """Write what the base policy is worth."""
        self._do(lambda store: store.base_measured(evaluation, values, time))

    @hookimpl
    def moalign_trial_started(self, trial: int, proposal: Proposal, time: float) -> None:
        """Create the trial's run."""
        self._do(lambda store: store.trial_started(trial, proposal, time))

    @hookimpl
    def moalign_step_ended(self, event: StepEvent) -> None:
        """Write the step's metrics."""
        self._do(lambda store: store.step_ended(event))

    @hookimpl
    def moalign_segment_ended(
        self,
        trial: int,
        observations: Sequence[Observation],
        evaluations: Sequence[Evaluation],
        values: Sequence[Values],
        time: float,
    ) -> None:
        """Write what a checkpoint is worth, and sample completions."""
        self._do(lambda store: store.segment_ended(trial, observations, evaluations, values, time))

    @hookimpl
    def moalign_trial_ended(self, trial: int, outcome: str, reason: str, time: float) -> None:
        """Write how the trial ended, and end its run."""
        self._do(lambda store: store.trial_ended(trial, outcome, reason, time))

    @hookimpl
    def moalign_front_updated(
        self, points: Sequence[Observation], hypervolume: float, trials: int, time: float
    ) -> None:
        """Write the hypervolume, and mark the trials that are on the front."""
        self._do(lambda store: store.front_updated(points, hypervolume, trials, time))

    @hookimpl
    def moalign_study_ended(self, outcome: str, files: Mapping[str, Path]) -> None:
        """Write the files and the policies of the front, and end the study's run."""
        self._do(lambda store: store.log_files(files))
        points = _front_points(files["points_csv"]) if "points_csv" in files else []
        self._do(lambda store: store.describe(points))
        if "policies" in files:
            for point in points:
                folder = files["policies"] / point["point"]
                self._do(partial(_Store.register, point=point, folder=folder))
            self._do(lambda store: store.retire([point["point"] for point in points]))
        self._do(lambda store: store.study_ended(outcome))

    def _do(self, job: _Job) -> None:
        if self._writer is not None:
            self._writer.put(job)

    def flush(self) -> None:
        """Write everything that is queued."""
        if self._writer is not None:
            self._writer.finish(_Store.write)

    def close(self) -> None:
        """Write everything that is queued, and end the thread."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.finish(None)


# --- the thread --------------------------------------------------------------------------------


class _Writer:
    """Does jobs one after another in a thread of its own; none that fails stops the next one.

    The first failure is raised by the call after it; those that follow, by :meth:`finish`.
    """

    def __init__(self, open_store: Callable[[], _Store], uri: str) -> None:
        self._open_store = open_store
        self._uri = uri
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._left = 0  # jobs that are not done
        self._successes = 0
        self._moved = threading.Condition()
        self._failures: list[str] = []
        self._told = 0  # failures that were raised
        threading.Thread(target=self._work, name="moalign-mlflow", daemon=True).start()

    def put(self, job: _Job) -> None:
        """Queue a job and return."""
        self._queue(job)
        if not self._told:
            self._tell()

    def finish(self, job: _Job | None) -> None:
        """Queue a job and wait for it, as long as others succeed; None ends the thread."""
        self._queue(job)
        with self._moved:
            while self._left:
                before = self._successes
                if not self._moved.wait_for(partial(self._moves, before), PATIENCE):
                    silence = f"no success for {PATIENCE:g} s; {self._left} events are not written"
                    self._failures.append(silence)
                    break
        self._tell()

    def _moves(self, successes: int) -> bool:
        return self._left == 0 or self._successes > successes

    def _queue(self, job: _Job | None) -> None:
        with self._moved:
            self._left += 1
        self._jobs.put(job)

    def _tell(self) -> None:
        new, self._told = self._failures[self._told :], len(self._failures)
        if new:
            more = f" ({len(new) - 1} more writes failed)" if len(new) > 1 else ""
            text = f"MLflow at {self._uri} does not take what it is given: {new[0]}{more}"
            raise MoalignError(_without_passwords(text))

    def _work(self) -> None:
        store = self._try(self._open_store)
        job: _Job | None = _Store.write
        while job is not None:
            left = store.seconds_left() if store is not None else None
            if store is not None and left == 0.0:
                self._try(store.write)
                continue
            try:
                job = self._jobs.get(timeout=left)
            except queue.Empty:
                continue
            if store is not None:
                self._try(job or _Store.write, store)
            with self._moved:
                self._left -= 1
                self._moved.notify_all()

    def _try(self, function: Callable[..., T], *arguments: Any) -> T | None:
        try:
            result = function(*arguments)
            self._successes += 1
        except Exception as error:
            first, *_ = str(error).splitlines() or [""]
            self._failures.append(f"{type(error).__name__}: {first}")
            return None
        return result


def _without_passwords(text: str) -> str:
    return re.sub(r"://[^/\s@]*@", "://***@", text)


# --- MLflow ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _About:
    """What :meth:`MLflow.moalign_study_started` was told."""

    run: Path
    study: Mapping[str, Any]
    objectives: tuple[Objective, ...]
    time: float
    versions: Mapping[str, str]
    plugins: Mapping[str, str]
    revision: str | None

    @property
    def database(self) -> str:
        """The address of the SQLite file beside the run's folder."""
        return _address(self.file)

    @property
    def file(self) -> Path:
        """That file."""
        return self.run.parent / "mlflow.db"

    @property
    def key(self) -> str:
        """What tells this run from an earlier one of the same name; the same after a resume."""
        return hashlib.sha256(f"{self.run.name} {self.time!r}".encode()).hexdigest()[:16]

    @property
    def front(self) -> list[str]:
        """Names of the front objectives."""
        return [objective.name for objective in self.objectives if objective.front]

    def weights(self, values: Mapping[str, Any]) -> Mapping[str, float]:
        """Return what a trial weights the objectives by; empty if the weighting has no weights."""
        if searched := values.get("weighting.preference"):  # a schedule's ends are parameters
            return dict(searched)
        if "weighting" in values:  # a strategy set another one
            return {}
        weighting = self.study.get("weighting")
        options = next(iter(weighting.values()), None) if isinstance(weighting, Mapping) else None
        if not options or "preference" not in options:
            return {}
        trained = [objective.name for objective in self.objectives if objective.train]
        given = options["preference"] or dict.fromkeys(trained, 1.0)
        return {name: given[name] / sum(given.values()) for name in trained}


def _address(file: Path) -> str:
    path = str(file).replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{path}"


def _make_database(file: Path, create: Callable[[str], object]) -> None:
    """Make a database that is not there, whole or not at all; of two that are made the first wins.

    MLflow takes seconds to make its tables, and can never open a file that has some of them.
    """
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".mlflow-", dir=file.parent) as folder:
        made = Path(folder, file.name)
        create(_address(made))
        try:
            os.link(made, file)
        except FileExistsError:
            return
        except OSError:  # a file system without links
            made.rename(file)


class _Store:
    """A study's runs in MLflow. It lives in the writer's thread; its public methods are jobs."""

    def __init__(self, uri: str | None, experiment: str, about: _About) -> None:
        """Connect, and find what an earlier call of the same study has written."""
        from mlflow import MlflowClient
        from mlflow.utils.logging_utils import should_suppress_logs_in_thread

        # Failures are reported by the driver, once.
        should_suppress_logs_in_thread.set(True)  # type: ignore[no-untyped-call]
        self.about = about
        if uri is None:
            _make_database(about.file, lambda new: MlflowClient(new).search_experiments())
        self.client = MlflowClient(uri or about.database)
        self.own = uri is None  # our database: who reads it can read the run's folder as well
        self.experiment = self._experiment(experiment)
        self.found = {run.info.run_id: run for run in self._search()}
        runs = self.found.items()
        self.runs: dict[str, str] = {run.data.tags[_PART]: key for key, run in runs}
        self.tags = {key: dict(run.data.tags) for key, run in runs}
        self.params = {key: set(run.data.params) for key, run in runs}
        self.steps: dict[tuple[str, str], set[int]] = {}  # by run and metric, written or waiting
        self.waiting: dict[str, list[Metric]] = {}  # by run
        self.due: float | None = None
        self.hypervolume: float | None = None

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            folder = (self.about.run.parent / "mlflow").as_uri() if self.own else None
            try:
                return self.client.create_experiment(name, folder, _KIND)
            except MlflowException:
                found = self.client.get_experiment_by_name(name)  # another study made it just now
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _search(self) -> Iterator[Run]:
        token: str | None = None
        while token != "":
            page = self.client.search_runs(
                [self.experiment], f"tags.`{_RUN}` = '{self.about.key}'", page_token=token
            )
            yield from page
            token = page.token or ""

    # --- jobs ----------------------------------------------------------------------------------

    def study_started(self) -> None:
        """Find or create the study's run, and say what it is."""
        about, run, params = self.about, self._study(), dict(_flat(self.about.study))
        paths = ("task", "policy", "weighting", "training.optimizer", "search.strategy")
        tags = {path.rpartition(".")[2]: params[path] for path in paths if path in params}
        tags |= {f"version.{name}": version for name, version in about.versions.items()}
        tags |= {f"plugin.{Path(path).name}": digest for path, digest in about.plugins.items()}
        self._tag(run, {"objectives": ", ".join(about.front), **tags, "outcome": "running"})
        self._params(run, params)
        self.describe([])
        self.client.set_experiment_tag(self.experiment, f"{_VIEW}{about.key}", self._view())
        self.client.log_dict(run, json.loads(json.dumps(about.study)), "study.yaml")
        for part, child in self.runs.items():
            if part == "study" or self.tags[child].get("outcome") == "interrupted":
                self.client.update_run(child, status="RUNNING")
                self._tag(child, {"outcome": "running"})

    def base_measured(self, evaluation: Evaluation, values: Values, time: float) -> None:
        """Write what the base policy is worth."""
        run = self._child(BASE, time, "base")
        self._values(run, [values], 0, time)
        self._samples(run, [None], [evaluation])
        self._end(run, "finished", time)

    def trial_started(self, trial: int, proposal: Proposal, time: float) -> None:
        """Create the trial's run."""
        values = proposal.values
        weights = self.about.weights(values)
        searched = {path: value for path, value in values.items() if path in proposal.params}
        run = self._child(trial, time, _title(trial, searched, weights))
        steps = {} if proposal.steps is None else {"training.steps": proposal.steps}
        given = {**steps, **values, "start": _start(proposal.start)}
        self._params(run, dict(_flat(given)))
        if "outcome" not in self.tags[run]:
            origin = {"origin": proposal.reason} if proposal.reason else {}
            tags = {"outcome": "running", "on_front": "false", **origin, **_weights_tag(weights)}
            self._tag(run, tags)
        elif self.tags[run]["outcome"] == "failed":  # tried again; else its end is told next
            self.client.update_run(run, status="RUNNING")
            self._tag(run, {"outcome": "running", "reason": ""})

    def step_ended(self, event: StepEvent) -> None:
        """Write a step's metrics, and what it has to say as the tag ``notes``."""
        run = self._child(event.trial, event.time)
        said = list(filter(None, self.tags[run].get("notes", "").split(_BETWEEN_NOTES)))
        new = [note for note in event.notes if note not in said]
        if new:
            self._tag(run, {"notes": _BETWEEN_NOTES.join([*said, *new])})
        for name, value in event.metrics.items():
            key = name if "/" in name else f"training/{name}"
            self._metric(run, key, value, event.step, event.time)

    def segment_ended(
        self,
        trial: int,
        observations: Sequence[Observation],
        evaluations: Sequence[Evaluation],
        values: Sequence[Values],
        time: float,
    ) -> None:
        """Write what a checkpoint is worth, and sample completions."""
        first = observations[0]
        run = self._child(trial, time)
        conditions = [observation.condition for observation in observations]
        self._params(run, dict(_flat(first.params)))
        self._values(run, values, first.step, time)
        for name, tokens in first.cost.to_json().items():
            self._metric(run, f"tokens/{name}", tokens, first.step, time)
        self._samples(run, conditions, evaluations)
        self.write()  # none of its steps comes again, should the driver be killed now

    def front_updated(
        self, points: Sequence[Observation], hypervolume: float, trials: int, time: float
    ) -> None:
        """Write the hypervolume, and mark the trials that are on the front."""
        self.hypervolume = hypervolume
        self._front_metric("hypervolume", hypervolume, trials, time)
        self._front_metric("points", len(points), trials, time)
        on_front = {str(point.trial) for point in points}
        for part, run in self.runs.items():
            if part.isdigit():
                self._tag(run, {"on_front": "true" if part in on_front else "false"})

    def trial_ended(self, trial: int, outcome: str, reason: str, time: float) -> None:
        """Write how a trial ended, and end its run."""
        run = self._child(trial, time)
        self._tag(run, {"reason": reason} if reason else {})
        self._end(run, outcome, time)
        if self.hypervolume is not None:  # the curve goes on where the front stays as it is
            ended = sum(self._ended(run) for part, run in self.runs.items() if part.isdigit())
            self._front_metric("hypervolume", self.hypervolume, ended, time)

    def log_files(self, files: Mapping[str, Path]) -> None:
        """Write what was made for people."""
        for path in files.values():
            if path.is_file():
                self.client.log_artifact(self._study(), str(path))

    def describe(self, points: Sequence[Mapping[str, str]]) -> None:
        """Write the study's description, with the points of the front once there are some."""
        about, runs = self.about, f"#/experiments/{self.experiment}/runs"
        header, rows = ["point", *about.front, "weights"], []
        for point in sorted(points, key=lambda point: -_number(point, about.front[0])):
            link = f"[{point['point']}]({runs}/{self._child_of(point)})"
            weights = [share for key, share in point.items() if key.startswith("weight.")]
            shares = " ".join(_share(float(share)) for share in weights if share)
            rows.append([link, *(_cell(point, name) for name in about.front), shares])
        view = f"{runs}?workflowType=machine_learning&viewStateShareKey={about.key}"
        picture = f"get-artifact?path=front.png&run_uuid={self._study()}"
        more = f"\n\n{len(rows) - _ROWS} more: see `points.csv`." if len(rows) > _ROWS else ""
        front = f"{_table(header, rows[:_ROWS])}{more}\n\n![front]({picture})" if rows else ""
        self._tag(self._study(), {_NOTE: _note(about, view, front)})

    def register(self, point: Mapping[str, str], folder: Path) -> None:
        """Make a point of the front a version of the registered model."""
        model, alias, run = self.about.run.name, point["point"], self._child_of(point)
        tags = {_key(key): cell for key, cell in _version_tags(point)}
        number = self._registered(model).aliases.get(alias)
        version = None if number is None else self.client.get_model_version(model, number)
        if version is not None and version.run_id == run:
            for key, cell in tags.items() - version.tags.items():
                self.client.set_model_version_tag(model, version.version, key, cell)
            return
        if self.own:
            source = str(folder.resolve(strict=True))
        else:
            self.client.log_artifacts(run, str(folder), f"policies/{alias}")
            source = f"runs:/{run}/policies/{alias}"
        values = ", ".join(f"{name} {_cell(point, name)}" for name in self.about.front)
        about = f"Trial {point['trial']} at step {point['step']}; on validation {values}."
        made = self.client.create_model_version(
            model, source, run, tags, description=about, await_creation_for=0
        )
        self.client.set_registered_model_alias(model, alias, made.version)

    def retire(self, points: Collection[str]) -> None:
        """Mark the versions of points that have left the front."""
        model = self.about.run.name
        aliases = self._registered(model).aliases
        for number in set(aliases.values()) - {aliases.get(point) for point in points}:
            self.client.set_model_version_tag(model, number, "on_front", "false")

    def study_ended(self, outcome: str) -> None:
        """End the study's run, and those of trials whose end was not heard of."""
        for part, run in self.runs.items():
            if part != "study" and not self._ended(run):
                self._end(run, "unknown" if outcome == "finished" else "interrupted", None)
        self._end(self._study(), outcome, None)

    # --- metrics -------------------------------------------------------------------------------

    def seconds_left(self) -> float | None:
        """Return when waiting metrics are to be written, in seconds; None if there are none."""
        return None if self.due is None else max(0.0, self.due - monotonic())

    def write(self) -> None:
        """Write the metrics that wait; if a call fails, those of its run are given up."""
        try:
            while self.waiting:
                run, metrics = self.waiting.popitem()
                for start in range(0, len(metrics), _METRICS):
                    self.client.log_batch(run, metrics[start : start + _METRICS])
        finally:
            self.due = monotonic() + DELAY if self.waiting else None

    def _metric(self, run: str, key: str, value: float, step: int, time: float) -> None:
        """Queue a value unless the step has one; NaN says that there is none."""
        key = _key(key)
        if (run, key) not in self.steps:
            past = self.client.get_metric_history(run, key) if run in self.found else ()
            self.steps[run, key] = {metric.step for metric in past}
        if not math.isnan(value) and step not in self.steps[run, key]:
            self.steps[run, key].add(step)
            self._wait(run, key, value, step, time)

    def _front_metric(self, name: str, value: float, trials: int, time: float) -> None:
        """Queue a value of the front; it may change between two trials that end."""
        self._wait(self._study(), f"front/{name}", value, trials, time)

    def _wait(self, run: str, key: str, value: float, step: int, time: float) -> None:
        from mlflow.entities import Metric

        # Value, time and step are the event's, so that MLflow takes an event again as the same.
        metric = Metric(key, float(value), int(1000 * time), step)
        self.waiting.setdefault(run, []).append(metric)
        self.due = monotonic() + DELAY if self.due is None else self.due

    def _values(self, run: str, values: Sequence[Values], step: int, time: float) -> None:
        """Queue what validation measured, under each condition."""
        for number, measured in enumerate(values, 1):
            suffix = "" if number == 1 else f"_c{number}"
            for name, (mean, stderr) in measured.items():
                self._metric(run, f"validation{suffix}/{name}", mean, step, time)
                self._metric(run, f"validation{suffix}_stderr/{name}", stderr, step, time)
        found = ", ".join(f"{name} {_value(*value)}" for name, value in values[0].items())
        self._tag(run, {_NOTE: f"On validation, at step {step}: {found}."})

    # --- runs ----------------------------------------------------------------------------------

    def _study(self) -> str:
        return self._run("study", self.about.run.name, self.about.time, {})

    def _child(self, trial: int, time: float, name: str = "") -> str:
        part = "base" if trial == BASE else str(trial)
        tags = {"mlflow.parentRunId": self._study()}
        return self._run(part, name or _trial(trial), time, tags)

    def _child_of(self, point: Mapping[str, str]) -> str:
        return self._child(int(point["trial"]), self.about.time)

    def _run(self, part: str, name: str, time: float, tags: Mapping[str, str]) -> str:
        """Return the id of a run; create it if it is new."""
        if part not in self.runs:
            about = self.about
            given = {**tags, _RUN: about.key, _PART: part, "mlflow.source.name": "moalign"}
            given |= {"mlflow.source.git.commit": about.revision} if about.revision else {}
            made = self.client.create_run(self.experiment, int(1000 * time), given, name)
            self.runs[part] = made.info.run_id
            self.tags[self.runs[part]], self.params[self.runs[part]] = given, set()
        return self.runs[part]

    def _end(self, run: str, outcome: str, time: float | None) -> None:
        self._tag(run, {"outcome": outcome})
        # A trial that was stopped at a rung did nothing wrong: no red cross.
        status = {"failed": "FAILED", "interrupted": "KILLED"}.get(outcome, "FINISHED")
        self.client.set_terminated(run, status, None if time is None else int(1000 * time))

    def _ended(self, run: str) -> bool:
        return self.tags[run].get("outcome") in {"finished", "stopped", "failed"}

    def _tag(self, run: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        named = {_key(key): value for key, value in tags.items()}
        pairs = [RunTag(*pair) for pair in named.items() if pair not in self.tags[run].items()]
        for start in range(0, len(pairs), _TAGS):
            self.client.log_batch(run, tags=pairs[start : start + _TAGS])
        self.tags[run] |= named

    def _params(self, run: str, params: Mapping[str, str]) -> None:
        """Write parameters; MLflow never changes one that is there."""
        from mlflow.entities import Param

        new = {_key(path): value for path, value in params.items()}
        pairs = [Param(*pair) for pair in new.items() if pair[0] not in self.params[run]]
        for start in range(0, len(pairs), _TAGS):
            self.client.log_batch(run, params=pairs[start : start + _TAGS])
        self.params[run] |= set(new)

    def _samples(
        self,
        run: str,
        conditions: Sequence[Mapping[str, float] | None],
        evaluations: Sequence[Evaluation],
    ) -> None:
        """Write the table of completions as the UI reads it; log_table would append to the old."""
        rows = [
            ({} if condition is None else {"condition": _say_weights(condition)})
            | {key: value for key, value in sample.items() if key != "scores"}
            | {name: _finite(score) for name, score in sample.get("scores", {}).items()}
            for condition, evaluation in zip(conditions, evaluations, strict=True)
            for sample in evaluation.samples
        ]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        data = [[row.get(column) for column in columns] for row in rows]
        self.client.log_dict(run, {"columns": columns, "data": data}, "samples.json")
        tables = [{"path": "samples.json", "type": "table"}]
        self._tag(run, {"mlflow.loggedArtifacts": json.dumps(tables)})

    # --- around the runs -----------------------------------------------------------------------

    def _registered(self, model: str) -> RegisteredModel:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        return self.client.create_registered_model(model, description=_model_note(self.about))

    def _view(self) -> str:
        """Return a saved view of the UI: the trials in one table, with the columns that matter."""
        about = self.about
        space = (about.study.get("search") or {}).get("space") or {}
        searched = [path for path, given in space.items() if given != "simplex"]
        state = {
            "searchFilter": f"tags.mlflow.parentRunId = '{self._study()}'",
            "orderByKey": f"metrics.`validation/{about.front[0]}`",
            "orderByAsc": False,
            "selectedColumns": [
                "tags.`on_front`",
                *(f"metrics.`validation/{name}`" for name in about.front),
                *(f"params.`{path}`" for path in searched),
                "tags.`outcome`",
            ],
            "runsHiddenMode": "SHOW_ALL",
        }
        made = int(1000 * about.time)
        view = {"name": f"trials of {about.run.name}", "createdAt": made, "updatedAt": made}
        return json.dumps(view | {"state": json.dumps(state)})


_Job = Callable[[_Store], None]


# --- as text -----------------------------------------------------------------------------------


def _note(about: _About, view: str, front: str) -> str:
    """Return the description of the study's run, in Markdown."""
    task = dict(_flat(about.study)).get("task", "")
    first, *others = about.front
    preference = ",".join([f"{first}=3", *(f"{name}=1" for name in others)])
    run = about.run.name
    found = f"""
### The front

Trained policies that no other one beats in every objective, on validation, with standard errors.
They are the versions of the registered model `{run}`.

{front}
"""
    return f"""\
## What can be had at once: {", ".join(about.front)}?

Each run below this one trained a policy on `{task}`; `base` is what all of them began with.
[All trials in one table]({view}), [as curves]({view}&compareRunsMode=CHART).
Higher is better, always. Pick a point: `moalign front {run} --prefer {preference}`
{found if front else ""}
### How to read it

- **Artifacts** here: `front.html` (hover to read completions), `front.png`, `points.csv`, and
  `study.yaml`, which runs this study again.
- **Metrics** here: `front/hypervolume` over the number of trials that have ended; where it stays
  flat, more trials find little more.
- **A trial's metrics**: `objective/` is the mean score of each training batch, `validation/` what
  the search decides by (`validation_stderr/`: its standard error), `weight/` the weight of each
  objective, `advantage_share/` how much of the update it really got; `docs/metrics.md` has all.
- **A trial's tags**: `on_front`; how it ended (`outcome`), and why (`reason`).
- **A trial's `samples.json`**: completions with their score per objective.
"""


def _model_note(about: _About) -> str:
    return (
        f"The Pareto front of run {about.run.name}: each version is a trained policy that no other "
        f"one beats in all of {', '.join(about.front)} (on validation). Its alias is its point; "
        "its source is a folder for `transformers.AutoModelForCausalLM.from_pretrained`."
    )


def _trial(trial: int) -> str:
    return f"t{trial:02d}"


def _title(trial: int, params: Mapping[str, Any], weights: Mapping[str, float]) -> str:
    """Return a trial's name: its number and its weights, or else its parameters."""
    words = _shares(weights)
    for path, value in params.items() if not words else ():
        words.append(path.rpartition(".")[2])
        words += (
            _shares(value) if isinstance(value, Mapping) else dict(_flat({path: value})).values()
        )
    return " ".join([_trial(trial), *words])


def _shares(weights: Mapping[str, float]) -> list[str]:
    return [f"{name} {_share(weight)}" for name, weight in weights.items()]


def _share(weight: float) -> str:
    return f"{weight:.2f}".removeprefix("0")


def _say_weights(weights: Mapping[str, float]) -> str:
    """Return weights as ``--prefer`` takes them."""
    return ",".join(f"{name}={weight:.2f}" for name, weight in weights.items())


def _weights_tag(weights: Mapping[str, float]) -> dict[str, str]:
    return {"weights": _say_weights(weights)} if weights else {}


def _start(start: Start) -> str:
    if start.scratch:
        return "base policy"
    mixed = zip(start.shares, start.points, strict=True)
    return " + ".join(f"{share:.2f} {_trial(trial)}@{step}" for share, (trial, step) in mixed)


def _flat(data: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield what nested mappings hold as text, by the paths of ``--set``; nothing for null."""
    for name, value in data.items():
        path = f"{above}.{name}" if above else str(name)
        if isinstance(value, Mapping):
            component, options = next(iter(value.items()), ("", None))
            if len(value) == 1 and isinstance(options, Mapping) and path not in _NAMED_BY_PEOPLE:
                yield path, component
                yield from _flat(options, path)
            else:
                yield from _flat(value, path)
        elif isinstance(value, float):
            yield path, f"{value:.6g}"
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            yield path, text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _key(name: str) -> str:
    """Return a name without what MLflow refuses in one."""
    return re.sub(r"[^\w/.\- ]", "_", name)[:250]


def _number(point: Mapping[str, str], name: str) -> float:
    return float(point.get(f"validation.{name}") or "nan")


def _cell(point: Mapping[str, str], name: str) -> str:
    return _value(_number(point, name), _number(point, f"{name}.stderr"))


def _value(mean: float, stderr: float) -> str:
    spread = "?" if math.isnan(stderr) else f"{stderr:.3f}"  # of one unit there is none
    return f"{mean:.3f} ± {spread}"


def _version_tags(point: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what says which policy a version is: its trial, weights and values."""
    yield from (("on_front", "true"), ("trial", point["trial"]), ("step", point["step"]))
    for key, cell in point.items():
        what, _, name = key.partition(".")
        if what in {"weight", "validation", "test"} and cell and not name.endswith(".stderr"):
            yield key, f"{float(cell):.4g}"


def _finite(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None  # JSON has no NaN


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the UI leaves no room between columns, so the cells do."""
    line, *lines = (f"| {'&emsp; | '.join(row)}&emsp; |" for row in (header, *rows))
    return "\n".join([line, "| --- " * len(header) + "|", *lines])


def _front_points(path: Path) -> list[dict[str, str]]:
    """Return the rows of ``points.csv`` that are on the front."""
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row.get("front") == "1"]
