"""What an optimizer, objectives and weighting must have in common: refused with file and line."""

from __future__ import annotations

import pytest
from choices import OF_SAMPLES, STUDY, new_study

from moalign import StudyError

NEAR = "objectives.a={reward: kl, bounds: [-9, 0]}"
ONLINE = "training.optimizer=grpo"
PLAIN = "search.space={}"
GRADED = "objectives.people={reward: {preferred: {score: tone, scale: [0, 4]}}}"
WRITES = (PLAIN, "objectives.people.monitor=true")
WINS = "training.optimizer={sppo: {preference: wins}}"
MODPO = "training.optimizer={modpo: {primary: a}}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((NEAR,), r"reward kl reads logprobs, so it is about .* and optimizer dpo rolls nothing"),
        ((NEAR, "training.optimizer=hypo"), r"kl reads logprobs, .* hypo learns nothing of that"),
        ((NEAR, MODPO), r"objectives\.a.*: reward kl reads logprobs, .* optimizer modpo rolls"),
        ((ONLINE,), r"reward preferred says which .* optimizer grpo learns from what the policy"),
        (("training.optimizer=ppo",), r"use an optimizer that learns from pairs, such as dpo"),
        (("training.pairs.source=samples",), r"samples takes none of the task; set source: task"),
        (("weighting=hypervolume",), r"weighting hypervolume reads how the policy's own .* fixed"),
        (("weighting=hypervolume",), r"fixed, schedule, prompt-adapter, context-router, group-"),
        (("weighting=group-robust",), r"rolls nothing out; set losses: optimizer, or use one"),
        ((MODPO, "weighting=group-robust"), r"rolls nothing out; use one that does not"),
        (("weighting=lagrangian", PLAIN, "objectives.a.at_least=0.5"), r"weighting lagrangian"),
        (("weighting=pareto-direction", PLAIN), r"weighting pareto-direction reads how"),
        (("weighting=product", PLAIN), r"weighting product"),
        (("weighting=product", PLAIN, "training.optimizer=both-ways"), r"product scores compl"),
        ((MODPO, "weighting=mgda", PLAIN), r"mgda compares gradients .* modpo has one loss for"),
        ((MODPO, "weighting={group-robust: {losses: optimizer}}"), r"modpo has none"),
        (("training.optimizer={modpo: {primary: aa}}",), r"option primary: 'aa' is no .*mean 'a'"),
        (("training.optimizer=extremes", "weighting=mgda", PLAIN,
          "objectives.people.monitor=true"), r"optimizer extremes chooses what it learns from"),
        (("training.combine=rewards",), r"acts on what rollouts scored, and optimizer dpo rolls"),
        (("training.batch_norm=token",), r"found 'token', set batch_norm: none"),
        (("training.combine=rewards", "training.scale=calibrated",
          "training.optimizer=both-ways"), r"reward preferred \(objective people\) scores pref"),
        (("training.optimizer=madpo",), r"objectives\.people\.reward: reward preferred \(objective "
         r"people\) says which .* optimizer madpo learns by margins; .* `score: NAME`, and `scale"),
        (("training.optimizer=mmpo",), r"optimizer mmpo learns by margins; .* such as dpo"),
        (("training.optimizer={dpo: {labels: soft}}",),
         r"dpo learns by margins; .* dpo with `labels: hard`"),
        (("training.optimizer=adpo",), r"optimizer adpo learns by margins"),
        (("training.optimizer=madpo", "objectives.people={reward: {preferred: {group: north}}}"),
         r"optimizer madpo learns by margins"),
        (("training.pairs.size=3",), r"a task's preferences are of two; it must be at most 2"),
        ((*OF_SAMPLES, "training.pairs.size=5"), r"5 completions .* so many are sampled; .* 4"),
        (("training.pairs.size=1",), r"greater than or equal to 2"),
        (("training.pairs.source=task-pairs",), r"training\.pairs\.source"),
        (("training.optimizer=ppo", "training.combine=rewards",
          "objectives.people.monitor=true", PLAIN), r"optimizer ppo treats .* set combine: adv"),
        (("training.optimizer=ppo", "weighting=product",
          "objectives.people.monitor=true", PLAIN), r"ppo treats .* product gives it one score"),
        (("policy={small: {condition: weights}}",
          "weighting={group-robust: {losses: optimizer}}"), r"group-robust does not follow them"),
        ((*WRITES, "training.optimizer=expert-iteration", "training.batch_norm=token"),
         r"optimizer expert-iteration compares them .* set batch_norm: none"),
        ((*WRITES, "training.optimizer=sppo", "training.batch_norm=sequence"), r"set batch_norm:"),
        ((*WRITES, WINS, "training.group=2", "training.combine=rewards",
          "training.scale=calibrated"), r"takes .* for probabilities, .* set scale: none"),
        ((*WRITES, WINS, "training.group=2", "weighting={hypervolume: {apply_to: reward}}"),
         r"weights of weighting hypervolume may have any sum; .* such as fixed"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(StudyError, match=message) as found:
        new_study(*overrides)
    assert "choices.yaml" in str(found.value) or "--set" in str(found.value)


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("optimizer: dpo,", "optimizer: grpo,", r"line 6, key objectives\.people\.reward: reward"),
        ("weighting: fixed", "weighting: bandit", r"line 9, key weighting: weighting bandit reads"),
        (
            "learning_rate: 1.0e-2}",
            "pairs: {size: 4}}",
            r"line 8, key training\.pairs\.size: 4 completions",
        ),
        (
            "optimizer: dpo,",
            "optimizer: {modpo: {primary: b}},",
            r"line 8, key training\.optimizer: .* 'b' is no training objective",
        ),
        (
            "{reward: letter-share}",
            "{reward: kl, bounds: [-1, 0]}",
            r"line 5, key objectives\.a\.reward: reward kl reads logprobs",
        ),
        (
            "optimizer: dpo,",
            "optimizer: dpo, combine: rewards,",
            r"line 8, key training\.combine: it acts",
        ),
    ],
)
def test_the_line_is_named(old: str, new: str, where: str) -> None:
    with pytest.raises(StudyError, match=r"choices\.yaml " + where):
        new_study(text=STUDY.replace(old, new))


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        OF_SAMPLES,
        (*OF_SAMPLES, "training.pairs.size=4"),
        (MODPO,),
        ("weighting={schedule: {start: {a: 1, people: 0}, end: {a: 0, people: 1}}}", PLAIN),
        ("weighting={group-robust: {losses: optimizer}}",),
        ("weighting=mgda", PLAIN),
        ("weighting=pcgrad", PLAIN),
        ("policy={small: {condition: weights}}",),
        ("training.optimizer=both-ways", "training.group=4", "weighting=mgda", PLAIN),
        *(
            (f"training.optimizer={name}", GRADED)
            for name in ("madpo", "mmpo", "adpo", "dpo", "{modpo: {primary: a}}")
        ),
        ("training.optimizer=madpo", "objectives.people.monitor=true", PLAIN),
        ("training.optimizer=adpo", *OF_SAMPLES),
        (ONLINE, "objectives.people.monitor=true", PLAIN),
        (ONLINE, "objectives.people.use=[front]", PLAIN),
        ("objectives.near={reward: kl, monitor: true}",),
        ("objectives.a={reward: fluency, bounds: [-9, 0]}",),  # of the reference, so of the text
        ("training.group=1",),  # of rollouts only
    ],
)
def test_what_can_be_learned_is_not(overrides: tuple[str, ...]) -> None:
    new_study(*overrides)


def test_every_key_of_pairs_says_what_it_is() -> None:
    from moalign.study.schema import PairsSection, TrainingSection

    for section in (PairsSection, TrainingSection):
        for name, field in section.model_fields.items():
            assert field.description, name
