"""Named sets of jobs: `memedit eval --suite NAME`. A new one is a function here or in a module of its own, and a line below."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memedit.errors import DataError, unknown
from memedit.evaluation.asking import said
from memedit.evaluation.run import Job
from memedit.evaluation.sets import DataSet, load

SUITES: dict[str, str] = {  # name -> where it lives; imported when it is run
    "small": "memedit.evaluation.suites:small",
}


@dataclass(frozen=True)
class Suite:
    """What a suite runs.

    Attributes:
        jobs: in order. skipped: (file, why), for people. most: questions of each sort of a case; None for all.
        broken: those of the skipped files that are there, and could not be read.
    """

    jobs: tuple[Job, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    most: int | None = None
    broken: tuple[str, ...] = ()


def suite(name: str, folder: Path, limit: int | None = None, methods: tuple[str, ...] = ()) -> Suite:
    """A suite by name.

    Args:
        folder: of the public data sets. limit: cases of each set; None for the suite's own number.
        methods: to compare; none for the suite's own.

    Raises:
        DataError: no such suite, or the folder is missing.
    """
    if name not in SUITES:
        raise DataError(unknown("suite", name, SUITES))
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} of data sets; name it by --folder or MEMEDIT_DATA")
    module, _, function = SUITES[name].partition(":")
    made: Suite = getattr(importlib.import_module(module), function)(folder, limit, methods)
    return made


# One file of every format that lies in the folder of public sets; PokeMQA's, which has no answers, is read by `eval scope`.
SMALL = (
    "counterfact/counterfact-val.json",
    "counterfact/counterfact_full_schema_dev.json",
    "zsre/zsre_mend_train-1k.json",
    "knowedit/wiki_counterfact_train.json",
    "knowedit/wiki_recent_train.json",
    "knowedit/wikibio_train.json",
    "mquake/mquake_hard_dev.json",
    "mquake/mquake_stubborn2_dev.json",
    "eren/counterfact_hard_dev.json",
    "eren/hotpot.json",
    "pitfalls/coverage_edit.json",
    "pitfalls/reverse_edit.json",
    "pitfalls/composite_edit.json",
    "pitfalls/easy.json",
    "pitfalls/hard.json",
    "peak/PEAK_counter.json",
    "canonical/country_capital_fixed-val.jsonl",
    "editing_attack/commonsense_868.csv",
    "editing_attack/long_tail_100.csv",
)


def small(folder: Path, limit: int | None, methods: tuple[str, ...]) -> Suite:
    """A few cases of each format by the default method: whether everything is read and scored, in two minutes."""
    sets, skipped = _loaded(folder, SMALL, limit or 20)
    jobs = tuple(Job(data, name) for data in sets for name in methods or ("ice",))
    broken = tuple(name for name, _ in skipped if (folder / name).exists())
    return Suite(jobs, tuple(skipped), most=1, broken=broken)


def _loaded(folder: Path, files: tuple[str, ...], limit: int) -> tuple[list[DataSet], list[tuple[str, str]]]:
    """The sets that can be read, and of the others why not."""
    sets: list[DataSet] = []
    skipped: list[tuple[str, str]] = []
    for name, found in _each(folder, files, limit):
        if isinstance(found, DataSet):
            sets.append(found)
        else:
            skipped.append((name, found))
    return sets, skipped


def _each(folder: Path, files: tuple[str, ...], limit: int) -> Iterator[tuple[str, DataSet | str]]:
    for name in files:
        try:
            yield name, load(str(folder / name), limit=limit, skip_bad=True)
        except Exception as error:  # a reader that breaks is what this looks for; the others are still scored
            yield name, said(error)
