"""Exporting a point's policy: a model folder that ``transformers`` loads, with a model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from moalign.errors import RecordError
from moalign.reporting.adapter import FOLDER, Adapter, adapter_of, write_adapter
from moalign.reporting.commands import sample_command
from moalign.reporting.front import number
from moalign.reporting.mixture import Mixture, say_parts
from moalign.reporting.pick import say
from moalign.reporting.points import Point, PointTable, Value, with_error
from moalign.search.archive import Run
from moalign.search.folders import beside_of
from moalign.study.loading import as_proposed
from moalign.study.study import Study
from moalign.types import BASE, Prompt, Start

if TYPE_CHECKING:
    from moalign.components import LoadedPolicy, Rollout
    from moalign.training.policy import Policy

CARD: Final = "README.md"
SHARES: Final = "mixture.json"


def trial_study(study: Study, run: Run, point: Point) -> Study:
    """Return the study as a point's trial ran it: with the values of its proposal."""
    if point.trial == BASE:
        return study
    return as_proposed(study, run.trials[point.trial].proposal)


def load_point(study: Study, run: Run, point: Point) -> tuple[LoadedPolicy, Policy]:
    """Load the policy of a point; imports torch.

    Raises:
        RecordError: its policy was not kept, or the base policy it belongs to is gone.
    """
    from moalign.search.artifacts import base_folder
    from moalign.search.segments import mixed_policy
    from moalign.training.policy import Policy, choose_device_and_dtype

    study = trial_study(study, run, point)
    base = base_folder(study, run.folder)
    if not base.is_dir():
        raise RecordError(
            f"the base policy of run {run.folder.name} is no longer in {base}; the command that "
            "made the run builds it again"
        )
    if point.trial != BASE and not run.folder.policy(point.trial, point.step).is_dir():
        raise RecordError(
            f"the policy of point {point.id} was not kept, because it is not on the front of a "
            "finished run; pick a point of the front"
        )
    names = [o.name for o in study.train_objectives]
    loaded = study.policy.load(base, names)
    policy = Policy(loaded, *choose_device_and_dtype(), lambda: study.policy.load(base, names))
    if point.trial != BASE:
        start = Start(((point.trial, point.step),), (1.0,))
        policy.load_state(mixed_policy(run.folder, start))
    return loaded, policy


def export_point(study: Study, run: Run, table: PointTable, point: Point, folder: Path) -> None:
    """Write a point's policy, LoRA merged, and its model card: whole or not at all.

    Raises:
        RecordError: ``folder`` stands already, or the policy cannot be loaded.
        OSError: full disk, read-only folder.
    """
    if folder.exists():
        raise RecordError(f"{folder} exists already; export to a folder that does not")
    loaded, policy = load_point(study, run, point)
    with _beside(folder) as beside:
        policy.export(beside)
        _explain(beside, study, run, table, point, loaded=loaded)


def export_mixture(
    study: Study, run: Run, table: PointTable, mixture: Mixture, folder: Path
) -> None:
    """Write the policies of a mixture, their shares, and how to draw one: whole or not at all.

    Every policy stands in a folder named like its point, as `export_point` writes it.

    Raises:
        RecordError: ``folder`` stands already, or a policy cannot be loaded.
        OSError: full disk, read-only folder.
    """
    if folder.exists():
        raise RecordError(f"{folder} exists already; export to a folder that does not")
    shares = {point.id: share for point, share in mixture.parts}
    with _beside(folder) as beside:
        for point, _ in mixture.parts:
            export_point(study, run, table, point, beside / point.id)
        (beside / SHARES).write_text(json.dumps({"shares": shares}, indent=2) + "\n")
        (beside / CARD).write_text(mixture_card(study, table, mixture), encoding="utf-8")


def export_front(study: Study, run: Run, table: PointTable) -> Path:
    """Write the policy of every front point to ``front/<point>/`` of the run.

    With LoRA that is the adapter alone, which ``transformers`` loads as well, onto its base model:
    merged, every point would take the disk of the whole model. A policy that stands there is left
    alone, one that is no longer on the front is deleted.

    Returns:
        the folder ``front``.
    """
    folder = run.folder.path / "front"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        if old.name not in {point.id for point in table.front}:
            shutil.rmtree(old)
    for point in table.front:
        if (folder / point.id).exists():
            continue
        loaded, policy = load_point(study, run, point)
        with _beside(folder / point.id) as beside:
            if hasattr(loaded.model, "peft_config"):
                loaded.model.save_pretrained(beside)
                loaded.tokenizer.save_pretrained(beside)
            else:
                policy.export(beside)
            _explain(beside, study, run, table, point, loaded=loaded)
    return folder


def _explain(
    folder: Path, study: Study, run: Run, table: PointTable, point: Point, *, loaded: LoadedPolicy
) -> None:
    """Write what belongs beside a model: the model card, and the adapter if it has a use for one.

    Args:
        folder: with the model in it.
        study: the run's.
        run: that the point belongs to.
        table: all points.
        point: whose model it is.
        loaded: the model.
    """
    study = trial_study(study, run, point)
    adapter = adapter_of(study, run.folder)
    if adapter is not None:
        write_adapter(study, run.folder, folder / FOLDER)
    card = model_card(study, run, table, point, loaded=loaded, adapter=adapter)
    (folder / CARD).write_text(card, encoding="utf-8")


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """Give a folder to write in, and rename it to ``folder`` once all is written.

    Raises:
        OSError: whatever kept it from being written, whichever library met it.
    """
    beside = beside_of(folder)
    beside.mkdir(parents=True)
    try:
        yield beside
        beside.rename(folder)
    except BaseException as error:
        shutil.rmtree(beside, ignore_errors=True)
        # safetensors and tokenizers tell a full disk by classes of their own, in Rust's words.
        if not isinstance(error, OSError) and "(os error " in str(error):
            raise OSError(str(error)) from error
        raise


# --- model card --------------------------------------------------------------------------------


def model_card(
    study: Study,
    run: Run,
    table: PointTable,
    point: Point,
    *,
    loaded: LoadedPolicy,
    adapter: Adapter | None = None,
) -> str:
    """Return the model card: what the bare model reads and writes, scores, and was made from."""
    made = [f"- study: `{study.name}`, seed {study.seed}, {point.step} steps"]
    reason = "" if point.trial == BASE else run.trials[point.trial].proposal.reason
    if reason:
        made.append(f"- {reason}")
    if point.weights:
        made.append(f"- weights of the objectives: {say(point.weights)}")
    made += [f"- `{path}`: {number(value)}" for path, value in point.settings().items()]
    made += [f"- {name} {version}" for name, version in run.opened[0].versions.items()]
    parts = [
        f"# {study.name}: point {point.id}",
        "One point of a Pareto front of language models, trained with "
        f"moalign {run.opened[0].versions.get('moalign', '')}.",
        "## What it reads and writes",
        loaded.speaks or "It reads prompts and writes completions as its tokenizer has them.",
        _code(_example(study, point), point, loaded, study.rollout, adapter),
        "The text above is one prompt exactly as the model reads it. Between a person and the "
        "bare model stands the task, which reads and writes plain text:",
        f"```\n{sample_command(run, point)}\n```",
        *([] if adapter is None else _about_adapter(study, point, adapter)),
        "## What it scored",
        _scores(table, point.values(), point.values("test")),
        "## How it was made",
        "\n".join(made),
        "## Licence",
        _licence(study),
    ]
    return "\n\n".join(parts) + "\n"


def mixture_card(study: Study, table: PointTable, mixture: Mixture) -> str:
    """Return the card of a mixture: its shares, how to draw a policy, what it scores."""
    code = [
        "import json",
        "import random",
        "",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'with open("{SHARES}") as file:',
        '    shares = json.load(file)["shares"]',
        "models = {name: AutoModelForCausalLM.from_pretrained(name) for name in shares}",
        "tokenizers = {name: AutoTokenizer.from_pretrained(name) for name in shares}",
        "",
        "",
        "def draw():  # once for every prompt",
        "    (name,) = random.choices(list(shares), list(shares.values()))",
        "    return models[name], tokenizers[name]",
    ]
    parts = [
        f"# {study.name}: mixture of {say_parts(mixture.parts)}",
        "Several policies of a Pareto front. Every prompt is answered by one of them, drawn at "
        "random with these shares: its scores are then, on average, those below. Answers are "
        "written by one policy each; nothing in the weights is averaged.",
        "## How to draw a policy",
        "```python\n" + "\n".join(code) + "\n```",
        f"What a policy reads and writes says the `{CARD}` in its folder.",
        "## What it scores",
        _scores(table, mixture.values(), mixture.values("test")),
        "\n".join(f"- {reason}" for reason in mixture.reasons),
        "## Licence",
        _licence(study),
    ]
    return "\n\n".join(parts) + "\n"


def _example(study: Study, point: Point) -> str:
    """Return a prompt that the point was measured on; any of the task if it wrote nothing."""
    samples = point.validation.evaluation.samples
    text: str = samples[0]["prompt"] if samples else study.task.prompts()[0].text
    return text


def _about_adapter(study: Study, point: Point, adapter: Adapter) -> list[str]:
    """Return a section that says how to get the weights that a prompt calls for."""
    needs_base = "prompt_features" in study.new_weighting().needs
    reads = (
        f"It reads the prompt with the base policy, which lies in `{FOLDER}/base` (of a pretrained "
        "model its name alone; the model itself is loaded by that name)."
        if needs_base
        else "It reads the text alone; no other model is needed."
    )
    example = _example(study, point)
    code = [
        "from moalign.reporting.adapter import load_adapter",
        "",
        f'adapter = load_adapter("{FOLDER}")',
        f"adapter({example!r})  # {_rounded(adapter(example))}",
    ]
    return [
        "## Which weights a prompt calls for",
        "The model reads weights in its prompt. Where nobody gives any, those that the prompt "
        f"calls for belong there: `{FOLDER}` says them, as learnt before training by the weighting "
        f"`{study.new_weighting().name}`. {reads}",
        "```python\n" + "\n".join(code) + "\n```",
        "`moalign sample` writes them into the prompt; `--weights` there gives your own, and "
        "`--blend` mixes both.",
    ]


def _rounded(weights: Mapping[str, float]) -> dict[str, float]:
    return {name: round(weight, 3) for name, weight in weights.items()}


def _code(
    text: str,
    point: Point,
    loaded: LoadedPolicy,
    rollout: Rollout,
    adapter: Adapter | None = None,
) -> str:
    """Return a program that runs the bare model on a prompt."""
    condition = point.condition
    if condition is None and adapter is not None:
        condition = adapter(text)
    ids = loaded.render(Prompt(id="card", text=text), condition)
    shown = loaded.tokenizer.decode(ids)
    again = loaded.tokenizer(shown, add_special_tokens=False)["input_ids"]
    inputs = f'tokenizer({shown!r}, add_special_tokens=False, return_tensors="pt")["input_ids"]'
    if again != ids:
        inputs = f"torch.tensor([{ids}])  # {shown!r}"
    lines = [
        "import torch",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        'model = AutoModelForCausalLM.from_pretrained(".")',
        f"ids = {inputs}",
        f"settings = dict(do_sample=True, top_k=0, temperature={rollout.temperature}, "
        f"max_new_tokens={rollout.max_tokens})",
        "written = model.generate(ids, **settings)",
        "print(tokenizer.decode(written[0, ids.shape[1]:], skip_special_tokens=True))",
    ]
    if again == ids:
        del lines[0]
    return "```python\n" + "\n".join(lines) + "\n```"


def _scores(table: PointTable, validation: Mapping[str, Value], test: Mapping[str, Value]) -> str:
    lines = ["| objective | validation | test | base policy, validation |", "|---|---|---|---|"]
    for name in validation:
        columns = (validation, test, table.base.values())
        cells = " | ".join(_cell(values, name) for values in columns)
        lines.append(f"| {name} | {cells} |")
    note = "Means and standard errors; higher is better. An interval speaks of this checkpoint."
    return "\n".join(lines) + "\n\n" + note


def _cell(values: Mapping[str, Value], name: str) -> str:
    value = values.get(name)
    return "" if value is None else with_error(value.mean, value.stderr)


def _licence(study: Study) -> str:
    """Return what the weights derive from: a named model, or the task's demonstrations."""
    ((source, options),) = study.data["policy"].items()
    ((task, _),) = study.data["task"].items()
    if "model" in options:
        return (
            f"The weights derive from `{options['model']}`: its licence applies to them, and that "
            f"of the data of task `{task}`."
        )
    return (
        f"The weights were trained from the demonstrations of task `{task}` (policy `{source}`); "
        "the licence of that data applies."
    )
