from __future__ import annotations

import math

import pytest

from moalign_plugins.rewards.slot_coverage import SlotCoverage

TWO = ["<name>", "<near>"]


@pytest.mark.parametrize(
    ("wanted", "written", "expected"),
    [
        (TWO, "<name> is near <near>", 1.0),
        (TWO, "<near> has <name>", 1.0),
        (TWO, "<name> is nice", 0.5),
        (TWO, "nothing to say", 0.0),
        (TWO, "", 0.0),
        (TWO, "<name> , <name> , near <near>", 0.5),  # repeated
        (TWO, "<name> near <near> in <area>", 0.5),  # invented
        (TWO, "<name> in <area>", 0.0),
        (TWO, "<area> <food> <area>", 0.0),  # never below 0
        (TWO, "<name> <name> <name> <name>", 0.0),
        (["<area>", "<area2>"], "in <area> or <area2>", 1.0),
        (["<area>", "<area2>"], "in <area> or <area>", 0.0),  # once too often, and <area2> missing
        (["<area>"], "in <area2>", 0.0),
        (["<name>", "<area>", "<food>"], "<name> <food>", 2 / 3),
        (TWO, "<unk> < name > <Name> 3<5>2", 0.0),
    ],
)
def test_golden_values(batch_of, wanted, written, expected):
    batch = batch_of(["surface"], fields=[{"placeholders": wanted}], raw=[written])
    assert SlotCoverage().score(batch) == [pytest.approx(expected)]


def test_does_not_apply_without_placeholders(batch_of):
    batch = batch_of(["goodbye"] * 2, fields=[{"placeholders": []}, {"placeholders": TWO}])
    applies_not, nothing_said = SlotCoverage().score(batch)
    assert math.isnan(applies_not)
    assert nothing_said == 0.0


def test_reads_what_the_model_wrote(batch_of):
    batch = batch_of(["<name>"], fields=[{"placeholders": ["<name>"]}], raw=["blue door"])
    assert SlotCoverage().score(batch) == [0.0]
