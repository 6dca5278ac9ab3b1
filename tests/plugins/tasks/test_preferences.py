"""A person's own preferences: each form of a file, what is left out, mistakes by their line."""

from __future__ import annotations

import csv
import gzip
import inspect
import itertools
import json
import re
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import letters
import pytest
import yaml
from typer.testing import CliRunner

from moalign import plugins
from moalign.cli import command_line
from moalign.errors import DataError, OptionError
from moalign.options import check_options
from moalign.study.loading import load
from moalign.study.study import Study
from moalign.tables import EQUAL
from moalign.training.material import check_preferences
from moalign.training.splits import needed_splits, split_prompts
from moalign.types import SPLITS, Demonstration
from moalign_plugins.tasks.preferences import EMPTY, PARTED, UNDECIDED, Preferences


def write(path: Path, rows: list[Any]) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def task(path: Path, **options: Any) -> Preferences:
    return Preferences(**check_options(Preferences, {"path": str(path), **options}))


def of(tmp_path: Path, *rows: Any, **options: Any) -> Preferences:
    return task(write(tmp_path / "a.jsonl", list(rows)), **options)


def row(i: int = 0, **more: Any) -> dict[str, Any]:
    return {"prompt": f"prompt {i}", "chosen": f"good {i}", "rejected": f"bad {i}", **more}


def everything(own: Preferences) -> list[Any]:
    """All pairs in the order of prompts."""
    pairs = [pair for split in SPLITS for pair in own.pairs(0, split)]
    return sorted(pairs, key=lambda pair: (int(pair.prompt.id), pair.chosen))


def only(own: Preferences) -> Any:
    (pair,) = everything(own)
    return pair


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


# --- rows --------------------------------------------------------------------------------------


def test_a_row_is_a_preference(tmp_path):
    own = of(tmp_path, row(group="north", annotator=7, topic="fruit", note=""))
    pair = only(own)
    assert (pair.chosen, pair.rejected, pair.group, pair.annotator) == (
        "good 0",
        "bad 0",
        "north",
        "7",
    )
    assert (pair.prompt.text, pair.prompt.fields) == ("prompt 0", {"topic": "fruit"})
    assert pair.prompt.messages == ()
    assert (pair.chosen_scores, pair.rejected_scores) == ({}, {})
    assert own.prompts() == [pair.prompt]
    assert own.parse("what?").text == "what?"


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_packed(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_bytes(gzip.compress(write(path, rows).read_bytes()))
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pytest.importorskip("datasets").Dataset.from_list(rows).to_parquet(str(path))
    return path


def write_folder(path: Path, rows: list[dict[str, Any]]) -> Path:
    pytest.importorskip("datasets").Dataset.from_list(rows).save_to_disk(str(path))
    return path


@pytest.mark.parametrize(
    ("name", "writer"),
    [
        ("a.csv", write_csv),
        ("a.jsonl.gz", write_packed),
        ("a.parquet", write_parquet),
        ("folder", write_folder),
    ],
)
def test_every_kind_of_file_reads_alike(tmp_path, name, writer):
    rows = [row(i, group="ab"[i % 2], s=i / 4, t=0.5) for i in range(3)]
    options = {"scores": {"kind": ["s", "t"]}}
    expected = of(tmp_path, *rows, **options)
    found = task(writer(tmp_path / name, rows), **options)
    assert everything(found) == everything(expected)


def test_columns_of_other_names(tmp_path):
    own = of(
        tmp_path,
        {"q": "why?", "yes": "a", "no": "b", "who": "x", "from": "y", "gold": "z", "n": 1},
        prompt="q",
        chosen="yes",
        rejected="no",
        annotator="who",
        group="from",
        columns={"reference": "gold"},
    )
    pair = only(own)
    assert (pair.prompt.text, pair.chosen, pair.rejected) == ("why?", "a", "b")
    assert (pair.annotator, pair.group, pair.prompt.fields) == ("x", "y", {"reference": "z"})


def test_rows_of_one_prompt_share_it(tmp_path):
    own = of(
        tmp_path,
        row(0, topic="a", n=1),
        {**row(0, topic="a", n=2), "chosen": "best"},
        row(1, topic="a"),
    )
    first, second = own.prompts()
    assert (first.id, second.id) == ("1", "3")
    assert first.fields == {"topic": "a"}  # where the rows disagree it is no field of the prompt
    assert [pair.prompt for pair in everything(own)] == [first, first, second]
    assert own.facts()["rows"] == 3
    assert own.facts()["prompts"] == 2


def test_chosen_completions_of_train_are_demonstrations(tmp_path):
    own = of(tmp_path, *[row(i) for i in range(50)])
    assert list(own.demonstrations(3)) == [
        Demonstration(pair.prompt.text, pair.chosen) for pair in own.pairs(3)
    ]


def test_the_file_and_study_of_the_documentation_can_be_read(tmp_path):
    page = inspect.cleandoc(Preferences.__doc__ or "")
    blocks = [textwrap.dedent(b) for b in re.findall(r"::\n\n((?:    .*\n|\n)+)", page)]
    jsonl = next(b for b in blocks if b.startswith("{"))
    study = next(b for b in blocks if b.startswith("study:"))
    (tmp_path / "preferences.jsonl").write_text(jsonl)
    options = yaml.safe_load(study)["task"]["preferences"]
    options["path"] = str(tmp_path / options["path"])
    found = everything(Preferences(**check_options(Preferences, options)))
    assert [(pair.group, pair.chosen) for pair in found] == [("north", "Apple."), ("south", "Fig.")]


# --- splits and facts --------------------------------------------------------------------------


def test_every_split_has_its_own_preferences(tmp_path):
    own = of(tmp_path, *[row(i // 2, chosen=f"good {i}") for i in range(1200)])
    by_split = {split: own.pairs(0, split) for split in SPLITS}
    assert sum(map(len, by_split.values())) == 1200
    assert len(by_split["train"]) / 1200 == pytest.approx(0.8, abs=0.05)
    for split, pairs in by_split.items():
        assert {pair.prompt.split for pair in pairs} == {split}
        assert own.facts()[f"preferences in {split}"] == len(pairs)
    texts = [{pair.prompt.text for pair in pairs} for pairs in by_split.values()]
    assert sum(map(len, texts)) == 600  # a prompt is in one split
    assert own.pairs(0) == own.pairs(0) != own.pairs(1)
    assert Counter(map(repr, own.pairs(0))) == Counter(map(repr, own.pairs(1)))


def test_units_stay_together_and_a_column_may_name_the_split(tmp_path):
    rows = [row(i, who=f"u{i // 10}", part=SPLITS[i % 4]) for i in range(200)]
    path = write(tmp_path / "a.jsonl", rows)
    splits: dict[str, set[Any]] = {}
    for prompt in task(path, unit="who").prompts():
        splits.setdefault(prompt.unit, set()).add(prompt.split)
    assert len(splits) == 20
    assert all(len(found) == 1 for found in splits.values())
    for prompt in task(path, split="part").prompts():
        assert prompt.split == SPLITS[(int(prompt.id) - 1) % 4]
    with pytest.raises(OptionError, match="task preferences, option split"):
        task(path, split={"train": 0.9})


def test_the_facts_count_groups_people_and_scores(tmp_path):
    rows = [row(i, group="ab"[i % 5 == 0], annotator=f"p{i % 3}", part="train") for i in range(10)]
    scored = row(10, part="test", chosen_scores={"x": 1}, rejected_scores={"x": 0})
    facts = of(tmp_path, *rows, scored, split="part").facts()
    assert facts["annotators"] == 3
    assert facts["preferences of group a in train"] == 8
    assert facts["preferences of group b in train"] == 2
    assert facts["preferences with score x in test"] == 1


# --- scores ------------------------------------------------------------------------------------


def test_scores_are_mappings_in_two_columns(tmp_path):
    both = {"chosen_scores": {"x": 1, "y": None}, "rejected_scores": {"x": 0, "y": None}}
    pair = only(of(tmp_path, row(0, **both)))
    assert (pair.chosen_scores, pair.rejected_scores) == ({"x": 1.0}, {"x": 0.0})
    assert "chosen_scores" not in pair.prompt.fields


@pytest.mark.parametrize("nothing", [{}, {"x": None}, None, ""])
def test_scores_that_neither_completion_has_say_nothing(tmp_path, nothing):
    pair = only(of(tmp_path, row(0, chosen_scores=nothing, rejected_scores=None)))
    assert (pair.chosen_scores, pair.rejected_scores) == ({}, {})


def test_scores_are_two_columns_of_numbers_or_one_that_says_which(tmp_path):
    rows = [
        row(0, h1=3, h2=1.5, fluent="rejected"),
        row(1, h1="", h2=None, fluent="tie"),
        row(2, h1=0, h2=0, fluent=0),
        row(3, h1=0, h2=0),
    ]
    own = of(tmp_path, *rows, scores={"helpful": ["h1", "h2"], "fluent": "fluent"})
    assert [(p.chosen_scores, p.rejected_scores) for p in everything(own)] == [
        ({"helpful": 3.0, "fluent": 0.0}, {"helpful": 1.5, "fluent": 1.0}),
        ({"fluent": 0.5}, {"fluent": 0.5}),
        ({"helpful": 0.0, "fluent": 1.0}, {"helpful": 0.0, "fluent": 0.0}),
        ({"helpful": 0.0}, {"helpful": 0.0}),
    ]


def votes(**said: Any) -> dict[str, Any]:
    return {"source": "s", "a": "one", "b": "two", **said}


ASPECTS = {"fluency": "fluency", "meaning": "meaning", "simplicity": "simplicity"}


@pytest.mark.parametrize(
    ("said", "chosen"),
    [
        (("a", "a", "b"), "one"),
        (("tie", "b", "tie"), "two"),
        (("b", "b", "a"), "two"),
        (("a", "b", "tie"), "one"),  # as many for both: the first
        (("tie", "tie", "tie"), None),
    ],
)
def test_completions_that_are_compared_side_by_side(tmp_path, said, chosen):
    compared = votes(**dict(zip(ASPECTS, said, strict=True)))
    filler = votes(source="other", fluency="a", meaning="a", simplicity="a")
    own = of(tmp_path, compared, filler, prompt="source", completions=["a", "b"], scores=ASPECTS)
    pairs = [pair for pair in everything(own) if pair.prompt.text == "s"]
    if chosen is None:
        assert pairs == []
        assert own.facts()[UNDECIDED] == 1
        return
    (pair,) = pairs
    assert pair.chosen == chosen
    first = pair.chosen_scores if chosen == "one" else pair.rejected_scores
    assert first == {
        name: {"a": 1.0, "b": 0.0, "tie": 0.5}[word]
        for name, word in zip(ASPECTS, said, strict=True)
    }


@pytest.mark.parametrize(("word", "chosen"), [(0, "one"), (1, "two"), ("b", "two"), ("tie", None)])
def test_a_column_says_which_of_two_completions_is_better(tmp_path, word, chosen):
    rows = [votes(best=word, safer=1), votes(source="other", best=0, safer=1)]
    options = {"completions": ["a", "b"], "better": "best", "scores": {"safe": "safer"}}
    own = of(tmp_path, *rows, prompt="source", **options)
    pairs = [pair for pair in everything(own) if pair.prompt.text == "s"]
    assert [pair.chosen for pair in pairs] == ([] if chosen is None else [chosen])
    if chosen == "two":
        assert pairs[0].chosen_scores == {"safe": 1.0}


# --- conversations -----------------------------------------------------------------------------

BEFORE = [{"role": "system", "content": "Be kind."}, user("Hi"), assistant("Hello"), user("Bye?")]
TEXT = "Be kind.\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye?\n\nAssistant:"


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": BEFORE, "chosen": [assistant("Bye")], "rejected": [assistant("No")]},
        {"prompt": BEFORE, "chosen": "Bye", "rejected": "No"},
        {"chosen": [*BEFORE, assistant("Bye")], "rejected": [*BEFORE, assistant("No")]},
        {
            "prompt": "Bye?",  # some files repeat the last question here
            "chosen": [*BEFORE, assistant("Bye")],
            "rejected": [*BEFORE, assistant("No")],
        },
    ],
)
def test_lists_of_messages(tmp_path, given):
    own = of(tmp_path, given)
    pair = only(own)
    assert (pair.chosen, pair.rejected, pair.prompt.text) == ("Bye", "No", TEXT)
    assert list(pair.prompt.messages) == BEFORE
    assert own.parse("So?").messages == (user("So?"),)


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": "Human: Hi\n\nAssistant: A\n\nB\n\nHuman: So?", "chosen": "x", "rejected": "y"},
        {
            "prompt": "\n\nHuman: Hi\n\nAssistant: A\n\nB\n\nHuman: So?\n\nAssistant:",
            "chosen": "x",
            "rejected": "y",
        },
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: A\n\nB\n\nHuman: So?\n\nAssistant: x",
            "rejected": "\n\nHuman: Hi\n\nAssistant: A\n\nB\n\nHuman: So?\n\nAssistant: y",
        },
    ],
)
def test_transcripts(tmp_path, given):
    pair = only(of(tmp_path, given))
    assert (pair.chosen, pair.rejected) == ("x", "y")
    assert pair.prompt.text == "Human: Hi\n\nAssistant: A\n\nB\n\nHuman: So?\n\nAssistant:"
    assert pair.prompt.messages == (user("Hi"), assistant("A\n\nB"), user("So?"))


def test_a_completion_beside_a_prompt_is_taken_as_it_is(tmp_path):
    pair = only(of(tmp_path, {"prompt": "p", "chosen": "Human: x", "rejected": " y\n"}))
    assert (pair.chosen, pair.rejected, pair.prompt.messages) == ("Human: x", " y\n", ())


# --- what is left out, and mistakes ------------------------------------------------------------


def test_what_cannot_be_learned_from_is_left_out_and_counted(tmp_path):
    spoken = {"chosen": [user("a"), assistant("x")], "rejected": [user("b"), assistant("y")]}
    silent = {"chosen": [user("a"), assistant("x")], "rejected": [user("a"), assistant(" ")]}
    own = of(
        tmp_path,
        row(0),
        row(1, chosen="same", rejected="same"),
        row(2, chosen=""),
        row(3, rejected=" \n"),
        {"prompt": "p", **spoken},
        {"prompt": "p", **silent},
    )
    assert only(own).prompt.text == "prompt 0"
    assert len(own.prompts()) == 1
    facts = own.facts()
    assert (facts["rows"], facts[EQUAL], facts[EMPTY], facts[PARTED]) == (6, 1, 3, 1)


def test_what_is_left_out_is_said_where_too_few_are_left(tmp_path):
    rows = [row(i) for i in range(30)] + [row(i, rejected=f"good {i}") for i in range(30, 60)]
    rows += [row(60, chosen=" ")]
    shares = {"train": 0.34, "validation": 0.33, "test": 0.33}
    own = of(tmp_path, *rows, split=shares)
    with pytest.raises(DataError) as refusal:
        split_prompts(own, ("train", "validation", "test"))
    assert (
        f"prompts (30 rows whose two completions are equal are left out, the first in {own.path}, "
        f"line 31; 1 row with an empty completion is left out: {own.path}, line 61); it needs at "
        "least 20. Mend that, or give more data"
    ) in str(refusal.value)
    whole = of(tmp_path, *[row(i) for i in range(30)], split=shares)
    with pytest.raises(DataError, match=r"has \d+ prompts; it needs at least 20\. Give more data"):
        split_prompts(whole, ("train", "validation", "test"))


def test_rows_named_train_that_went_to_another_split_are_said(tmp_path):
    rows = [row(i, part=("train", "validation", "test")[i % 3]) for i in range(300)]
    rows.append(row(300, part="train", rejected="good 300"))
    own = of(tmp_path, *rows, split="part")
    steer = sum(prompt.split == "steer" for prompt in own.prompts())
    assert steer > 0
    equal, moved = own.left_out("prompts")
    assert "1 row whose two completions are equal" in equal
    assert moved.startswith(f"{steer} of 100 rows named train w"), "of those that are read"


def test_a_preference_knows_its_line(tmp_path):
    own = of(tmp_path, row(0), row(1, rejected="good 1"), row(2))
    assert [pair.where for pair in everything(own)] == [f"{own.path}, line {n}" for n in (1, 3)]


@pytest.mark.parametrize(
    ("bad", "options", "sentence"),
    [
        ({"chosen": "a", "rejected": "b"}, {}, "line 2: column 'prompt' is missing, which"),
        ({"prompt": "p", "rejected": "b"}, {}, "line 2: column 'chosen' is missing"),
        ({"prompt": "p", "chosen": "a", "rejected": None}, {}, "column 'rejected' is missing"),
        (row(1, prompt=""), {}, "line 2: column 'prompt' is empty"),
        (row(1, prompt=" "), {}, "line 2: column 'prompt' is blank"),
        (row(1, prompt=3), {}, "line 2: column 'prompt' must be text, or a list of messages"),
        (row(1, chosen=3), {}, "line 2: column 'chosen' must be text, or a list of messages"),
        (row(1, chosen=[user("a")]), {}, "'chosen' must end with a message of the assistant"),
        (row(1, chosen=[]), {}, "'chosen' must end with a message of the assistant"),
        (row(1, chosen=[{"role": "bot", "content": "a"}]), {}, "system, user, assistant"),
        (row(1, prompt=[user("a"), assistant("b")]), {}, "ends with a message of the assistant"),
        (row(1, chosen_scores={"x": "high"}), {}, "'chosen_scores.x' must be a finite number"),
        (row(1, chosen_scores=0.5), {}, "'chosen_scores' must be a mapping"),
        (row(1, chosen_scores={"x": 1}), {}, "line 2: score 'x' is given for one completion only: "
         "column 'chosen_scores' has it, and 'rejected_scores' does not (its scores: none); give"),
        (row(1, rejected_scores={"x": 1}), {}, "and 'chosen_scores' does not (its scores: none)"),
        (row(1, chosen_scores={"x": 1, "y": 2}, rejected_scores={"x": 0, "yy": 1}), {},
         "score 'y' is given for one completion only: column 'chosen_scores' has it, and "
         "'rejected_scores' does not (its scores: x, yy)"),
        (row(1, chosen_scores={"x": 1}, rejected_scores={"x": None}), {}, "line 2: score 'x' is"),
        (row(1, s=1), {"scores": {"x": ["s", "t"]}}, "column 's' has it, and 't' is empty; give "
         "it for both completions, or for neither"),
        (row(1, s="", t=0), {"scores": {"x": ["s", "t"]}}, "column 't' has it, and 's' is empty"),
        (row(1, s="a lot", t=1), {"scores": {"x": ["s", "t"]}}, "'s' must be a finite number"),
        (row(1, s=True, t=1), {"scores": {"x": ["s", "t"]}}, "'s' must be a finite number"),
        (row(1, s="b", t=1), {"scores": {"x": "s"}}, "chosen, rejected or tie, or 0 or 1"),
        (row(0, n=2), {"columns": {"n": "n"}}, "line 2: column 'n' is another than in"),
        ([], {}, "line 2: each line must be one JSON object"),
    ],
)  # fmt: skip
def test_a_bad_row_is_refused_by_its_line(tmp_path, bad, options, sentence):
    first = row(0, s="tie" if options.get("scores") == {"x": "s"} else 1, t=1, n=1)
    own = of(tmp_path, first, bad, **options)
    for look in (own.prompts, own.facts, lambda: own.pairs(0)):
        with pytest.raises(DataError, match=re.escape(sentence)):
            look()


@pytest.mark.parametrize(
    ("rows", "options", "sentence"),
    [
        ([row()], {"group": "goup"}, "there is no column 'goup'"),
        ([row()], {"unit": "u"}, "there is no column 'u'"),
        ([row()], {"prompt": "promt"}, "there is no column 'promt'; did you mean 'prompt'"),
        ([row()], {"rejected": "worse"}, "there is no column 'worse'"),
        ([row()], {"scores": {"x": ["a", "b"]}}, "there is no column 'a'"),
        ([{"chosen": "a", "rejected": "b"}], {}, "line 1: there is no column of the prompt"),
        (
            [row(chosen="x", rejected="x")],
            {},
            "no row has a preference to learn from: 1 row whose two completions are equal is left",
        ),
        ([], {}, "it has no rows; a row is a preference"),
    ],
)
def test_a_bad_file(tmp_path, rows, options, sentence):
    with pytest.raises(DataError, match=re.escape(sentence)):
        of(tmp_path, *rows, **options).pairs(0)


def test_options_that_do_not_go_together(tmp_path):
    with pytest.raises(OptionError, match="nothing says which is better"):
        of(tmp_path, row(), completions=["chosen", "rejected"])
    with pytest.raises(OptionError, match="'chosen' is better already"):
        of(tmp_path, row(), better="chosen")
    with pytest.raises(OptionError, match="completions"):
        of(tmp_path, row(), completions=["chosen"], better="chosen")


# --- the recipes of the documentation ----------------------------------------------------------

GUIDE = Path(__file__).parents[3] / "docs" / "study.md"


def recipes() -> dict[str, dict[str, Any]]:
    """Return the pieces of studies in the guide's section on files, by the name of the file."""
    _, _, text = GUIDE.read_text(encoding="utf-8").partition("\n## Files of preferences\n")
    text, _, _ = text.partition("\n## ")
    pieces = [yaml.safe_load(t) for t in re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S)]
    return {piece["task"]["preferences"]["path"]: piece for piece in pieces}


def read_by(recipe: dict[str, Any], tmp_path: Path, rows: list[Any]) -> Preferences:
    options = {**recipe["task"]["preferences"], "path": str(write(tmp_path / "a.jsonl", rows))}
    return Preferences(**check_options(Preferences, options))


def study_of(recipe: dict[str, Any], own: Preferences) -> Study:
    """Return the recipe as a study that reads a file."""
    options = recipe["task"]["preferences"] | {"path": str(own.path)}
    whole = {"study": "recipe", **recipe, "task": {"preferences": options}}
    return load(yaml.safe_dump(whole), "recipe.yaml", plugins.load())


def talk(i: int, form: str) -> dict[str, Any]:
    """Return an invented row of hh-rlhf's shape: two turns, and two answers to the last one."""
    asked, told, again = f"Is {i} even?", "What do you think?", f"I think so, as {i} is a number."
    text = f"Human: {asked}\n\nAssistant: {told}\n\nHuman: {again}"
    before = [user(asked), assistant(told), user(again)]
    answers = {"chosen": f"Divide {i} by 2, and see.", "rejected": f"Yes, {i} is."}
    if form == "transcript":
        return {"id": f"talk-{i}", "prompt": text, "n_turns": 2, **answers}
    if form == "whole transcripts":
        return {side: f"\n\n{text}\n\nAssistant: {said}" for side, said in answers.items()}
    messages = {side: [assistant(said)] for side, said in answers.items()}
    if form == "messages":
        return {"prompt": before, **messages}
    return {side: [*before, *said] for side, said in messages.items()}


@pytest.mark.parametrize("form", ["transcript", "whole transcripts", "messages", "whole lists"])
def test_conversations_need_no_option(tmp_path, form):
    recipe = recipes()["helpful.jsonl.gz"]
    own = read_by(recipe, tmp_path, [talk(i, form) for i in range(600)])
    study = study_of(recipe, own)
    dealt = split_prompts(own, needed_splits(study))
    assert sum(map(len, dealt.values())) == 600
    check_preferences(study, dealt)
    pair = own.pairs(0)[0]
    assert [m["role"] for m in pair.prompt.messages] == ["user", "assistant", "user"]
    assert pair.prompt.text.startswith("Human: Is ")
    assert pair.prompt.text.endswith(" is a number.\n\nAssistant:")
    assert (pair.chosen[:6], pair.rejected[:4]) == ("Divide", "Yes,")


def test_a_few_hundred_rows_need_larger_shares(tmp_path):
    rows = [talk(i, "transcript") for i in range(290)]
    plain, shared = recipes()["helpful.jsonl.gz"], recipes()["harmless.jsonl.gz"]
    own = read_by(plain, tmp_path, rows)
    with pytest.raises(DataError, match=r"the validation split has \d+ prompts; .* a larger share"):
        split_prompts(own, needed_splits(study_of(plain, own)))
    own = read_by(shared, tmp_path, rows)
    study = study_of(shared, own)
    check_preferences(study, split_prompts(own, needed_splits(study)))


def judged(i: int) -> dict[str, Any]:
    """Return an invented row of ASSET's shape: two simplifications, and three judgements."""
    said = {name: ("a", "b", "tie")[(i // 3**n) % 3] for n, name in enumerate(ASPECTS)}
    text = f"The vessel, number {i // 2}, which was sizeable, sank."
    return {
        "id": i,
        "source": text,
        "a": f"The big ship sank. It was {i}.",
        "b": f"{i} sank.",
        **said,
    }


def test_texts_side_by_side_are_judged_on_several_counts(tmp_path):
    recipe = recipes()["comparisons.jsonl.gz"]
    rows = [judged(i) for i in range(540)]
    own = read_by(recipe, tmp_path, rows)
    study = study_of(recipe, own)
    check_preferences(study, split_prompts(own, needed_splits(study)))
    assert own.facts()[UNDECIDED] == 20  # ties only
    found = everything(own)
    assert len(found) == 520
    for pair in found:
        texts = (pair.chosen, pair.rejected)
        row = next(row for row in rows if {row["a"], row["b"]} == {*texts})
        first = pair.chosen == row["a"]
        for name in ASPECTS:
            of_a, of_b = {"a": (1.0, 0.0), "b": (0.0, 1.0), "tie": (0.5, 0.5)}[row[name]]
            given = (pair.chosen_scores[name], pair.rejected_scores[name])
            assert given == ((of_a, of_b) if first else (of_b, of_a))


def test_a_list_of_answers_is_no_preference(tmp_path):
    row = {"question": "Why?", "predictions": ["a", "b"], "pair_order": ["1v2"], "pair_pref": [1]}
    with pytest.raises(DataError, match="there is no column 'chosen'; allowed: pair_order, pair"):
        of(tmp_path, row).pairs(0)


# --- a search ----------------------------------------------------------------------------------

STUDY = """\
study: people
task:
  preferences:
    path: {path}
    split: {{train: 0.6, steer: 0.1, validation: 0.15, test: 0.15}}
policy: small
objectives:
  north: {{reward: {{preferred: {{group: north}}}}}}
  south: {{reward: {{preferred: {{group: south}}}}}}
rollout: {{eager: {{max_tokens: 6}}}}
training: {{optimizer: dpo, steps: 2, prompts: 8, learning_rate: 0.01}}
weighting: {{group-robust: {{losses: optimizer, rate: 0.1}}}}
evaluation: {{prompts: 80}}
search: {{strategy: random, trials: 1, space: {{weighting.preference: simplex}}}}
executor: local
trackers: []
"""


@pytest.mark.e2e
def test_a_search_for_groups_of_people_alone_ends_with_an_export(tmp_path):
    words = ["".join(word) for word in itertools.product(letters.LETTERS, repeat=3)]
    rows = [
        {"prompt": word, "chosen": "aa", "rejected": "bb", "group": ("north", "south")[i % 2]}
        for i, word in enumerate(words)
    ]
    path, runs = write(tmp_path / "a.jsonl", rows), tmp_path / "runs"
    (tmp_path / "study.yaml").write_text(STUDY.format(path=path))
    arguments = ["pareto", tmp_path / "study.yaml", "--plugin", letters.FILE, "--out", runs]
    done = CliRunner().invoke(command_line(), [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    (card,) = (runs / "people" / "front").glob("*/README.md")  # though nothing was ever sampled
    assert f"<bos>{words[0]}<sep>" in card.read_text()
