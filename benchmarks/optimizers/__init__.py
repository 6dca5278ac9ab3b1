"""Every optimizer on the same tasks, base policies, preferences and tokens, side by side.

python -m benchmarks.optimizers --quick    # arithmetic, 1 seed, 2 preferences, a few optimizers
python -m benchmarks.optimizers --full     # all tasks, 3 seeds, 5 preferences: some hours

Ctrl-C stops; the same command goes on. ``--plan`` says what would run and trains nothing,
``--report`` writes the report of what is there; ``--bed arithmetic --seeds 0`` runs one task and
seed, and ``--report FILE FILE`` makes one report of several documents, which may be of different
tasks or seeds and from different days. ``--rates 1 0.3`` trains everything at both multiples of the
study's learning rate, and reports each optimizer at its better one. What comparisons share is in
``benchmarks/comparison``; here one concept, one file:

=========  ======================================================================
plan.py    the beds, optimizers with their options, shares of the budget
rates.py   which learning rate counts where several were trained
claims.py  what was published about MODPO, as data, and whether it was seen
report.py  the tables and the text
=========  ======================================================================
"""
