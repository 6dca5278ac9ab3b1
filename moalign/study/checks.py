"""What concerns several keys of a study at once, and what a search may search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moalign.errors import MoalignError, StudyError, nearest
from moalign.options import options_of
from moalign.plugins import split_reference
from moalign.study import paths, space
from moalign.study.document import Document
from moalign.study.learning import check_learning
from moalign.study.study import Study, complete_preference
from moalign.types import Objective


def check_together(
    doc: Document, study: Study, recheck: Callable[[dict[str, Any]], object]
) -> None:
    """Check what concerns several keys at once.

    Args:
        doc: for error positions.
        study: whose single keys and components are checked already.
        recheck: checks a study's data from the beginning; tries values of the search space.

    Raises:
        StudyError: the first mistake.
    """
    _check_objectives(doc, study)
    _check_preference(doc, study)
    _check_training(doc, study)
    _check_needs(doc, study)
    check_learning(doc, study)
    for index, preference in enumerate(_listed(study.section.report.preferences)):
        _at(doc, ("report", "preferences", index), complete_preference, preference,
            [o.name for o in study.front_objectives])  # fmt: skip
    for index, preference in enumerate(_listed(study.section.evaluation.conditions)):
        _at(doc, ("evaluation", "conditions", index), complete_preference, preference,
            [o.name for o in study.train_objectives])  # fmt: skip
    _check_search(doc, study, recheck)  # last: it checks all of this again, for other values


def _listed(value: Any) -> list[dict[str, float]]:
    return value if isinstance(value, list) else []


def _at(doc: Document, path: tuple[str | int, ...], function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except MoalignError as error:
        raise StudyError(f"{doc.where(path)}: {error}") from error


def _check_objectives(doc: Document, study: Study) -> None:
    rewards = study.new_rewards()
    for objective in study.objectives:
        place = ("objectives", objective.name)
        given = study.section.objectives[objective.name]
        reward = rewards[objective.name]
        if reward.outputs and given.output not in reward.outputs:
            raise StudyError(
                f"{doc.where((*place, 'output'))}: reward {reward.name} has several outputs; say "
                f"which with `output`: {', '.join(reward.outputs)}; found {given.output!r}"
            )
        if not reward.outputs and given.output is not None:
            raise StudyError(
                f"{doc.where((*place, 'output'))}: reward {reward.name} has one output only; "
                f"remove `output: {given.output}`"
            )
        if objective.bounds is None and objective.front:
            raise StudyError(
                f"{doc.where(place)}: reward {reward.name} has no range, so this objective needs "
                "`bounds: [lo, hi]`, the values that count as 0 and 1 on the front"
            )
        if objective.at_least is not None and reward.range is not None:
            low, high = reward.range
            if not low <= objective.at_least <= high:
                raise StudyError(
                    f"{doc.where((*place, 'at_least'))}: reward {reward.name} gives values from "
                    f"{low:g} to {high:g}, so a threshold of {objective.at_least:g} cannot decide "
                    "anything"
                )
        _check_bounds(doc, objective)
    if not study.train_objectives:
        raise StudyError(f"{doc.where(('objectives',))}: no objective is trained on")
    if not study.front_objectives:
        raise StudyError(f"{doc.where(('objectives',))}: no objective is on the front")


def _check_bounds(doc: Document, objective: Objective) -> None:
    """Check the bounds, and that a threshold and a reference lie where they mean something."""
    if objective.bounds is None:
        return
    place = ("objectives", objective.name)
    low, high = objective.bounds
    if not low < high:
        raise StudyError(
            f"{doc.where((*place, 'bounds'))}: the lower bound must be below the upper one; "
            f"found {list(objective.bounds)}"
        )
    if objective.at_least is not None and not low <= objective.at_least <= high:
        raise StudyError(
            f"{doc.where((*place, 'at_least'))}: a threshold of {objective.at_least:g} "
            f"lies outside the objective's bounds, {low:g} to {high:g}; move the threshold "
            "or widen `bounds`"
        )
    if objective.reference is not None and objective.reference >= high:
        raise StudyError(
            f"{doc.where((*place, 'reference'))}: hypervolume starts at the reference, which "
            f"must lie below the objective's upper bound; the bounds are {low:g} to {high:g}, "
            f"found {objective.reference:g}"
        )


def _check_preference(doc: Document, study: Study) -> None:
    name, options = split_reference("weighting", study.data["weighting"])
    for option in options_of(type(study.new_weighting())):
        given = options.get(option.name)
        if option.is_preference and given:
            _check_weights(doc, study, ("weighting", name, option.name), given)


def _check_weights(
    doc: Document, study: Study, place: tuple[str, ...], given: dict[str, float]
) -> None:
    what = "the preference" if place[-1] == "preference" else f"`{place[-1]}`"
    names = [o.name for o in study.train_objectives]
    for key in given:
        if key not in names:
            raise StudyError(
                f"{doc.where((*place, key))}: {what} names {key!r}, which is not trained on; "
                f"{nearest(key, names)}"
            )
    missing = [n for n in names if n not in given]
    if missing:
        raise StudyError(
            f"{doc.where(place)}: {what} leaves out {', '.join(missing)}; give a weight for each "
            f"of {', '.join(names)} (0 is allowed)"
        )


def _check_training(doc: Document, study: Study) -> None:
    training, optimizer = study.section.training, study.new_optimizer()
    weighting = study.new_weighting()
    if optimizer.learns_from != "pairs" and training.group < optimizer.min_group:
        raise StudyError(
            f"{doc.where(('training', 'group'))}: optimizer {optimizer.name} compares completions "
            f"of one prompt, so group must be at least {optimizer.min_group}; found "
            f"{training.group}"
        )
    most = optimizer.max_group
    if optimizer.learns_from != "pairs" and most is not None and training.group > most:
        raise StudyError(
            f"{doc.where(('training', 'group'))}: optimizer {optimizer.name} with these options "
            f"compares {most} completions of one prompt; found {training.group}, set group: {most}"
        )
    if training.minibatches > training.prompts:
        raise StudyError(
            f"{doc.where(('training', 'minibatches'))}: {training.minibatches} mini-batches cannot "
            f"be made of {training.prompts} prompts"
        )
    if training.batch_norm != "none" and "unnormalised" in weighting.declares:
        raise StudyError(
            f"{doc.where(('training', 'batch_norm'))}: weighting {weighting.name} scales the "
            "advantage, and batch_norm would cancel its scale; set batch_norm: none"
        )
    if training.scale == "calibrated" and training.combine != "rewards":
        raise StudyError(
            f"{doc.where(('training', 'scale'))}: scale: calibrated acts on raw rewards; it needs "
            "combine: rewards"
        )
    if training.combine == "rewards":
        _check_combine(doc, study)
    _check_gradients(doc, study)
    _at(doc, ("weighting",), weighting.check, study.train_objectives)
    _at(doc, ("weighting",), weighting.check_measured, study.objectives)


def _check_combine(doc: Document, study: Study) -> None:
    """Refuse ``combine: rewards`` for weightings that it takes the meaning from, or means nothing.

    Batch norm is no such thing: it takes a constant off the combined advantage, which moves no
    gradient on average, and divides by another.
    """
    weighting = study.new_weighting()
    scaled = study.section.training.scale != "none"
    fix = "set combine: advantages" + (" and scale: none" if scaled else "")
    where = doc.where(("training", "combine"))
    if "gradient-weights" in weighting.declares:
        raise StudyError(
            f"{where}: weighting {weighting.name} weighs the gradients of advantages that are "
            "normalised one by one, and combine: rewards adds up raw scores, whose gradients have "
            f"other lengths; {fix}"
        )
    if "response-scores" in weighting.declares:
        raise StudyError(
            f"{where}: weighting {weighting.name} makes one score of each completion itself, so "
            f"combine: rewards would do nothing; {fix}"
        )


def _check_gradients(doc: Document, study: Study) -> None:
    """Refuse layers and adapters that the policy will not have, where that is known already."""
    place, gradients = ("training", "gradients"), study.section.training.gradients
    count = study.policy.depth()
    if gradients.layers is not None and count is not None and gradients.layers[1] >= count:
        raise StudyError(
            f"{doc.where((*place, 'layers'))}: {beyond_layers(gradients.layers, count)}"
        )
    if gradients.only == "lora" and study.policy.has_lora is False:
        raise StudyError(f"{doc.where((*place, 'only'))}: {without_lora()}")


def beyond_layers(layers: tuple[int, int], count: int) -> str:
    """Return what is wrong with layers that a policy of so many does not have."""
    return f"found {list(layers)}; the policy has {count} layers, 0 to {count - 1}"


def without_lora(where: str = "") -> str:
    """Return what is wrong with ``only: lora`` for a policy that has none."""
    return f"found 'lora', but the policy has no LoRA adapter{where}; use only: all"


def _check_needs(doc: Document, study: Study) -> None:
    allowed = {"logprobs", "ref_logprobs", "hidden", "pairs"}
    for name, reward in study.new_rewards().items():
        for need in sorted(reward.needs):
            if not need.startswith("field:") and need not in allowed:
                raise StudyError(
                    f"{doc.where(('objectives', name, 'reward'))}: reward {reward.name} needs "
                    f"{need!r}, which nothing provides; "
                    f"{nearest(need, [*sorted(allowed), 'field:NAME'])}"
                )
    weighting = study.new_weighting()
    known = {"signed", "unnormalised", "conditioned", "prompt-weights"}
    known |= {"gradient-weights", "response-scores", "offline"}
    for declared in sorted(weighting.declares - known):
        raise StudyError(
            f"{doc.where(('weighting',))}: weighting {weighting.name} declares {declared!r}, which "
            f"says nothing; {nearest(declared, known)}"
        )
    provided = {"gram", "steer", "prompt_features", "pairs", "losses"}
    for need in sorted(weighting.needs):
        if need not in provided:
            raise StudyError(
                f"{doc.where(('weighting',))}: weighting {weighting.name} needs {need!r}, which "
                f"nothing provides; {nearest(need, provided)}"
            )
    if study.policy.condition == "weights" and "conditioned" not in weighting.declares:
        raise StudyError(
            f"{doc.where(('policy',))}: the policy reads weights in its prompt, but weighting "
            f"{weighting.name} does not follow them (it does not declare 'conditioned'), so they "
            "would mean nothing; use weighting: fixed, or condition: none"
        )


def _check_search(doc: Document, study: Study, recheck: Callable[[dict[str, Any]], object]) -> None:
    search = study.section.search
    place = ("search", "rungs")
    if list(search.rungs) != sorted(set(search.rungs)):
        raise StudyError(f"{doc.where(place)}: rungs must rise; found {search.rungs}")
    if search.rungs and search.rungs[-1] >= study.section.training.steps:
        raise StudyError(
            f"{doc.where(place)}: rungs must lie below training.steps "
            f"({study.section.training.steps}); found {search.rungs}"
        )
    for path, given in study.section.search.space.items():
        where = doc.where(("search", "space", path))
        parts = _at(doc, ("search", "space", path), paths.split, path)
        dimension = _at(doc, ("search", "space", path), lambda p=path: study.space[p])
        _check_searchable(where, study, parts, given)
        plain = study.data | {"search": study.data["search"] | {"space": {}}}
        for value in space.samples(dimension):
            try:
                changed = paths.assign(plain, parts, value, study.catalogue)
                recheck(changed)
            except MoalignError as error:
                raise StudyError(
                    f"{where}: the value {_short(value)} cannot be used: {error}"
                ) from error


def _short(value: Any) -> str:
    """Return a value of the search space as a person would write it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_short(part)}" for name, part in value.items()) + "}"
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def _check_searchable(where: str, study: Study, parts: tuple[str, ...], given: Any) -> None:
    path = ".".join(parts)
    weighting = study.new_weighting()
    options = options_of(type(weighting))
    preferences = [f"weighting.{o.name}" for o in options if o.is_preference]
    if parts[0] == "weighting" and path not in preferences and given == "simplex":
        searchable = [f"weighting.{o.name}" for o in options]
        searchable += [
            f"objectives.{o.name}.at_least" for o in study.objectives if o.at_least is not None
        ]
        what = ", ".join(preferences or searchable) or "nothing"
        raise StudyError(
            f"{where}: weighting {weighting.name} has no preference called "
            f"{'.'.join(parts[1:])!r} that a simplex could search; of it one can search: {what} "
            "(--set 'search.space={}' would search nothing)"
        )
    if given == "simplex" and path not in preferences:
        raise StudyError(f"{where}: only a preference is searched on the simplex")
    if parts[0] in {"search", "executor", "trackers", "report", "study", "seed", "evaluation"}:
        raise StudyError(
            f"{where}: {path} does not change what a trial learns, so it cannot be searched"
        )
    if path in {"training.steps", "training.threads", "training.micro_tokens"}:
        raise StudyError(
            f"{where}: {path} cannot be searched: trials are compared at equal length and settings "
            "of the machine"
        )
    measuring = parts[0] in {"task", "policy", "rollout"} or (
        parts[0] == "objectives" and parts[2:] != ("at_least",)
    )
    if measuring:
        raise StudyError(
            f"{where}: {path} changes what is measured, so trials could not be compared; of "
            "objectives one can search at_least"
        )
    if given == "simplex" and len(study.train_objectives) < 2:
        raise StudyError(f"{where}: a preference over one objective leaves nothing to search")
