"""Contract suites: what the host relies on, as properties that anybody's component can be run on.

A suite is a module of this package named after a kind, with its properties in ``PROPERTIES``.
``moalign plugins check FILE`` runs them over a plugin file; a test file does it in three lines::

    from moalign.testing import contract

    test_contract = contract("mine.py")  # beside this file, or a component class

The suites run moalign's own components, and broken ones that must each fail exactly one property.
"""

from __future__ import annotations

from moalign.testing.contract import (
    SUITES,
    Case,
    Finding,
    cases,
    contract,
    properties,
    require,
    run_contract,
)

__all__ = [
    "SUITES",
    "Case",
    "Finding",
    "cases",
    "contract",
    "properties",
    "require",
    "run_contract",
]
