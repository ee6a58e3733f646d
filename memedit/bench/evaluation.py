"""What batches make of an evaluation: cases a second, against asking one question at a time."""

from __future__ import annotations

import statistics
from itertools import islice

from memedit.bench.measured import Entry, entry, invented_edits, seconds
from memedit.data import Case, Query

CASES, BATCH, TURNS = 16, 64, 3


def evaluation(model: str, device: str | None, dtype: str | None) -> list[Entry]:
    """The same cases by the same method, routed and scored whole, in batches and one by one; median of the ratios of turns."""
    from memedit.evaluation import DataSet, Evaluation, Job, Options, Record
    from memedit.lm import HFModel

    base = HFModel.from_pretrained(model, device=device, dtype=dtype)
    data = DataSet("invented", "", "memedit", "", "all", tuple(_cases()), 0)

    def score(size: int) -> float:
        record = Record(None, {})
        options = Options(batch_size=size, opening={"device": device})
        spent = seconds(lambda: Evaluation(base, record, options).run([Job(data, "ice")]))
        record.close()
        return spent

    score(BATCH)  # warms up
    turns = [(score(1), score(BATCH)) for _ in range(TURNS)]
    ratio = statistics.median(one / many for one, many in turns)
    rate = CASES / statistics.median(many for _, many in turns)
    return [
        entry(
            f"cases a second of `eval`, batches of {BATCH}, against one question at a time", ratio, "times", 5.0,
            f"{CASES} cases of 4 questions, ice, generated and teacher-forced, base beside it; {rate:.1f} cases a second", True,
        )
    ]  # fmt: skip


def _cases() -> list[Case]:
    edits = list(islice(invented_edits(2 * CASES), 2 * CASES))
    return [
        Case(
            str(i), edit,
            (
                Query("edit", edit.prompt or "", (edit.target or "",)),
                Query("paraphrase", f"As we know, {edit.prompt}", (edit.target or "",)),
                Query("locality", other.prompt or "", (other.target or "",)),
                Query("locality", f"Truly, {other.prompt}", (other.target or "",)),
            ),
        )
        for i, (edit, other) in enumerate(zip(edits[:CASES], edits[CASES:], strict=True))
    ]  # fmt: skip
