"""The search: which strategy finds a front soonest, what stopping saves, what the driver costs.

python -m benchmarks.search --quick    # two functions, 3 seeds: some minutes
python -m benchmarks.search --full     # all functions, 10 seeds: some hours

Ctrl-C stops; the same command goes on. ``--plan`` says what would run and runs nothing,
``--report`` writes the report of what is there, ``--report FILE FILE`` one report of several
documents, of different parts or seeds. ``--part fronts`` runs one part; to try the benchmark out,
``--set trials=8 --seeds 0``. Seconds are measured while other cells run beside, one thread each;
CPU seconds stand beside them. One concept, one file; another part is a file with a ``Part``, and a
line in parts.py:

=================  ==============================================================
part.py            what a part is: its cells, how one is run, what is said of them
parts.py           the parts
cells.py           a cell, and what it leaves behind
work.py            which cells are done, and how a worker runs one
results.py         all cells as one compact document, which a report is made of
goals.py           what was to be reached, and whether it was
report.py          the page
picture.py         the look of the pictures
problem.py         a problem whose front is known
functions.py       BoTorch's test problems
curves.py          learning curves that cross
stand_ins.py       plugins without a language model, for studies of problems
segment.py         the stand-in for training: a problem is evaluated
studies.py         a problem as a study
drive.py           the real driver on such a study, and the seconds of its strategy
baselines.py       the samplers of Optuna and BoTorch, used plainly
entries.py         the strategies that are compared
fronts.py          part: hypervolume against evaluations; fronts_report.py
rungs.py           part: stopping trials or not; rungs_report.py
policies.py        part: fronts of trained policies against training steps;
                   policies_numbers.py, policies_report.py
overhead.py        part: what the driver and its archive cost; overhead_report.py
=================  ==============================================================
"""

from moalign.cli.common import quiet_libraries

quiet_libraries()  # before they are imported: their progress bars would break into ours
