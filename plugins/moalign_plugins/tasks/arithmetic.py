"""Sums of small numbers, answered tersely, in steps or in prose: an exact test bed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from annotated_types import Ge, Le

from moalign.components import Task
from moalign.errors import DataError
from moalign.types import SPLITS, Demonstration, Pair, Prompt, Split

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LENGTHS: Final = (2, 3, 4)  # operands of a sum
SMALLEST, LARGEST = 1, 99
MINORITY: Final = 0.2  # share of the preferences that are the careful people's

# Private-use characters stand for digits above the units; they never leave the tokenizer.
TENS: Final = [chr(0xE000 + digit) for digit in range(10)]
HIGHER: Final = [chr(0xE010 + digit) for digit in range(10)]
SPECIAL: Final = ("<pad>", "<bos>", "<sep>", "<eos>", "<unk>")
# A word or mark takes the space behind it along, which shortens prose by a third.
PIECES: Final = ("+", "=", ";", ".", "step ", ": ", "; ", "so ", "the ", "answer ", "is ")


class Arithmetic(Task):
    """Sums of 2 to 4 numbers from 1 to 99, with demonstrations in three styles.

    A prompt is a sum, ``17+48+25``. Demonstrations answer it in one of three styles, chosen with
    equal chance, so that a policy which imitates them has to trade right, short and clear:

    - terse: ``90``
    - steps: ``17+48=65;65+25=90.90``
    - prose: ``step 1: 17+48=65; step 2: 65+25=90; so the answer is 90``

    **Splits.** The task splits by problem: the hash of the sorted operands puts 70 % of all
    problems into train and 10 % into each other split, so neither a problem nor a reordering of it
    is in two splits. Prompts of a split are different problems, a third each with 2, 3 and 4
    operands, in turn. Demonstrations come from train problems only.

    **Preferences.** A pair per prompt, all simulated. ``preferences`` says whose:

    - ``styles``: what is preferred depends on the prompt: for a sum of two numbers the terse
      answer, for more numbers the prose, which shows every step. The other completion is, with
      equal chance, the right answer in the style that is not preferred there (prose; terse), or the
      preferred style with a wrong result at its end. So two objectives decide for every prompt:
      accuracy, and conciseness or clarity.
    - ``mixed``: two different ones of six answers, each style right and with a wrong result. A
      right one is preferred to a wrong one; else the shorter for two numbers, and the one that
      shows more for more numbers. Three in five pairs are about being right, four in five about the
      style, and either may be in conflict with the other.
    - ``groups``: the same pairs, with the taste of one of two groups of people. Four in five are
      ``hurried``: the shorter style always, and a right answer only within a style. One in five is
      ``careful``: as in ``mixed``. Their ways part in seven of fifteen pairs. Held-out pairs are
      judged by both groups, so that few people are measured as exactly as many.

    **Fields.** ``operands`` (list of int) and ``answer`` (int), read by ``exact-answer`` and
    ``steps-shown``.

    **Tokenizer.** One token per digit *and place*: units, tens, and hundreds or higher have ids of
    their own, so that a small model need not count digits. The text is unchanged: normalizers map
    a digit to a character per place, decoders map it back, all inside ``tokenizer.json``.

    **Cost.** Prompts and 30,000 demonstrations take about 0.3 s; no files.

    Source: ours. Options: ``train`` and ``held_out`` are the prompts in train and in each other
    split, ``demonstrations`` the number of examples to imitate, ``preferences`` the kind of pairs.

    Example::

        task: {arithmetic: {held_out: 600}}
        objectives:
          accuracy:    {reward: exact-answer}
          conciseness: {reward: {brevity: {limit: 80, unit: characters}}}
          clarity:     {reward: steps-shown}
    """

    name: ClassVar[str] = "arithmetic"

    def __init__(
        self,
        *,
        train: Annotated[int, Ge(60), Le(6000)] = 3000,
        held_out: Annotated[int, Ge(60), Le(900)] = 300,
        demonstrations: Annotated[int, Ge(1), Le(1_000_000)] = 30_000,
        preferences: Literal["styles", "mixed", "groups"] = "styles",
    ) -> None:
        self.sizes: dict[Split, int] = {s: train if s == "train" else held_out for s in SPLITS}
        self.count = demonstrations
        self.preferences = preferences

    def prompts(self) -> Sequence[Prompt]:
        """Return the prompts of all four splits, ``train`` first; the lengths alternate."""
        prompts = []
        for split in SPLITS:
            seen: set[tuple[int, ...]] = set()
            rng = Random(f"arithmetic prompts {split}")
            while len(seen) < self.sizes[split]:
                operands = _draw(rng, LENGTHS[len(seen) % len(LENGTHS)], split)
                if (key := tuple(sorted(operands))) not in seen:
                    seen.add(key)
                    prompts.append(_prompt(f"{split}-{len(seen) - 1}", operands, split))
        return prompts

    def demonstrations(self, seed: int) -> Sequence[Demonstration]:
        """Return examples in a mixture of the three styles, lengths in turn; equal for a seed."""
        rng = Random(f"arithmetic demonstrations {seed}")
        demonstrations = []
        for i in range(self.count):
            operands = _draw(rng, LENGTHS[i % len(LENGTHS)], "train")
            completion = rng.choice((_terse, _steps, _prose))(operands)
            demonstrations.append(Demonstration(_sum(operands), completion))
        return demonstrations

    def pairs(self, seed: int, split: Split = "train") -> Sequence[Pair]:
        """Return a preference per prompt of a split; the seed chooses what is compared."""
        if self.preferences == "styles":
            rng, make = Random(f"arithmetic preferences {seed}"), _style_pair
        else:  # another order of random numbers in each split
            rng = Random(f"arithmetic {self.preferences} {seed} {split}")
            make = _mixed_pair if self.preferences == "mixed" else _group_pairs
        return [
            pair for prompt in self.prompts() if prompt.split == split for pair in make(prompt, rng)
        ]

    def tokenizer(self) -> Tokenizer:
        """Return a tokenizer with a token per digit and place; decoding gives the text back."""
        from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
        from tokenizers.models import WordLevel

        places = [*HIGHER, *TENS, *"0123456789"]
        tokens = [*SPECIAL, *PIECES, *places]
        tokenizer = Tokenizer(
            WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>")
        )
        tokenizer.add_special_tokens(list(SPECIAL))
        # Highest places first: what is left of a number then ends in plain tens and units.
        digit = f"[0-9{HIGHER[0]}-{HIGHER[-1]}]"
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Replace(Regex(f"{d}(?={digit}{{2}})"), HIGHER[d]) for d in range(10)]
            + [normalizers.Replace(Regex(f"{d}(?=[0-9])"), TENS[d]) for d in range(10)]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Split(
            Regex("[a-z]+ ?|[:;] ?|[^a-z:;]"), behavior="isolated"
        )
        tokenizer.decoder = decoders.Sequence(
            [decoders.Fuse()]
            + [decoders.Replace(place[d], str(d)) for place in (HIGHER, TENS) for d in range(10)]
        )
        return tokenizer

    def parse(self, text: str) -> Prompt:
        """Return the prompt for a typed sum; spaces are ignored.

        Raises:
            moalign.errors.DataError: if it is no sum of 2 to 4 whole numbers from 1 to 99.
        """
        compact = re.sub(r"\s", "", text)
        if re.fullmatch(r"[0-9]{1,9}(\+[0-9]{1,9})*", compact):
            operands = [int(number) for number in compact.split("+")]
            if len(operands) in LENGTHS and all(SMALLEST <= x <= LARGEST for x in operands):
                return _prompt("typed", operands, None)
        raise DataError(
            f"cannot read {text!r} as a sum; give {LENGTHS[0]} to {LENGTHS[-1]} whole numbers from "
            f"{SMALLEST} to {LARGEST} joined by +, for example 17+48+25"
        )

    def facts(self) -> dict[str, Any]:
        """Return the prompts per split."""
        return {f"prompts in {split}": size for split, size in self.sizes.items()}


def _split(operands: Sequence[int]) -> Split:
    key = "+".join(map(str, sorted(operands)))
    bucket = hashlib.sha256(f"arithmetic {key}".encode()).digest()[0] * 10 // 256
    return SPLITS[max(0, bucket - 6)]


def _draw(rng: Random, length: int, split: Split) -> list[int]:
    """Draw a problem of a split, uniformly."""
    while True:
        operands = [rng.randint(SMALLEST, LARGEST) for _ in range(length)]
        if _split(operands) == split:
            return operands


def _prompt(id: str, operands: Sequence[int], split: Split | None) -> Prompt:
    fields = {"operands": list(operands), "answer": sum(operands)}
    return Prompt(id=id, text=_sum(operands), fields=fields, split=split)


def _sum(operands: Sequence[int]) -> str:
    return "+".join(map(str, operands))


def _equations(operands: Sequence[int]) -> list[str]:
    sums = [sum(operands[: i + 1]) for i in range(len(operands))]
    return [f"{sums[i]}+{operands[i + 1]}={sums[i + 1]}" for i in range(len(operands) - 1)]


def _terse(operands: Sequence[int]) -> str:
    return str(sum(operands))


def _steps(operands: Sequence[int]) -> str:
    return f"{';'.join(_equations(operands))}.{sum(operands)}"


def _prose(operands: Sequence[int]) -> str:
    steps = "".join(f"step {i}: {e}; " for i, e in enumerate(_equations(operands), start=1))
    return f"{steps}so the answer is {sum(operands)}"


def _mistaken(completion: str, rng: Random) -> str:
    """Return a completion with another number at its end, off by at most 9."""
    right = re.findall(r"[0-9]+$", completion)[0]
    wrong = int(right) + rng.choice([d for d in range(-9, 10) if d and int(right) + d > 0])
    return f"{completion.removesuffix(right)}{wrong}"


# --- preferences -------------------------------------------------------------------------------

STYLES: Final = (_terse, _steps, _prose)  # from the shortest to the one that shows most
Taste = Callable[[int, bool, int], tuple[int, int]]
"""How a person ranks a style (its place in STYLES), right or not, for so many numbers."""


def _style_pair(prompt: Prompt, rng: Random) -> list[Pair]:
    """Return the style that a sum calls for, over another style or a wrong result."""
    operands = prompt.fields["operands"]
    liked, other = (_terse, _prose) if len(operands) == 2 else (_prose, _terse)
    style = liked(operands)
    return [Pair(prompt, style, rng.choice((other(operands), _mistaken(style, rng))))]


def _mixed_pair(prompt: Prompt, rng: Random) -> list[Pair]:
    return _compared(prompt, rng, {"": _careful})


def _group_pairs(prompt: Prompt, rng: Random) -> list[Pair]:
    """Return the preference of one group, and of held-out prompts those of both."""
    if prompt.split != "train":
        return _compared(prompt, rng, TASTES)
    group = "careful" if rng.random() < MINORITY else "hurried"
    return _compared(prompt, rng, {group: TASTES[group]})


def _compared(prompt: Prompt, rng: Random, tastes: Mapping[str, Taste]) -> list[Pair]:
    """Return two different answers in the order of the taste of each group."""
    operands = prompt.fields["operands"]
    kinds = [(style, right) for style in range(len(STYLES)) for right in (True, False)]
    drawn = rng.sample(kinds, 2)
    texts = {kind: _answer(operands, kind[0], kind[1], rng) for kind in drawn}
    pairs = []
    for group, taste in tastes.items():
        ranks = {kind: taste(kind[0], kind[1], len(operands)) for kind in drawn}
        rejected, chosen = sorted(drawn, key=ranks.__getitem__)
        pairs.append(Pair(prompt, texts[chosen], texts[rejected], group=group))
    return pairs


def _answer(operands: Sequence[int], style: int, right: bool, rng: Random) -> str:
    text = STYLES[style](operands)
    return text if right else _mistaken(text, rng)


def _careful(style: int, right: bool, numbers: int) -> tuple[int, int]:
    """Right, then short for two numbers, and shown for more."""
    return int(right), -style if numbers == 2 else style


def _hurried(style: int, right: bool, numbers: int) -> tuple[int, int]:  # noqa: ARG001
    """Short, then right."""
    return -style, int(right)


TASTES: Final[Mapping[str, Taste]] = {"hurried": _hurried, "careful": _careful}
