"""Loading a study: what it resolves to, and the text of every mistake."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from moalign import plugins
from moalign.errors import StudyError
from moalign.study import bundled
from moalign.study.loading import as_proposed, load, with_values
from moalign.study.study import Study, complete_preference
from moalign.types import FloatRange, Proposal, Simplex

Load = Callable[..., Study]


def test_resolves_every_default_and_option(loaded: Load) -> None:
    study = loaded()
    assert study.data["weighting"] == {"flat": {"preference": None, "rate": 0.1}}
    assert study.data["objectives"]["first"]["reward"] == {"one": {"limit": 1.0}}
    assert study.data["training"]["optimizer"] == {"pairwise": {"clip": 0.2}}
    assert study.section.training.group == 8
    assert [o.name for o in study.train_objectives] == ["first", "second"]
    assert study.objectives[0].bounds == (0.0, 1.0)
    assert study.preference == {"first": 0.5, "second": 0.5}
    assert study.conditions == [None]


def test_resolving_is_idempotent(loaded: Load) -> None:
    study = loaded()
    again = with_values(study, {})
    assert again.data == study.data
    assert again.fingerprint() == study.fingerprint()


def test_space(loaded: Load) -> None:
    assert loaded().space == {
        "weighting.preference": Simplex(("first", "second")),
        "training.learning_rate": FloatRange(1e-4, 1e-3, log=True),
    }


def test_values_of_a_trial(loaded: Load) -> None:
    values = {"weighting.preference": {"first": 0.8, "second": 0.2}, "training.learning_rate": 2e-4}
    study = with_values(loaded(), values)
    assert study.preference == {"first": 0.8, "second": 0.2}
    assert study.section.training.learning_rate == 2e-4
    assert loaded().section.training.learning_rate == 5e-4


def test_settings_replace_what_parameters_say_of_a_component(loaded: Load) -> None:
    searched = {
        "weighting.preference": {"first": 0.8, "second": 0.2},
        "training.learning_rate": 2e-4,
    }
    other = {"ends": {"start": {"first": 1.0, "second": 0.0}}}
    proposal = Proposal(searched, settings={"weighting": other, "training.learning_rate": 3e-4})
    assert proposal.values == {"weighting": other, "training.learning_rate": 3e-4}
    study = as_proposed(loaded(), proposal)
    assert list(study.data["weighting"]) == ["ends"], "though the search is over its preference"
    assert study.section.training.learning_rate == 3e-4
    assert study.space == {}
    plain = as_proposed(loaded(), Proposal(searched, settings={"weighting.rate": 0.3}))
    assert plain.data["weighting"] == {
        "flat": {"preference": {"first": 0.8, "second": 0.2}, "rate": 0.3}
    }


def test_of_several_sets_of_weights_each_is_searched_on_its_own(loaded: Load, text: str) -> None:
    ends = text.replace("weighting: flat", "weighting: ends").replace(
        "    weighting.preference: simplex\n",
        "    weighting.start: simplex\n    weighting.end: simplex\n",
    )
    study = loaded(ends)
    assert study.space["weighting.start"] == study.space["weighting.end"]
    assert study.space["weighting.end"] == Simplex(("first", "second"))
    values = {
        "weighting.start": {"first": 0.8, "second": 0.2},
        "weighting.end": {"first": 0.0, "second": 1.0},
    }
    assert with_values(study, values).new_weighting().end == values["weighting.end"]
    # None of them is the preference that step.preference_K carries.
    assert with_values(study, values).preference == {"first": 0.5, "second": 0.5}
    with pytest.raises(StudyError, match=r"one can search: weighting\.start, weighting\.end"):
        loaded(ends.replace("weighting.start", "weighting.preference"))
    for old, message in [
        ("{start: {first: 1}}", "`start` leaves out second; give a weight for each of first"),
        ("{end: {first: 1, secnd: 1}}", "`end` names 'secnd', which is not trained on; did you"),
    ]:
        with pytest.raises(StudyError) as caught:
            loaded(ends.replace("weighting: ends", f"weighting: {{ends: {old}}}"))
        assert message in str(caught.value)


def test_the_option_called_preference_is_the_preference(loaded: Load, text: str) -> None:
    given = "{both: {blend: {first: 1, second: 9}, preference: {first: 3, second: 1}}}"
    study = loaded(text.replace("weighting: flat", f"weighting: {given}"))
    assert study.preference == {"first": 0.75, "second": 0.25}


def test_report_preferences_are_the_centre_and_the_corners(loaded: Load) -> None:
    centre, first, second = loaded().report_preferences
    assert centre == {"first": 0.5, "second": 0.5}
    assert first == pytest.approx({"first": 0.6, "second": 0.4})
    assert second == pytest.approx({"first": 0.4, "second": 0.6})


def test_equal_rewards_share_an_instance(loaded: Load, text: str) -> None:
    same = text.replace("{reward: {one: {limit: 2.0}}}", "{reward: {one: {limit: 1.0}}}")
    rewards = loaded(same).new_rewards()
    assert rewards["first"] is rewards["second"]
    rewards = loaded().new_rewards()
    assert rewards["first"] is not rewards["second"]


def test_one_reward_and_output_is_one_measure(loaded: Load, text: str) -> None:
    def measures(first: str, second: str) -> list[str]:
        changed = text.replace("{reward: one}", first, 1)
        changed = changed.replace("{reward: {one: {limit: 2.0}}}", second, 1)
        return [o.measure for o in loaded(changed).objectives]

    for first, second in (
        ("{reward: one}", "{reward: {one: {limit: 1.0}}}"),  # its default
        ("{reward: one, at_least: 0.2}", "{reward: one, bounds: [0, 2]}"),
        ("{reward: heads, output: a}", "{reward: heads, output: a}"),
    ):
        one, other = measures(first, second)
        assert one == other != ""
    for first, second in (
        ("{reward: one}", "{reward: {one: {limit: 2.0}}}"),
        ("{reward: heads, output: a}", "{reward: heads, output: b}"),
    ):
        one, other = measures(first, second)
        assert one != other


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("training.steps=80", ("training", "steps"), 80),
        ("weighting.rate=0.5", ("weighting", "flat", "rate"), 0.5),
        ("training.optimizer.clip=.3", ("training", "optimizer", "pairwise", "clip"), 0.3),
        ("objectives.second.reward.limit=3", ("objectives", "second", "reward", "one", "limit"), 3),
        ("search.rungs=[4]", ("search", "rungs"), [4]),
    ],
)
def test_overrides_skip_component_names(
    loaded: Load, text: str, override: str, path: tuple[str, ...], expected: object
) -> None:
    node: object = loaded(text, override).data
    for part in path:
        assert isinstance(node, dict)
        node = node[part]
    assert node == expected


def test_what_runs_it_does_not_change_the_fingerprint(loaded: Load, text: str) -> None:
    one, two = loaded(), loaded(text, "search.trials=99", "trackers=[]")
    assert one.fingerprint() == two.fingerprint()
    assert two.difference(one.data) == []
    other = loaded(text, "training.steps=21")
    assert other.fingerprint() != one.fingerprint()
    assert other.difference(one.data) == ["training.steps: 20 -> 21"]


MISTAKES = [
    ("task: toy", "taks: toy", "toy.yaml line 2, key taks: no such key; did you mean 'task'?"),
    ("task: toy", "task: tyo", "line 2, key task: no task is called 'tyo'; did you mean 'toy'?"),
    ("task: toy\n", "", "key task: this key is missing (Prompts and references)"),
    ("{reward: one}", "{reward: on}", "line 5, key objectives.first.reward: no reward is called"),
    ("limit: 2.0", "limt: 2.0", "has no option 'limt'; did you mean 'limit'?"),
    ("limit: 2.0", "limit: -2", "option 'limit' should be float > 0; found -2"),
    ("limit: 2.0", "limit: true", "option 'limit' should be float > 0; found True"),
    ("limit: 2.0", "limit: .nan", "option 'limit' should be float > 0; found nan"),
    ("limit: 2.0", "limit: yes", "option 'limit' should be float > 0; found 'yes'"),
    ("steps: 20", "stesp: 20", "key training.stesp: no such key; did you mean 'steps'?"),
    (
        "steps: 20",
        "steps: 20, clip: 0.3",
        "toy.yaml line 8, key training.clip: 'clip' is an option of optimizer pairwise; write "
        "optimizer: {pairwise: {clip: 0.3}}, or --set training.optimizer.clip=0.3",
    ),
    (
        "optimizer: pairwise, steps: 20",
        "optimizer: {pairwise: {clip: 0.3}}, steps: 20, clp: 0.3",
        "key training.clp: no such key; allowed: batch_norm, clip_norm",
    ),
    (
        "weighting: flat",
        "weighting: {flat: {rate: 0.2}}\npreference: {first: 1, second: 3}",
        "write weighting: {flat: {rate: 0.2, preference: {first: 1, second: 3}}}, or --set "
        "weighting.preference={first: 1, second: 3}",
    ),
    ("objectives:\n", "rate: 0.2\nobjectives: 3\nothers:\n", "key rate: 'rate' is an option of w"),
    (
        "reward: {one: {limit: 2.0}}",
        "reward: one, limit: 2.0",
        "line 6, key objectives.second.limit: 'limit' is an option of reward one",
    ),
    ("optimizer: pairwise", "optimizer: pairwse, clip: 0.3", "key training.clip: no such key"),
    (
        "optimizer: pairwise",
        "optimizer: {pairwise: 1}",
        "toy.yaml line 8, key training.optimizer: the options of optimizer pairwise are a mapping, "
        "{pairwise: {option: value}}; found 1",
    ),
    (
        "optimizer: pairwise",
        "optimizer: {pairwise: {}, pairs: {}}",
        "key training.optimizer: an optimizer is given as its name, or as {name: {option: value}}",
    ),
    ("optimizer: pairwise", "optimizer: 3", "an optimizer is given as its name, or as {name:"),
    (
        "trackers: [silent]",
        "trackers: [silent, {silent: 1}]",
        "line 17, key trackers.1: the options of tracker silent are a mapping, {silent:",
    ),
    (
        "optimizer: pairwise",
        "optimizer: mine",
        "; one of your own needs --plugin FILE",
    ),
    ("steps: 20", "steps: 0", "key training.steps: found 0; input should be greater than"),
    ("steps: 20", "steps: many", 'key training.steps: found "many"; input should be a valid'),
    ("steps: 20", "steps: 20, group: 1", "group must be at least 2; found 1"),
    ("steps: 20", "steps: 20, minibatches: 17", "17 mini-batches cannot be made of 16 prompts"),
    ("steps: 20", "steps: 20, scale: calibrated", "it needs combine: rewards"),
    ("reward: one}", "reward: one, at_least: 50}", "a threshold of 50 cannot decide anything"),
    (
        "reward: one}",
        "reward: one, bounds: [0, 0.5], at_least: 0.7}",
        "line 5, key objectives.first.at_least: a threshold of 0.7 lies outside the objective's "
        "bounds, 0 to 0.5; move the threshold or widen `bounds`",
    ),
    ("reward: one}", "reward: free, bounds: [-9, 0], at_least: 2}", "threshold of 2 lies outside"),
    ("optimizer: pairwise", "optimizer: pairs", "pairs rolls nothing out; use one that"),
    ("optimizer: pairwise", "optimizer: valued", "needs 'values', which nothing provides"),
    ("policy: blank", "policy: conditioned", "does not follow them (it does not declare 'condit"),
    ("rungs: [5, 10]", "rungs: [10, 5]", "rungs must rise; found [10, 5]"),
    ("rungs: [5, 10]", "rungs: [5, 20]", "rungs must lie below training.steps (20)"),
    ("weighting: flat", "weighting: {flat: {preference: {first: 1}}}", "leaves out second"),
    (
        "weighting: flat",
        "weighting: {flat: {preference: {first: 1, secnd: 2}}}",
        "the preference names 'secnd', which is not trained on; did you mean 'second'?",
    ),
    (
        "weighting: flat",
        "weighting: {flat: {preference: {first: -1, second: 2}}}",
        "the weight of 'first' must be finite and >= 0; found -1.0",
    ),
    (
        "weighting: flat",
        "weighting: {flat: {preference: {first: 0, second: 0}}}",
        "at least one weight must be > 0; all are 0",
    ),
    (
        "weighting: flat",
        "weighting: {flat: {preference: {first: .nan, second: 0}}}",
        "Input should be a finite number",
    ),
    (
        "weighting: flat",
        "weighting: {bare: {primary: firts}}",
        "primary is 'firts'; did you mean 'first'?",
    ),
    (
        "weighting: flat",
        "weighting: {bare: {primary: first}}",
        "has no preference called 'preference' that a simplex could search; of it one can search: "
        "weighting.primary (--set 'search.space={}' would search nothing)",
    ),
    ("reward: one}", "reward: free}", "needs `bounds: [lo, hi]`"),
    ("reward: one}", "reward: one, bounds: [1, 0]}", "the lower bound must be below the upper"),
    ("reward: one}", "reward: heads}", "say which with `output`: a, b; found None"),
    ("reward: one}", "reward: one, output: a}", "has one output only; remove `output: a`"),
    ("reward: one}", "reward: {clipped: {inner: oen}}}", "no reward is called 'oen'; did you mean"),
    ("reward: one}", "reward: {clipped: {}}}", "needs option 'inner' (reward)"),
    ("reward: one}", "reward: needy}", "needs 'hiden', which nothing provides; did you mean 'hid"),
    ("reward: one}", "reward: [one]}", "key objectives.first.reward"),
    ("weighting.preference: simplex", "weighting.rate: simplex", "has no preference called 'rate'"),
    ("low: 1.0e-4", "low: 1.0e-2", "low must be below high; found 0.01 and 0.001"),
    (
        "weighting.preference: simplex",
        "training.prompts: {choices: [1, 2, true]}",
        "choices must differ; found 1 and true",
    ),
    ("low: 1.0e-4", "low: -1.0", "a logarithmic range starts above 0; found -1.0"),
    ("training.learning_rate: {low", "training.learning_rat: {low", "no such key"),
    ("training.learning_rate: {low", "search.trials: {low", "does not change what a trial learns"),
    (
        "training.learning_rate: {low",
        "objectives.first.reward.limit: {low",
        "changes what is measured, so trials could not be compared",
    ),
    ("low: 1.0e-4", "lo: 1.0e-4", "no such key; did you mean 'low'? Allowed: high, log, low"),
    ("low: 1.0e-4, ", "", "this key is missing (Smallest value)"),
    ("low: 1.0e-4", "low: small", 'found "small"'),
    ("weighting.preference: simplex", "training.steps: {low: 1, high: 9}", "compared at equal len"),
    ("weighting.preference: simplex", "policy.size: {low: 1, high: 9}", "changes what is m"),
    (
        "weighting.preference: simplex",
        "weighting.rate: {low: -0.123456789, high: 1.0}",
        "the value -0.123457 cannot be used: toy.yaml, key weighting.flat.rate: weighting flat",
    ),
    (
        "trackers: [silent]",
        "trackers: [silent]\nreport: {preferences: [{kind: 1}]}",
        "toy.yaml line 18, key report.preferences.0: a preference names 'kind'; allowed: first",
    ),
    (
        "trackers: [silent]",
        "trackers: [silent]\nevaluation: {conditions: [{first: 1}, {kind: 1}]}",
        "toy.yaml line 18, key evaluation.conditions.1: a preference names 'kind'; allowed: first",
    ),
    (
        "weighting.preference: simplex",
        "objectives.fist.at_least: {low: 0.1, high: 0.9}",
        "no objective is called 'fist'; did you mean 'first'?",
    ),
    ("study: toy", "study: toy\ntrap: &x {a: *x}", "an anchor contains itself"),
    ("study: toy", "study: toy\nstudy: toy", "key study is given twice; the first is on line 1"),
    ("study: toy", "study: [toy", "this is not YAML"),
    ("study: toy", "study: !!python/name:os.system ''", "a study is plain data"),
    ("study: toy", "study: a b", "key study"),
]


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES)
def test_mistakes(loaded: Load, text: str, old: str, new: str, message: str) -> None:
    assert old in text
    with pytest.raises(StudyError) as caught:
        loaded(text.replace(old, new, 1))
    assert message in str(caught.value), str(caught.value)
    assert "toy.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.steps", "write --set path=value"),
        ("training.steps=abc", "--set training.steps=abc"),
        ("training.stesp=3", "did you mean 'steps'"),
        ("training..steps=3", "is no path"),
        ("study.x=3", "leads through 'study'"),
        ("weighting.flat.rate=1", "a path skips the names of components: write weighting.rate"),
        (
            "training.gradients.layers=[3, 1]",
            "found [3, 1]; the first layer must not lie above the last",
        ),
        ("trainig.steps=3", "--set trainig.steps=3: no such key; did you mean 'training'"),
        ("weighting.rate=-1", "--set weighting.rate=-1: weighting flat: option 'rate'"),
        ("objectives.fist.at_least=1", "no objective is called 'fist'; did you mean 'first'"),
    ],
)
def test_wrong_overrides(loaded: Load, text: str, override: str, message: str) -> None:
    with pytest.raises(StudyError) as caught:
        loaded(text, override)
    assert message in str(caught.value), str(caught.value)


def test_batch_norm_cancels_an_unnormalised_weighting(loaded: Load, text: str) -> None:
    changed = text.replace("weighting: flat", "weighting: {bare: {primary: first}}").replace(
        "    weighting.preference: simplex\n", ""
    )
    loaded(changed)
    with pytest.raises(StudyError, match="batch_norm would cancel its scale"):
        loaded(changed, "training.batch_norm=token")


def test_preferences_of_a_person_may_leave_objectives_out() -> None:
    assert complete_preference({"a": 3.0}, ["a", "b"]) == {"a": 1.0, "b": 0.0}
    for given, message in [
        ({"c": 1.0}, "names 'c'"),
        ({"a": -1.0}, "must be finite and >= 0"),
        ({"a": float("nan")}, "must be finite"),
        ({"a": 0.0}, "needs a weight above 0"),
    ]:
        with pytest.raises(StudyError, match=message):
            complete_preference(given, ["a", "b"])


SCRATCH = "policy={scratch: {layers: 3}}"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            (SCRATCH, "training.gradients.layers=[1, 3]"),
            r"--set training.gradients.layers=\[1, 3\]: found \[1, 3\]; the policy has 3 layers, "
            "0 to 2",
        ),
        (
            (SCRATCH, "training.gradients.only=lora"),
            "--set training.gradients.only=lora: found 'lora', but the policy has no LoRA adapter; "
            "use only: all",
        ),
    ],
)
def test_gradients_that_the_policy_will_not_have(overrides: tuple[str, ...], sentence: str) -> None:
    text, source = bundled.read(bundled.DEFAULT)
    with pytest.raises(StudyError, match=sentence):
        load(text, source, plugins.load(), overrides)


@pytest.mark.parametrize("layers", ["[0, 2]", "null"])
def test_gradients_that_the_policy_will_have(layers: str) -> None:
    text, source = bundled.read(bundled.DEFAULT)
    load(text, source, plugins.load(), (SCRATCH, f"training.gradients.layers={layers}"))
