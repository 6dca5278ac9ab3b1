"""moalign: multi-objective alignment of language models.

A plugin file needs nothing but this module::

    from moalign import Step, Weighting, Weights, hookimpl

The command line is ``moalign``; see ``moalign --help``.
"""

from __future__ import annotations

from moalign.components import (
    Completions,
    Component,
    Executor,
    LoadedPolicy,
    Optimizer,
    PolicySource,
    Preference,
    Reward,
    Rollout,
    Stateful,
    Strategy,
    Task,
    Tracker,
    Weighting,
)
from moalign.errors import (
    ContractError,
    DataError,
    MoalignError,
    NonFiniteError,
    OptionError,
    PluginError,
    RecordError,
    StudyError,
    nearest,
)
from moalign.functions import reward
from moalign.hookspecs import hookimpl
from moalign.optimizers.clipped import ClippedOptimizer
from moalign.optimizers.preferences import Pairs, PairwiseOptimizer
from moalign.types import (
    BASE,
    SPLITS,
    Batch,
    Choice,
    Cost,
    Demonstration,
    Evaluation,
    FloatRange,
    History,
    IntRange,
    Objective,
    Observation,
    Pair,
    Parameter,
    Preparation,
    Prompt,
    Proposal,
    ResponseScores,
    Rows,
    SegmentDone,
    SegmentFailed,
    SegmentTask,
    Simplex,
    Split,
    Start,
    Step,
    StepEvent,
    Weights,
    WorkerEvent,
)
from moalign.weightings.gram import GramWeighting
from moalign.weightings.means import MeanWeighting
from moalign.weightings.responses import ResponseWeighting

__version__ = "0.1.0"

__all__ = [
    "BASE",
    "SPLITS",
    "Batch",
    "Choice",
    "ClippedOptimizer",
    "Completions",
    "Component",
    "ContractError",
    "Cost",
    "DataError",
    "Demonstration",
    "Evaluation",
    "Executor",
    "FloatRange",
    "GramWeighting",
    "History",
    "IntRange",
    "LoadedPolicy",
    "MeanWeighting",
    "MoalignError",
    "NonFiniteError",
    "Objective",
    "Observation",
    "Optimizer",
    "OptionError",
    "Pair",
    "Pairs",
    "PairwiseOptimizer",
    "Parameter",
    "PluginError",
    "PolicySource",
    "Preference",
    "Preparation",
    "Prompt",
    "Proposal",
    "RecordError",
    "ResponseScores",
    "ResponseWeighting",
    "Reward",
    "Rollout",
    "Rows",
    "SegmentDone",
    "SegmentFailed",
    "SegmentTask",
    "Simplex",
    "Split",
    "Start",
    "Stateful",
    "Step",
    "StepEvent",
    "Strategy",
    "StudyError",
    "Task",
    "Tracker",
    "Weighting",
    "Weights",
    "WorkerEvent",
    "hookimpl",
    "nearest",
    "reward",
]
