"""Say in words what a dialogue system wants to tell about restaurants and hotels."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from moalign.components import Task
from moalign.errors import DataError, nearest
from moalign.types import SPLITS, Demonstration, Pair, Prompt, Split

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE: Final = Path(__file__).parent / "data" / "restaurants.jsonl.gz"
KEPT: Final = frozenset({"yes", "no", "dont_care", "none", ""})  # values that stay; "" is no value
SHARES: Final[Mapping[Split, float]] = {"train": 0.6, "steer": 0.1, "validation": 0.1, "test": 0.2}
ROWS_PER_ACT: Final = 20
SPECIAL: Final = ("<pad>", "<bos>", "<sep>", "<eos>", "<unk>")
EXAMPLE: Final = "inform(name='blue door';area=soma;kidsallowed=no)"


class Restaurants(Task):
    """Dialogue acts about restaurants and hotels, to be said in words; people wrote the references.

    An act such as ``inform(name='red door cafe';near='cathedral hill')`` becomes the prompt
    ``restaurant inform <name> <near>``; the policy writes ``<name> is near <near>``; people and
    text rewards read ``red door cafe is near cathedral hill``.

    **Placeholders.** Values are delexicalised, as is standard for this data: the policy reads and
    writes ``<area>``. The second value of a slot is ``<area2>``; ``a or b`` counts as two values.
    ``yes``, ``no``, ``dont_care`` and ``none`` stay as words behind their slot (``kidsallowed
    no``), and so do slots without a value (``restaurant ?request near``); neither is a placeholder.

    **Splits, and the unit of the bootstrap.** An act is the domain, the act type and the sorted
    set of slots with kept values. The 7,786 rows hold 386 of them. A hash of the act puts 60, 10,
    10 and 20 % of them into train, steer, validation and test, so test prompts are combinations
    of slots that training never saw. Every prompt is a row with its own values, at most 20 per
    act, chosen by a hash; its ``unit`` is the act, so every act counts alike, however many rows.

    **Demonstrations.** The human text and the rule-made template of train rows, at most 20 rows per
    act, which the seed chooses: half and half. Human texts are short and natural; templates are
    complete, long and stiff. A row whose values are not all verbatim in its human text gives the
    template only (where addresses may be shortened to ``st`` and ``ave``).

    **Preferences.** ``preferences: texts``: the human text over the template of the same row, where
    both serve and differ, at most 20 per act, which the seed chooses. People's texts are natural
    and mostly shorter. Both say every value, so slot coverage has next to nothing to prefer.
    ``preferences: omissions`` adds simulated ones: a person's text over another person's that says
    one value less, taken from an act that is the same but for it; so coverage and brevity pull
    apart. Half of the preferences of an act at most.

    **Fields.** ``placeholders`` (list), ``values`` (placeholder to value), ``reference`` (the human
    text) and ``template``, both with values, and ``act``. Typed prompts have no references.

    **Tokenizer.** A token per word of train texts and of the prompts' closed vocabulary.

    **Cost.** A 200 kB file inside the package; about 0.3 s to read and prepare.

    Source: the RNNLG data of Wen et al., EMNLP 2015, Apache-2.0; see README.md in ``data``. The
    split by act is ours; the original one shares most of its acts between its parts.

    Example::

        task: restaurants
        objectives:
          coverage: {reward: slot-coverage}
          brevity:  {reward: {brevity: {limit: 30}}}
          fluency:  {reward: fluency}
    """

    name: ClassVar[str] = "restaurants"

    def __init__(self, *, preferences: Literal["texts", "omissions"] = "texts") -> None:
        self.preferences = preferences

    def prompts(self) -> Sequence[Prompt]:
        """Return the prompts of all four splits; ids are those of the rows."""
        return [row.prompt for row in self._prompted]

    def demonstrations(self, seed: int) -> Sequence[Demonstration]:
        """Return the human text and the template of train rows; the seed chooses and shuffles."""
        rng = Random(f"restaurants demonstrations {seed}")
        rows = [row for row in self._rows if row.prompt.split == "train"]
        examples = [
            Demonstration(row.prompt.text, completion)
            for row in _capped(rng.sample(rows, len(rows)))
            for completion in row.completions
        ]
        rng.shuffle(examples)
        return examples

    def pairs(self, seed: int, split: Split = "train") -> Sequence[Pair]:
        """Return rows' human texts over other texts; the seed chooses and shuffles."""
        rng = Random(f"restaurants preferences {seed}")
        rows = [row for row in self._rows if row.prompt.split == split and row.preferred]
        pairs = [
            Pair(row.prompt, row.completions[0], row.completions[1])
            for row in _capped(rng.sample(rows, len(rows)))
        ]
        if self.preferences == "texts":
            return pairs
        return [self._omission(pair, rng) if i % 2 else pair for i, pair in enumerate(pairs)]

    def _omission(self, pair: Pair, rng: Random) -> Pair:
        """Return a preference for the same text over one that says a value less, if there is one.

        The other text is of train, or of the pair's own split.
        """
        words = pair.prompt.text.split()
        shorter = [
            row
            for mark in pair.prompt.fields["placeholders"]
            for row in self._by_text.get(" ".join(word for word in words if word != mark), ())
            if row.prompt.split in {"train", pair.prompt.split} and row.human != pair.chosen
        ]
        human = rng.choice(shorter).human if shorter else None
        return pair if human is None else replace(pair, rejected=human)

    def tokenizer(self) -> Tokenizer:
        """Return a word-level tokenizer; it writes ``<bos> PROMPT <sep>`` around a prompt."""
        from tokenizers import Tokenizer, pre_tokenizers, processors
        from tokenizers.models import WordLevel

        words: set[str] = set()
        for row in self._rows:
            words.update(row.prompt.text.split())
            if row.prompt.split == "train":
                words.update(" ".join(row.completions).split())
        ids = {word: i for i, word in enumerate([*SPECIAL, *sorted(words)])}
        tokenizer = Tokenizer(WordLevel(ids, unk_token="<unk>"))
        tokenizer.add_special_tokens(list(SPECIAL))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A <sep>",
            special_tokens=[(word, ids[word]) for word in ("<bos>", "<sep>")],
        )
        return tokenizer

    def surface(self, prompt: Prompt, text: str) -> str:
        """Return the text with the prompt's values in it; invented placeholders stay."""
        values: Mapping[str, str] = prompt.fields["values"]
        return " ".join(values.get(word, word) for word in text.split())

    def parse(self, text: str) -> Prompt:
        """Return the prompt for a typed act, about a restaurant unless it starts with ``hotel``.

        Raises:
            DataError: if it is no act, or has a type, slot or value that the data never has.
        """
        shape = re.fullmatch(r"\s*(?:(\w+)\s+)?(\??\w+)\s*\((.*)\)\s*", text.lower(), re.DOTALL)
        if shape is None:
            raise DataError(f"cannot read {text!r} as a dialogue act; type it as in {EXAMPLE}")
        domain, act, inner = shape[1] or "restaurant", shape[2], shape[3]
        pairs = [part.partition("=") for part in inner.split(";") if part.strip()]
        slots = [(slot.strip(), " ".join(value.strip(" '\"").split())) for slot, _, value in pairs]
        found = [("domain", domain), ("act type", act), *(("slot", slot) for slot, _ in slots)]
        for what, word in found:
            if word not in self._words[what]:
                raise DataError(
                    f"cannot read {text!r}: there is no {what} {word!r}; "
                    f"{nearest(word, self._words[what])}. Type an act as in {EXAMPLE}"
                )
        for form in _forms(slots)[0]:
            if form not in self._forms:
                others = sorted(other for other in self._forms if _slot(other) == _slot(form))
                raise DataError(
                    f"cannot read {text!r}: it asks for {form!r}, which no act of the data has; "
                    f"slot {_slot(form)!r} occurs as {', '.join(others)} (<...> stands for any "
                    f"value). Type an act as in {EXAMPLE}"
                )
        return _prompt(id="typed", head=f"{domain} {act}", slots=slots)

    def facts(self) -> dict[str, Any]:
        """Return rows found and skipped, and acts, rows and prompts per split."""
        human = [row.human is not None for row in self._rows]
        template = [row.template is not None for row in self._rows]
        served = Counter(zip(human, template, strict=True))
        facts: dict[str, Any] = {
            "rows": len(self._rows),
            "rows without slots": sum(not row.slots for row in self._rows),
            "rows where only the template serves": served[False, True],
            "rows where only the human text serves": served[True, False],
            "rows where neither serves": served[False, False],
        }
        for split in SPLITS:
            rows = [row for row in self._rows if row.prompt.split == split]
            prompts = [row for row in self._prompted if row.prompt.split == split]
            facts[f"acts in {split}"] = len({row.prompt.unit for row in rows})
            facts[f"rows in {split}"] = len(rows)
            facts[f"prompts in {split}"] = len(prompts)
        train = [row for row in self._rows if row.prompt.split == "train"]
        facts["preferences"] = len(_capped(row for row in train if row.preferred))
        both = [row.completions for row in train if len(row.completions) == 2]
        facts["train rows where both texts are equal"] = sum(a == b for a, b in both)
        return facts

    @cached_property
    def _rows(self) -> list[_Row]:
        try:
            lines = gzip.decompress(FILE.read_bytes()).decode().splitlines()
        except OSError as error:
            raise DataError(f"{FILE}: cannot be read ({error}); install moalign again") from error
        return [_Row(**json.loads(line)) for line in lines]

    @cached_property
    def _prompted(self) -> list[_Row]:
        return _capped(sorted(self._rows, key=lambda row: _place(row.id)))

    @cached_property
    def _by_text(self) -> dict[str, list[_Row]]:
        """Return the rows whose human text serves, by the text of their prompt."""
        rows: dict[str, list[_Row]] = {}
        for row in self._rows:
            if row.human is not None:
                rows.setdefault(row.prompt.text, []).append(row)
        return rows

    @cached_property
    def _forms(self) -> frozenset[str]:
        return frozenset(form for row in self._rows for form in _forms(row.slots)[0])

    @cached_property
    def _words(self) -> dict[str, set[str]]:
        return {
            "domain": {row.domain for row in self._rows},
            "act type": {row.act for row in self._rows},
            "slot": {_slot(form) for form in self._forms},
        }


class _Row:
    """A row of the data: its prompt, and its texts as the policy writes them.

    ``human`` and ``template`` are None where a value is not verbatim in the text.
    """

    def __init__(
        self,
        *,
        id: str,
        domain: str,
        act: str,
        slots: Sequence[Sequence[str]],
        human: str,
        template: str,
    ) -> None:
        self.id, self.domain, self.act = id, domain, act
        self.slots = [(slot, value) for slot, value in slots]
        head = f"{domain} {act}"
        self.prompt = _prompt(id=id, head=head, slots=self.slots, texts=(human, template))
        values = self.prompt.fields["values"]
        self.human = _delexicalise(human, values)
        self.template = _delexicalise(template, values) or _delexicalise(
            template, {mark: _shortened(value) for mark, value in values.items()}
        )

    @property
    def completions(self) -> list[str]:
        """The texts that can be imitated."""
        return [text for text in (self.human, self.template) if text is not None]

    @property
    def preferred(self) -> bool:
        """Whether there are two texts, so that the human one is preferred to the other."""
        return len(set(self.completions)) == 2


def _capped(rows: Iterable[_Row]) -> list[_Row]:
    """Return the first rows of every act."""
    taken: Counter[str] = Counter()
    chosen = []
    for row in rows:
        taken[row.prompt.unit] += 1
        if taken[row.prompt.unit] <= ROWS_PER_ACT:
            chosen.append(row)
    return chosen


def _forms(slots: Sequence[tuple[str, str]]) -> tuple[list[str], dict[str, str]]:
    """Return what slots are in a prompt, and the values of its placeholders.

    Sorted by slot; for example ``["<area>", "<area2>", "kidsallowed no"]``.
    """
    forms = []
    values: dict[str, str] = {}
    for slot in sorted({slot for slot, _ in slots}):
        found = [part for name, value in slots if name == slot for part in value.split(" or ")]
        named = [value for value in found if value not in KEPT]
        marks = [f"<{slot}{i if i > 1 else ''}>" for i in range(1, len(named) + 1)]
        values.update(zip(marks, named, strict=True))
        forms += marks + [f"{slot} {kept}".rstrip() for kept in sorted(KEPT.intersection(found))]
    return forms, values


def _slot(form: str) -> str:
    return form.split(maxsplit=1)[0].strip("<0123456789>")


def _prompt(
    *,
    id: str,
    head: str,
    slots: Sequence[tuple[str, str]],
    texts: tuple[str, str] | None = None,
) -> Prompt:
    forms, values = _forms(slots)
    act = " ".join([head, *(form for form in forms if not re.search(r"[0-9]>$", form))])
    fields = {"act": act, "placeholders": list(values), "values": values}
    split = None
    if texts is not None:
        fields |= {"reference": texts[0], "template": texts[1]}
        split = _split(act)
    return Prompt(id=id, text=" ".join([head, *forms]), fields=fields, unit=act, split=split)


def _place(key: str) -> float:
    """Return a number in [0, 1) that depends on the key only.

    7 is the first salt that leaves every act type of both domains in train and every split within
    two percent points of its share.
    """
    return int.from_bytes(hashlib.sha256(f"restaurants 7 {key}".encode()).digest()[:6]) / 2**48


def _split(act: str) -> Split:
    place = _place(act)
    for split, share in SHARES.items():
        place -= share
        if place < 0:
            return split
    return "test"


def _delexicalise(text: str, values: Mapping[str, str]) -> str | None:
    """Return the text with placeholders for values, or None if a value is missing.

    Longest values first, so that the area ``mission`` is not found in the name ``mission inn``.
    Placeholders of the same value take its occurrences in turn.
    """
    text = f" {text} "
    for value in sorted(set(values.values()), key=lambda value: (-len(value), value)):
        marks = [mark for mark, other in values.items() if other == value]
        for i, mark in enumerate(marks, start=1):
            before = text
            count = -1 if i == len(marks) else 1
            text = text.replace(f" {value} ", f" {mark} ", count)
            if text == before:
                return None
    return text.strip()


def _shortened(value: str) -> str:
    """Return an address as some templates write it."""
    return re.sub(r"\bstreet\b", "st", re.sub(r"\bavenue\b", "ave", value))
