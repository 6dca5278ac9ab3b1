"""Every weighting on the same tasks, base policies, preferences and tokens, side by side.

python -m benchmarks.weightings --quick    # arithmetic, 1 seed, 2 preferences
python -m benchmarks.weightings --full     # all tasks, 3 seeds, 5 preferences: some hours

Ctrl-C stops; the same command goes on. ``--plan`` says what would run and trains nothing,
``--report`` writes the report of what is there; ``--bed arithmetic --seeds 0`` runs one task and
seed, and ``--report FILE FILE`` makes one report of several documents, which may be of different
tasks or seeds and from different days. What comparisons share is in ``benchmarks/comparison``; here
one concept, one file:

==============  ====================================================================
plan.py         the beds, and weightings with their options
claims.py       what was published, as data, and whether it was seen
report.py       the tables and the text
families.py     what each family of prompts gets
two_families.*  the study in which two kinds of prompts want different things
==============  ====================================================================
"""
