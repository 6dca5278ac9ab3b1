"""What an optimizer, the objectives and the weighting must have in common."""

from __future__ import annotations

from moalign.components import Optimizer, Rollout, Weighting
from moalign.errors import MoalignError, StudyError, nearest
from moalign.options import options_of
from moalign.study.document import Document
from moalign.study.study import Study

_OWN = ("logprobs", "hidden")
"""What a reward reads of the policy in training, so that it is about what that writes."""


def check_learning(doc: Document, study: Study) -> None:
    """Check what concerns how the policy learns.

    Args:
        doc: for error positions.
        study: whose single keys and components are checked already.

    Raises:
        StudyError: the first mistake.
    """
    optimizer, weighting = study.new_optimizer(), study.new_weighting()
    where = doc.where(("training", "optimizer"))
    provided = {"logprobs", "ref_logprobs", "hidden", "greedy_scores"}
    for need in sorted(optimizer.needs - provided):
        raise StudyError(
            f"{where}: optimizer {optimizer.name} needs {need!r}, which nothing provides; "
            f"{nearest(need, provided)}"
        )
    if "greedy_scores" in optimizer.needs and type(study.rollout).greedy is Rollout.greedy:
        raise StudyError(
            f"{where}: optimizer {optimizer.name} compares with what the policy finds likeliest, "
            f"and rollout {study.rollout.name} cannot take the likeliest token; use one that can, "
            "such as eager, or another optimizer, such as rloo"
        )
    try:
        optimizer.check(study.train_objectives)
    except MoalignError as error:
        raise StudyError(f"{where}: {error}") from error
    _check_rewards(doc, study, optimizer)
    _check_losses(where, optimizer, weighting)
    if optimizer.learns_from != "rollouts":
        _check_pairs(doc, study, optimizer, weighting)
    _check_units(doc, study, optimizer, weighting)
    minibatches = study.section.training.minibatches
    if optimizer.extrapolates and minibatches > 1:
        raise StudyError(
            f"{doc.where(('training', 'minibatches'))}: optimizer {optimizer.name} takes one "
            f"gradient step from each batch, where another led; found {minibatches}, set "
            "minibatches: 1"
        )
    if optimizer.per_objective:
        _check_per_objective(doc, study, optimizer, weighting)
    if study.section.training.replay.steps:
        _check_replay(doc, optimizer, weighting)


def _check_rewards(doc: Document, study: Study, optimizer: Optimizer) -> None:
    rewards = study.new_rewards()
    for objective in study.train_objectives:
        reward = rewards[objective.name]
        where = doc.where(("objectives", objective.name, "reward"))
        if "pairs" in reward.needs and optimizer.learns_from == "rollouts":
            raise StudyError(
                f"{where}: reward {reward.name} says which completion of a preference is better, "
                f"and optimizer {optimizer.name} learns from what the policy writes; use an "
                "optimizer that learns from pairs, such as dpo, or set `monitor: true`"
            )
        if "pairs" in reward.needs and study.section.training.pairs.source != "task":
            raise StudyError(
                f"{where}: reward {reward.name} says which completion of a task's preference is "
                "better, and training.pairs.source: samples takes none of the task; set "
                "source: task"
            )
        if "pairs" in reward.needs and study.section.training.scale != "none":
            raise StudyError(
                f"{doc.where(('training', 'scale'))}: scale: calibrated standardises how the base "
                f"policy's completions score, and reward {reward.name} (objective "
                f"{objective.name}) scores preferences only; set scale: none"
            )
        if optimizer.graded and not reward.graded:
            raise StudyError(
                f"{where}: reward {reward.name} (objective {objective.name}) says which completion "
                "is better and not by how much, so every preference has the same margin, and "
                f"optimizer {optimizer.name} learns by margins; give it graded scores (for "
                "`preferred` by `score: NAME`, and `scale: [lowest, highest]`), or use an "
                "optimizer that asks only which is better, such as dpo with `labels: hard`"
            )
        own = sorted(reward.needs.intersection(_OWN))
        if own and (optimizer.learns_from == "pairs" or not optimizer.rewarded):
            raise StudyError(
                f"{where}: reward {reward.name} reads {', '.join(own)}, so it is about what the "
                f"policy itself writes, and optimizer {optimizer.name} {_idle(optimizer)}; measure "
                "it with `monitor: true` or `use: [front]`, or use an optimizer that learns from "
                "rollouts"
            )


def _check_losses(where: str, optimizer: Optimizer, weighting: Weighting) -> None:
    """Refuse a weighting that looks at losses or gradients which the optimizer does not have."""
    has_losses = type(optimizer).losses is not Optimizer.losses
    if "losses" in weighting.needs and not (has_losses and optimizer.learns_from == "pairs"):
        raise StudyError(
            f"{where}: weighting {weighting.name} reads a loss per objective, and optimizer "
            f"{optimizer.name} has none; use one that learns from pairs, such as dpo or ipo"
        )
    if "gram" not in weighting.needs:
        return
    if optimizer.learns_from == "pairs" and not has_losses:
        raise StudyError(
            f"{where}: weighting {weighting.name} compares gradients of objectives, and optimizer "
            f"{optimizer.name} has one loss for all of them; use one with a loss per objective, "
            "such as dpo"
        )
    if not optimizer.rewarded:
        raise StudyError(
            f"{where}: weighting {weighting.name} compares gradients of objectives, and optimizer "
            f"{optimizer.name} learns nothing from how rollouts score; use one that does, such as "
            "grpo, or one that learns from pairs only, such as dpo"
        )
    if type(optimizer).select is not Optimizer.select:
        raise StudyError(
            f"{where}: weighting {weighting.name} compares gradients of objectives, and optimizer "
            f"{optimizer.name} chooses what it learns from by all of them together; use one that "
            "learns from every completion, such as grpo"
        )


def _check_pairs(doc: Document, study: Study, optimizer: Optimizer, weighting: Weighting) -> None:
    training = study.section.training
    offline = "offline" in weighting.declares or (
        "gradient-weights" in weighting.declares and "steer" not in weighting.needs
    )
    if optimizer.learns_from == "pairs" and not offline:
        own = "set losses: optimizer, or " if _can_read_losses(optimizer, weighting) else ""
        raise StudyError(
            f"{doc.where(('weighting',))}: weighting {weighting.name} reads how the policy's own "
            f"completions score, and optimizer {optimizer.name} rolls nothing out; {own}use one "
            "that does not: fixed, schedule, prompt-adapter, context-router, group-robust with "
            "losses: optimizer, or one of those for conflicting gradients (mgda, pcgrad, ...)"
        )
    if "response-scores" in weighting.declares:
        raise StudyError(
            f"{doc.where(('weighting',))}: weighting {weighting.name} scores completions, and "
            f"optimizer {optimizer.name} needs weights for its preferences; use one that gives "
            "weights, such as fixed"
        )
    if optimizer.learns_from == "pairs" or not optimizer.rewarded:
        for key, plain in (("combine", "advantages"), ("batch_norm", "none"), ("scale", "none")):
            found = getattr(training, key)
            if found != plain:
                raise StudyError(
                    f"{doc.where(('training', key))}: it acts on what rollouts scored, and "
                    f"optimizer {optimizer.name} {_idle(optimizer)}; found {found!r}, set "
                    f"{key}: {plain}"
                )
    pairs = training.pairs
    most = pairs.samples if pairs.source == "samples" else 2
    if pairs.size > most:
        why = "a task's preferences are of two" if pairs.source == "task" else "so many are sampled"
        raise StudyError(
            f"{doc.where(('training', 'pairs', 'size'))}: {pairs.size} completions cannot be "
            f"compared at a time, {why}; it must be at most {most}"
        )


def _idle(optimizer: Optimizer) -> str:
    """Return what keeps an optimizer that learns from pairs from what rollouts score."""
    return "rolls nothing out" if optimizer.learns_from == "pairs" else "learns nothing of that"


def _can_read_losses(optimizer: Optimizer, weighting: Weighting) -> bool:
    """Return whether a weighting has an option to read the optimizer's losses, which there are."""
    offered = any(option.name == "losses" for option in options_of(type(weighting)))
    return offered and type(optimizer).losses is not Optimizer.losses


def _check_units(doc: Document, study: Study, optimizer: Optimizer, weighting: Weighting) -> None:
    """Refuse what moves advantages of which an optimizer needs the 0, or the unit."""
    training = study.section.training
    if not optimizer.shiftable and training.batch_norm != "none":
        raise StudyError(
            f"{doc.where(('training', 'batch_norm'))}: it shifts and divides what completions are "
            f"worth, and optimizer {optimizer.name} compares them with each other and with their "
            "group's mean; set batch_norm: none"
        )
    if optimizer.scalable:
        return
    what = f"optimizer {optimizer.name} takes what completions are worth for probabilities"
    if training.scale != "none":
        raise StudyError(
            f"{doc.where(('training', 'scale'))}: {what}, and scale: {training.scale} divides "
            "them; set scale: none"
        )
    if "unnormalised" in weighting.declares:
        raise StudyError(
            f"{doc.where(('weighting',))}: {what}, and the weights of weighting {weighting.name} "
            "may have any sum; use one whose weights sum to 1, such as fixed"
        )


def _check_per_objective(
    doc: Document, study: Study, optimizer: Optimizer, weighting: Weighting
) -> None:
    what = f"optimizer {optimizer.name} treats the objectives one by one"
    if study.section.training.combine == "rewards":
        raise StudyError(
            f"{doc.where(('training', 'combine'))}: {what}, and combine: rewards gives it a sum of "
            "all; set combine: advantages"
        )
    if "response-scores" in weighting.declares:
        raise StudyError(
            f"{doc.where(('weighting',))}: {what}, and weighting {weighting.name} gives it one "
            "score for all; use a weighting that gives weights, such as fixed"
        )


def _check_replay(doc: Document, optimizer: Optimizer, weighting: Weighting) -> None:
    where = doc.where(("training", "replay"))
    off = "set training.replay.steps: 0"
    if optimizer.learns_from != "rollouts" or not optimizer.reweighs:
        raise StudyError(
            f"{where}: optimizer {optimizer.name} has no importance weights, so it would take what "
            f"an earlier policy wrote for its own; {off}, or use one with the clipped loss, such "
            "as grpo"
        )
    if "gram" in weighting.needs:
        raise StudyError(
            f"{where}: weighting {weighting.name} weighs the gradients of this step's rollout, "
            f"which say nothing of an earlier one; {off}, or use a weighting of scores, such as "
            "fixed"
        )
    if "response-scores" in weighting.declares:
        raise StudyError(
            f"{where}: weighting {weighting.name} scores the completions of this step's rollout, "
            f"and has no weights for an earlier one; {off}, or use one that gives weights, such as "
            "fixed"
        )
