"""Problems, their splits, the three styles, and tokens that know their place."""

from __future__ import annotations

import json
import random
import re
from collections import Counter

import pytest
import torch
from tokenizers import Tokenizer

from moalign.errors import DataError
from moalign.types import SPLITS, Batch
from moalign_plugins.rewards.brevity import Brevity
from moalign_plugins.rewards.exact_answer import ExactAnswer
from moalign_plugins.rewards.steps_shown import StepsShown
from moalign_plugins.tasks import arithmetic
from moalign_plugins.tasks.arithmetic import Arithmetic

STYLES = {
    "terse": r"[0-9]+",
    "steps": r"([0-9]+\+[0-9]+=[0-9]+;)*[0-9]+\+[0-9]+=[0-9]+\.[0-9]+",
    "prose": r"(step [0-9]: [0-9]+\+[0-9]+=[0-9]+; )+so the answer is [0-9]+",
}


def style(text):
    return next(name for name, pattern in STYLES.items() if re.fullmatch(pattern, text))


def batch(prompts, texts):
    rows = len(texts)
    return Batch(
        prompts_P=prompts,
        group=rows // len(prompts),
        prompt_ids_P=[[0]] * len(prompts),
        texts_B=texts,
        raw_texts_B=texts,
        ids_BT=torch.zeros(rows, 1, dtype=torch.long),
        mask_BT=torch.ones(rows, 1),
        finished_B=torch.ones(rows, dtype=torch.bool),
    )


@pytest.fixture(scope="module")
def task() -> Arithmetic:
    return Arithmetic()


@pytest.fixture(scope="module")
def demonstrations(task):
    return task.demonstrations(0)


@pytest.fixture(scope="module")
def tokenizer(task) -> Tokenizer:
    return task.tokenizer()


def operands(text):
    return [int(number) for number in text.split("+")]


# --- problems ------------------------------------------------------------------------------------


def test_every_split_has_its_prompts_a_third_of_each_length(task):
    counts = Counter((p.split, len(p.fields["operands"])) for p in task.prompts())
    for split in SPLITS:
        each = 1000 if split == "train" else 100
        assert [counts[split, length] for length in (2, 3, 4)] == [each] * 3
    assert sum(counts.values()) == 3900
    assert len({p.id for p in task.prompts()}) == 3900
    assert task.facts() == {f"prompts in {s}": 3000 if s == "train" else 300 for s in SPLITS}


def test_lengths_alternate_so_that_the_first_prompts_are_a_fair_sample(task):
    test = [p for p in task.prompts() if p.split == "test"]
    assert [len(p.fields["operands"]) for p in test[:256]] == [2 + i % 3 for i in range(256)]


def test_no_problem_is_asked_twice_not_even_reordered():
    prompts = Arithmetic(train=6000, held_out=900).prompts()
    assert len({tuple(sorted(p.fields["operands"])) for p in prompts}) == len(prompts) == 8700


def test_prompts_say_what_their_fields_hold(task):
    for prompt in task.prompts():
        numbers = operands(prompt.text)
        assert prompt.fields == {"operands": numbers, "answer": sum(numbers)}
        assert all(1 <= number <= 99 for number in numbers)
        assert json.loads(json.dumps(prompt.fields)) == prompt.fields


def test_prompts_are_the_same_at_every_call_and_touch_no_global_state(task):
    random.seed(1)
    state = random.getstate()
    assert Arithmetic().prompts() == task.prompts()
    Arithmetic(demonstrations=9).demonstrations(3)
    assert random.getstate() == state


# --- demonstrations ------------------------------------------------------------------------------


def test_demonstrations_depend_on_the_seed_alone(task, demonstrations):
    few = Arithmetic(demonstrations=70)
    assert few.demonstrations(0) == demonstrations[:70]
    assert few.demonstrations(1) != demonstrations[:70]
    assert len(demonstrations) == 30_000


def test_demonstrations_show_no_held_out_problem(demonstrations):
    held_out = {
        tuple(sorted(p.fields["operands"]))
        for p in Arithmetic(held_out=900).prompts()
        if p.split != "train"
    }
    assert len(held_out) == 2700
    assert not held_out & {tuple(sorted(operands(d.prompt))) for d in demonstrations}


def test_styles_and_lengths_are_mixed_evenly(demonstrations):
    counts = Counter((style(d.completion), len(operands(d.prompt))) for d in demonstrations)
    assert len(counts) == 9
    assert all(abs(count / 30_000 - 1 / 9) < 0.01 for count in counts.values())


def test_every_demonstration_is_right_and_only_prose_shows_its_steps(task, demonstrations):
    some = demonstrations[:3000]
    texts = [d.completion for d in some]
    scored = batch([task.parse(d.prompt) for d in some], texts)
    assert set(ExactAnswer().score(scored)) == {1.0}
    assert StepsShown().score(scored) == [float(style(d.completion) == "prose") for d in some]


def test_the_three_styles_as_documented():
    numbers = [17, 48, 25]
    assert arithmetic._terse(numbers) == "90"
    assert arithmetic._steps(numbers) == "17+48=65;65+25=90.90"
    assert arithmetic._prose(numbers) == "step 1: 17+48=65; step 2: 65+25=90; so the answer is 90"


# --- tokenizer -----------------------------------------------------------------------------------


def test_each_place_has_tokens_of_its_own(tokenizer):
    hundreds, tens, units = tokenizer.encode("111").ids
    assert len({hundreds, tens, units}) == 3
    assert tokenizer.encode("1").ids == [units]
    assert tokenizer.encode("91").ids[1:] == [units]
    assert tokenizer.encode("10+1").ids[0] == tens
    assert tokenizer.encode("1234").ids[1:] == tokenizer.encode("234").ids
    assert tokenizer.encode("1234").ids[0] == hundreds


def test_text_comes_back_for_every_number_and_demonstration(tokenizer, demonstrations):
    texts = [str(number) for number in range(1, 397)]
    texts += ["0", "007", "1000", "1234567890", "17+48+25"]
    texts += [text for d in demonstrations[:6000] for text in (d.prompt, d.completion)]
    unknown = tokenizer.token_to_id("<unk>")
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    assert not any(unknown in row for row in ids)
    assert tokenizer.decode_batch(ids) == texts


def test_every_number_has_as_many_tokens_as_digits(tokenizer):
    assert all(len(tokenizer.encode(str(n)).ids) == len(str(n)) for n in range(1, 397))


def test_any_tokens_decode_to_plain_text(tokenizer):
    rng = random.Random(0)
    size = tokenizer.get_vocab_size()
    for _ in range(300):
        text = tokenizer.decode([rng.randrange(size) for _ in range(20)])
        assert text.isascii()
        assert "<" not in text


def test_the_tokenizer_is_all_in_its_json(tokenizer, demonstrations):
    again = Tokenizer.from_str(tokenizer.to_str())
    for d in demonstrations[:300]:
        assert again.encode(d.completion).ids == tokenizer.encode(d.completion).ids
        assert again.decode(again.encode(d.completion).ids) == d.completion


def test_what_it_cannot_say_is_marked_unknown(tokenizer):
    assert tokenizer.encode("1-1").tokens == ["1", "<unk>", "1"]


# --- preferences ---------------------------------------------------------------------------------


def test_two_numbers_are_preferred_terse_and_more_of_them_in_steps(task):
    pairs = task.pairs(0)
    train = [p for p in task.prompts() if p.split == "train"]
    assert [pair.prompt for pair in pairs] == train
    for pair in pairs:
        short = len(pair.prompt.fields["operands"]) == 2
        assert style(pair.chosen) == ("terse" if short else "prose")
        assert re.findall("[0-9]+", pair.chosen)[-1] == str(pair.prompt.fields["answer"])


def test_what_is_rejected_is_in_the_other_style_or_wrong(task):
    pairs = task.pairs(0)
    wrong = [p for p in pairs if style(p.rejected) == style(p.chosen)]
    other = [p for p in pairs if style(p.rejected) != style(p.chosen)]
    assert len(wrong) / len(pairs) == pytest.approx(0.5, abs=0.03)
    for pair in wrong:
        number = int(re.findall("[0-9]+", pair.rejected)[-1])
        assert number > 0
        assert 1 <= abs(number - pair.prompt.fields["answer"]) <= 9
        assert pair.rejected.startswith(re.sub("[0-9]+$", "", pair.chosen))
    for pair in other:
        assert style(pair.rejected) in {"terse", "prose"}
        assert re.findall("[0-9]+", pair.rejected)[-1] == str(pair.prompt.fields["answer"])


def test_preferences_depend_on_the_seed_alone(task):
    assert task.pairs(0) == Arithmetic().pairs(0)
    assert task.pairs(0) != task.pairs(1)


def kind(text, prompt):
    """Return the place of a completion's style, and whether it is right."""
    right = re.findall("[0-9]+", text)[-1] == str(prompt.fields["answer"])
    return list(STYLES).index(style(text)), right


def careful(kind, numbers):
    place, right = kind
    return right, -place if numbers == 2 else place


def hurried(kind, numbers):
    place, right = kind
    return -place, right


def test_mixed_preferences_compare_all_styles_right_and_wrong(task):
    mixed = Arithmetic(preferences="mixed")
    pairs = mixed.pairs(0)
    assert [p.prompt for p in pairs] == [p for p in task.prompts() if p.split == "train"]
    assert mixed.pairs(0) == pairs != mixed.pairs(1)
    seen = Counter()
    for pair in pairs:
        chosen, rejected = kind(pair.chosen, pair.prompt), kind(pair.rejected, pair.prompt)
        numbers = len(pair.prompt.fields["operands"])
        assert careful(chosen, numbers) > careful(rejected, numbers)
        seen[frozenset((chosen, rejected))] += 1
        assert pair.group == ""
    assert len(seen) == 15
    assert min(seen.values()) > 0.7 * len(pairs) / 15


@pytest.mark.parametrize("preferences", ["styles", "mixed"])
def test_every_objective_prefers_something(preferences):
    task = Arithmetic(preferences=preferences)
    rewards = (ExactAnswer(), Brevity(limit=80, unit="characters"), StepsShown())
    liked = [Counter() for _ in rewards]  # the sign of chosen minus rejected
    for pair in task.pairs(0)[:600]:
        texts = [pair.chosen, pair.rejected]
        for counts, reward in zip(liked, rewards, strict=True):
            chosen, rejected = reward.score(batch([pair.prompt], texts))
            counts[(chosen > rejected) - (chosen < rejected)] += 1
    for counts in liked:
        assert counts[1] + counts[-1] > 0.25 * 600, liked
    if preferences == "mixed":  # each is now for, now against what is chosen as a whole
        assert liked[1][-1] > 100, liked
        assert liked[2][-1] > 20, liked


def test_groups_have_tastes_of_their_own_that_conflict_on_some_pairs(task):
    groups = Arithmetic(preferences="groups")
    pairs = groups.pairs(0)
    assert [p.prompt for p in pairs] == [p for p in task.prompts() if p.split == "train"]
    counts = Counter(pair.group for pair in pairs)
    assert counts["careful"] / len(pairs) == pytest.approx(0.2, abs=0.02)
    conflicts = 0
    for pair in pairs:
        chosen, rejected = kind(pair.chosen, pair.prompt), kind(pair.rejected, pair.prompt)
        numbers = len(pair.prompt.fields["operands"])
        own, other = (careful, hurried) if pair.group == "careful" else (hurried, careful)
        assert own(chosen, numbers) > own(rejected, numbers)
        conflicts += other(chosen, numbers) < other(rejected, numbers)
    assert conflicts / len(pairs) == pytest.approx(7 / 15, abs=0.03)

    held_out = groups.pairs(0, "test")
    for one, other in zip(held_out[::2], held_out[1::2], strict=True):
        assert (one.prompt, {one.group, other.group}) == (other.prompt, {"hurried", "careful"})
        assert {one.chosen, one.rejected} == {other.chosen, other.rejected}


# --- typed prompts -------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["17+48+25", " 17 + 48+ 25\n", "017+48+25"])
def test_reads_what_a_person_types(task, text):
    prompt = task.parse(text)
    assert prompt.text == "17+48+25"
    assert prompt.fields == {"operands": [17, 48, 25], "answer": 90}
    assert prompt.split is None


@pytest.mark.parametrize(
    "text",
    ["", "17", "17-4", "1+2+3+4+5", "0+4", "100+1", "17+", "1.5+2", "one+two", "²+3", "9" * 50],
)
def test_refuses_what_is_no_such_sum(task, text):
    sentence = (
        f"cannot read {text!r} as a sum; give 2 to 4 whole numbers from 1 to 99 joined by +, "
        "for example 17+48+25"
    )
    with pytest.raises(DataError, match=re.escape(sentence)):
        task.parse(text)
