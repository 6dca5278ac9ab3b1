"""Every weighting on the same tasks, base policies, preferences and tokens, side by side.

python -m benchmarks.weightings --quick    # arithmetic, 1 seed, 2 preferences
python -m benchmarks.weightings --full     # all tasks, 3 seeds, 5 preferences: some hours

Ctrl-C stops; the same command goes on. ``--plan`` says what would run and trains nothing,
``--report`` writes the report of what is there; ``--bed arithmetic`` runs one task, and
``--report FILE FILE`` makes one report of several documents. One concept, one file:

==============  ====================================================================
plan.py         the grid of cells: beds, weightings with their options, preferences
budget.py       how long a cell may train
train.py        one cell, from the base policy to its measurements
cells.py        what a cell leaves behind, as a file
work.py         base policies, worker processes, what is done already
progress.py     the progress bar and the time that is left
results.py      all cells as one compact document, which the report is made of
measures.py     the numbers: utility, volume, hull, speed, violation
claims.py       what was published, as data, and whether it was seen
report.py       the tables and the text
picture.py      the picture
two_families.*  the study in which two kinds of prompts want different things
==============  ====================================================================
"""

from moalign.cli.common import quiet_libraries

quiet_libraries()  # before they are imported: their progress bars would break into ours
