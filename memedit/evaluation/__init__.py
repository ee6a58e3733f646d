"""Evaluation that tells the truth: all edits made, every question through the router, free generation, the floor beside it.

answer.py   what is asked, and what was said       asking.py  base, routed, oracle, merged: a batch at a time
forced.py   teacher-forced scores                  scores.py  the metrics, from answers alone
states.py   what is in memory when it is asked     sets.py    data sets and their splits
record.py   the run file, and its journal          run.py     jobs -> runs                    suites.py  named sets of jobs
"""

from memedit.evaluation.answer import Answer, Question
from memedit.evaluation.record import FORMAT, Record
from memedit.evaluation.run import Evaluation, Job, Options
from memedit.evaluation.scores import MEASURES, Measure, summarise
from memedit.evaluation.sets import DataSet, load

__all__ = [
    "FORMAT", "MEASURES", "Answer", "DataSet", "Evaluation", "Job", "Measure", "Options", "Question", "Record", "load",
    "summarise",
]  # fmt: skip
