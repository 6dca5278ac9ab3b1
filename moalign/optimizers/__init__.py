"""Base classes that families of optimizers share: the host's part of a method, written once.

A subclass is an optimizer of its own, with its formula and its docstring. No torch at import.
"""
