"""What comparisons share: cells that are trained to a budget of tokens, measured, and reported.

``benchmarks/weightings`` and ``benchmarks/optimizers`` are comparisons. Each says what its entries
are (plan.py), what was claimed (claims.py) and what its report looks like (report.py); here is the
rest. One concept, one file:

============  ======================================================================
plan.py       entries, cells, beds as they are run
budget.py     how long a cell may train
train.py      one cell, from the base policy to its measurements
cells.py      what a cell leaves behind, as a file
work.py       base policies, worker processes, what is done already
progress.py   the progress bar and the time that is left
results.py    all cells as one compact document, which a report is made of
measures.py   the numbers: utility, volume, hull, speed, violation
verdicts.py   what an interval says about a claim
words.py      parts of a report
picture.py    the picture of a bed
command.py    the command line
============  ======================================================================
"""

from moalign.cli.common import quiet_libraries

quiet_libraries()  # before they are imported: their progress bars would break into ours
