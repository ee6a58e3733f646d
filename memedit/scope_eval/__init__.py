"""Scope scores: does the right edit fire, and nothing else, at every size of memory?

`memedit eval scope` prints them. cases.py: what a query is to an edit; public.py, known.py, facts.py: readers of
the public data; sets.py: the table of development sets, and what fills a memory; crowd.py: a memory with its
vectors; judges.py: who decides; scores.py, run.py: the scores of each set at each size; goals.py, report.py: what
is made of them. It needs no base model and no database.
"""

from memedit.scope_eval.cases import KINDS, ScopeCase
from memedit.scope_eval.judges import Judge, Top
from memedit.scope_eval.run import SIZES, evaluate
from memedit.scope_eval.sets import SETS

__all__ = ["KINDS", "SETS", "SIZES", "Judge", "ScopeCase", "Top", "evaluate"]
