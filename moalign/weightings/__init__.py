"""Base classes that families of weightings share: the host's part of a method, written once.

A subclass is a weighting of its own, with its formula and its docstring. No torch at import.
"""
