"""Every row of the data, the splits, the tokenizer, and what a person types."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest
import torch
from tokenizers import Tokenizer

from moalign.errors import DataError
from moalign.types import SPLITS, Batch
from moalign_plugins.rewards.brevity import Brevity
from moalign_plugins.rewards.preferred import Preferred
from moalign_plugins.rewards.slot_coverage import SlotCoverage
from moalign_plugins.tasks import restaurants
from moalign_plugins.tasks.restaurants import Restaurants


@pytest.fixture(scope="module")
def task() -> Restaurants:
    return Restaurants()


@pytest.fixture(scope="module")
def tokenizer(task) -> Tokenizer:
    return task.tokenizer()


def test_the_file_holds_what_it_should(task):
    facts = task.facts()
    assert facts["rows"] == 7786
    assert facts["rows without slots"] == 1255
    assert facts["rows where only the template serves"] == 118
    assert facts["rows where only the human text serves"] == 13
    assert facts["rows where neither serves"] == 2
    assert [facts[f"acts in {split}"] for split in SPLITS] == [226, 42, 39, 79]
    assert [facts[f"rows in {split}"] for split in SPLITS] == [5352, 935, 581, 918]
    assert [facts[f"prompts in {split}"] for split in SPLITS] == [1657, 352, 275, 606]
    assert sum(facts[f"rows in {split}"] for split in SPLITS) == facts["rows"]


def test_splits_share_no_act_and_no_prompt_text(task):
    for key in ("unit", "text"):
        splits = defaultdict(set)
        for prompt in task.prompts():
            splits[getattr(prompt, key)].add(prompt.split)
        assert {len(found) for found in splits.values()} == {1}
    assert len({prompt.unit for prompt in task.prompts()}) == 386


def test_an_act_gives_at_most_twenty_prompts(task):
    counts = defaultdict(int)
    for prompt in task.prompts():
        counts[prompt.unit] += 1
    assert max(counts.values()) == 20


def test_prompts_are_the_same_at_every_call(task):
    assert list(Restaurants().prompts()) == list(task.prompts())


def test_values_return_into_every_human_text(task):
    restored = 0
    for row in task._rows:
        if row.human is not None:
            assert task.surface(row.prompt, row.human) == row.prompt.fields["reference"], row.id
            assert set(row.prompt.fields["placeholders"]) <= set(row.human.split())
            restored += 1
    assert restored == 7786 - 118 - 2


def test_values_return_into_templates_up_to_shortened_addresses(task):
    for row in task._rows:
        if row.template is not None:
            back = task.surface(row.prompt, row.template)
            given = row.prompt.fields["template"]
            assert restaurants._shortened(back) == restaurants._shortened(given), row.id


def test_no_value_is_left_in_a_demonstration(task):
    rows = {row.prompt.text: row for row in task._rows}
    for shown in task.demonstrations(0):
        wanted = rows[shown.prompt].prompt.fields["placeholders"]
        assert set(wanted) <= set(shown.completion.split())
        assert not re.search(r"\d{5}", shown.completion)  # no telephone number, no postcode


def test_references_cover_their_slots(task):
    means = {}
    for kind in ("human", "template"):
        rows = [row for row in task._rows if row.prompt.fields["placeholders"]]
        rows = [row for row in rows if getattr(row, kind) is not None]
        texts = [getattr(row, kind) for row in rows]
        scores = SlotCoverage().score(batch_of([row.prompt for row in rows], texts))
        means[kind] = sum(scores) / len(scores)
    assert means["human"] == pytest.approx(0.9990, abs=1e-4)
    assert means["template"] == pytest.approx(0.9997, abs=1e-4)


def batch_of(prompts, texts) -> Batch:
    ones = torch.ones(len(texts), 1)
    return Batch(
        prompts_P=prompts,
        group=1,
        prompt_ids_P=[[0]] * len(texts),
        texts_B=texts,
        raw_texts_B=texts,
        ids_BT=ones.long(),
        mask_BT=ones,
        finished_B=ones[:, 0].bool(),
    )


def test_demonstrations_are_half_human_and_from_train_only(task):
    shown = task.demonstrations(0)
    units = {row.prompt.text: row.prompt.unit for row in task._rows}
    train = {prompt.unit for prompt in task.prompts() if prompt.split == "train"}
    assert {units[example.prompt] for example in shown} == train
    pairs = {(row.prompt.text, row.human) for row in task._rows} - {
        (row.prompt.text, row.template) for row in task._rows
    }
    human = sum((example.prompt, example.completion) in pairs for example in shown)
    assert 0.45 < human / len(shown) < 0.51
    assert task.demonstrations(0) == shown
    assert task.demonstrations(1) != shown


def test_people_are_preferred_to_templates(task):
    rows = {row.id: row for row in task._rows}
    pairs = task.pairs(0)
    assert len(pairs) == task.facts()["preferences"] > 1000
    for pair in pairs:
        row = rows[pair.prompt.id]
        assert pair.prompt.split == "train"
        assert (pair.chosen, pair.rejected) == (row.human, row.template)
        assert pair.chosen != pair.rejected
        placeholders = pair.prompt.fields["placeholders"]
        assert all(mark in pair.rejected.split() for mark in placeholders)
    counts = defaultdict(int)
    for pair in pairs:
        counts[pair.prompt.unit] += 1
    assert max(counts.values()) == 20
    assert task.pairs(0) == pairs
    assert task.pairs(1) != pairs
    assert sum(len(p.chosen) for p in pairs) < sum(len(p.rejected) for p in pairs)
    equal = [r for r in task._rows if r.prompt.split == "train" and r.human == r.template]
    assert task.facts()["train rows where both texts are equal"] == len(equal)


def test_omissions_say_one_value_less_in_a_persons_words(task):
    plain, mixed = task.pairs(0), Restaurants(preferences="omissions").pairs(0)
    assert [(p.prompt, p.chosen) for p in mixed] == [(p.prompt, p.chosen) for p in plain]
    marks = re.compile("<[a-z0-9]+>")
    human = {row.human for row in task._rows if row.prompt.split == "train"}
    changed = [p for p, q in zip(mixed, plain, strict=True) if p.rejected != q.rejected]
    assert 0.15 < len(changed) / len(plain) < 0.5
    for pair in changed:
        missing = set(pair.prompt.fields["placeholders"]) - set(marks.findall(pair.rejected))
        assert len(missing) == 1
        assert pair.rejected in human
    for split in ("validation", "test"):
        pairs = Restaurants(preferences="omissions").pairs(0, split)
        assert {pair.prompt.split for pair in pairs} == {split}
        assert pairs != task.pairs(0, split)


def margins(task, pairs) -> dict[str, torch.Tensor]:
    """Return how much better each objective finds the chosen text, by name."""
    texts = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
    batch = Batch(
        prompts_P=[pair.prompt for pair in pairs],
        group=2,
        prompt_ids_P=[[0]] * len(pairs),
        texts_B=[
            task.surface(pair.prompt, text)
            for pair in pairs
            for text in (pair.chosen, pair.rejected)
        ],
        raw_texts_B=texts,
        ids_BT=torch.zeros(len(texts), 1, dtype=torch.long),
        mask_BT=torch.ones(len(texts), 1),
        finished_B=torch.ones(len(texts), dtype=torch.bool),
        pairs_P=pairs,
    )
    rewards = {"people": Preferred(), "coverage": SlotCoverage(), "brevity": Brevity(limit=30)}
    scores = {name: torch.tensor(r.score(batch)).view(-1, 2) for name, r in rewards.items()}
    return {name: found[:, 0] - found[:, 1] for name, found in scores.items()}


def shares(margins: torch.Tensor) -> tuple[float, float, float]:
    """Return the shares of margins above 0, below 0 and missing."""
    return tuple(float(x.float().mean()) for x in (margins > 0, margins < 0, margins.isnan()))


def test_every_objective_prefers_something(task):
    """With omissions; the texts alone have next to no margin of coverage, as documented."""
    pairs = Restaurants(preferences="omissions").pairs(0)
    found = margins(task, pairs)
    assert shares(found["people"]) == (1.0, 0.0, 0.0)
    more, less, nothing = shares(found["coverage"])
    assert more > 0.15
    assert less < 0.005
    without = [not pair.prompt.fields["placeholders"] for pair in pairs]
    assert found["coverage"].isnan().tolist() == without
    assert 0.15 < nothing < 0.2
    more, less, nothing = shares(found["brevity"])
    assert (more > 0.5, less > 0.2, nothing) == (True, True, 0.0)

    left_out = found["coverage"] > 0  # what people chose says more there, and is rarely shorter
    assert shares(found["brevity"][left_out])[1] > 2 * shares(found["brevity"][left_out])[0]
    assert shares(margins(task, task.pairs(0))["coverage"])[0] == 0.0


def test_every_prompt_and_train_text_has_its_words(task, tokenizer):
    unknown = tokenizer.token_to_id("<unk>")
    for row in task._rows:
        assert unknown not in tokenizer.encode(row.prompt.text).ids, row.id
        if row.prompt.split == "train":
            for text in row.completions:
                assert unknown not in tokenizer.encode(text, add_special_tokens=False).ids, row.id


def test_few_words_of_other_splits_are_unknown(task, tokenizer):
    unknown = tokenizer.token_to_id("<unk>")
    for split in SPLITS[1:]:
        texts = [t for row in task._rows if row.prompt.split == split for t in row.completions]
        ids = [i for text in texts for i in tokenizer.encode(text, add_special_tokens=False).ids]
        assert 0 < ids.count(unknown) / len(ids) < 0.02


def test_tokenizer_marks_prompts_and_gives_texts_back(tokenizer):
    assert tokenizer.get_vocab_size() == 575
    assert [tokenizer.id_to_token(i) for i in range(5)] == list(restaurants.SPECIAL)
    assert tokenizer.encode("restaurant inform <name> <near>").tokens == [
        "<bos>",
        "restaurant",
        "inform",
        "<name>",
        "<near>",
        "<sep>",
    ]
    text = "<name> is a nice restaurant , it is near <near>"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_tokenizer_survives_transformers(tokenizer, tmp_path):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    fast.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "<name> is nice , it does not accept credit card -s . goodbye"
    ids = loaded(text, add_special_tokens=False).input_ids
    assert loaded.decode([*ids, loaded.eos_token_id], skip_special_tokens=True) == text


@pytest.mark.parametrize(
    ("row", "text", "unit", "values"),
    [
        (
            "inform(name='red door cafe';near='cathedral hill')",
            "restaurant inform <name> <near>",
            "restaurant inform <name> <near>",
            {"<name>": "red door cafe", "<near>": "cathedral hill"},
        ),
        (
            "hotel inform(name=Abri;dogsallowed=no;area='noma or japantown')",
            "hotel inform <area> <area2> dogsallowed no <name>",
            "hotel inform <area> dogsallowed no <name>",
            {"<area>": "noma", "<area2>": "japantown", "<name>": "abri"},
        ),
        (
            "?select(kidsallowed='yes';kidsallowed='no')",
            "restaurant ?select kidsallowed no kidsallowed yes",
            "restaurant ?select kidsallowed no kidsallowed yes",
            {},
        ),
        ("hotel ?request(near)", "hotel ?request near", "hotel ?request near", {}),
        (" goodbye( ) ", "restaurant goodbye", "restaurant goodbye", {}),
    ],
)
def test_reads_what_a_person_types(task, row, text, unit, values):
    prompt = task.parse(row)
    assert (prompt.id, prompt.text, prompt.unit, prompt.split) == ("typed", text, unit, None)
    assert prompt.fields["values"] == values
    assert prompt.fields["placeholders"] == list(values)


def test_reads_every_act_of_the_data(task):
    for row in task._rows:
        slots = ";".join(f"{slot}='{value}'" if value else slot for slot, value in row.slots)
        typed = task.parse(f"{row.domain} {row.act}({slots})")
        assert typed.text == row.prompt.text
        assert typed.fields["values"] == row.prompt.fields["values"]


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("a cheap place", "cannot read 'a cheap place' as a dialogue act; type it as in inform("),
        ("infrm(name=x)", "there is no act type 'infrm'; did you mean 'inform'? Allowed: ?confirm"),
        ("pub inform(name=x)", "there is no domain 'pub'; allowed: hotel, restaurant. Type an"),
        ("inform(nam=x)", "there is no slot 'nam'; did you mean 'name'?"),
        (
            "inform(dogsallowed=maybe)",
            "it asks for '<dogsallowed>', which no act of the data has; slot 'dogsallowed' occurs "
            "as dogsallowed dont_care, dogsallowed no, dogsallowed none, dogsallowed yes",
        ),
        ("inform(area=a or b or c)", "it asks for '<area3>', which no act of the data has"),
        ("inform(name)", "it asks for 'name', which no act of the data has"),
    ],
)
def test_what_cannot_be_read_is_answered_with_an_example(task, typed, sentence):
    with pytest.raises(DataError, match=re.escape(sentence)) as raised:
        task.parse(typed)
    assert str(raised.value).endswith(restaurants.EXAMPLE)


def test_the_example_of_the_errors_can_be_read(task):
    assert task.parse(restaurants.EXAMPLE).text == "restaurant inform <area> kidsallowed no <name>"


def test_invented_placeholders_stay_visible(task):
    prompt = task.parse("inform(name='red door cafe')")
    assert task.surface(prompt, "<name> is in <area>") == "red door cafe is in <area>"


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        (
            "the mission inn is in mission",
            {"<area>": "mission", "<name>": "the mission inn"},
            "<name> is in <area>",
        ),
        ("in noma near noma", {"<area>": "noma", "<near>": "noma"}, "in <area> near <near>"),
        ("in noma near it", {"<area>": "noma", "<near>": "noma"}, None),
        ("2 inns at 22 2nd street", {"<count>": "2"}, "<count> inns at 22 2nd street"),
        ("nomad", {"<area>": "noma"}, None),
        ("goodbye", {}, "goodbye"),
    ],
)
def test_values_are_found_as_whole_words_longest_first(text, values, expected):
    assert restaurants._delexicalise(text, values) == expected


def test_a_missing_file_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(restaurants, "FILE", tmp_path / "gone.jsonl.gz")
    with pytest.raises(DataError, match=r"gone\.jsonl\.gz: cannot be read .*install moalign again"):
        Restaurants().prompts()
