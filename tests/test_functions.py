"""A reward from a plain function: options, fields, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import pytest
from annotated_types import Gt

from moalign import Batch, OptionError, PluginError, Prompt, Reward, plugins, reward
from moalign.options import options_of

PLUGIN = '''
from __future__ import annotations
from typing import Annotated
from annotated_types import Gt
from moalign import hookimpl, reward

@reward(range=(0, 1))
def names_the_answer(text: str, answer: str, *, times: Annotated[int, Gt(0)] = 1) -> float | None:
    """1 if the answer is in the text often enough; not for empty answers."""
    return float(text.count(answer) >= times) if answer else None

@hookimpl
def moalign_rewards():
    return [names_the_answer]
'''


def batch_of(texts: list[str], *fields: dict[str, str]) -> Batch:
    """Two completions for each prompt."""
    import torch

    rows = len(texts)
    return Batch(
        prompts_P=[Prompt(str(i), "p", given) for i, given in enumerate(fields)],
        group=2,
        prompt_ids_P=[[1]] * len(fields),
        texts_B=texts,
        raw_texts_B=texts,
        ids_BT=torch.zeros(rows, 1, dtype=torch.long),
        mask_BT=torch.ones(rows, 1),
        finished_B=torch.ones(rows, dtype=torch.bool),
    )


@pytest.fixture
def built(tmp_path: Path) -> plugins.Catalogue:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    return plugins.load([file])


def test_a_plugin_file_offers_a_function(built: plugins.Catalogue) -> None:
    made = built.build(Reward, {"names-the-answer": {"times": 2}})
    assert made.range == (0, 1)
    assert made.needs == {"field:answer"}
    values = made.score(batch_of(["a a", "a", "b", ""], {"answer": "a"}, {"answer": ""}))
    assert values[:2] == [1.0, 0.0]
    assert all(math.isnan(value) for value in values[2:])


def test_its_options_are_checked(built: plugins.Catalogue) -> None:
    with pytest.raises(OptionError, match="option 'times' should be int > 0; found 0"):
        built.build(Reward, {"names-the-answer": {"times": 0}})
    with pytest.raises(OptionError, match="has no option 'time'; did you mean 'times'"):
        built.build(Reward, {"names-the-answer": {"time": 2}})


def test_names_and_defaults() -> None:
    @reward(name="other")
    def _Plain(text: str, *, share: Annotated[float, Gt(0)] = 0.5) -> float:
        """Say something."""
        return len(text) * share

    assert _Plain.name == "other"
    assert _Plain.range is None
    assert [option.name for option in options_of(_Plain)] == ["share"]
    assert _Plain().score(batch_of(["ab", "abc"], {})) == [1.0, 1.5]


def test_what_cannot_be_a_reward_is_refused() -> None:
    with pytest.raises(PluginError, match="its first argument is the text"):

        @reward()
        def nothing() -> float:
            return 0.0

    with pytest.raises(PluginError, match="have no names"):

        @reward()
        def everything(text: str, **fields: str) -> float:
            return 0.0
