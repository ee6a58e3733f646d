"""What batches make of an evaluation: cases a second, against asking one question at a time."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from memedit.bench.measured import Entry, entry, invented_edits, seconds
from memedit.data import Case, Query

if TYPE_CHECKING:
    from memedit.lm import HFModel

CASES, BATCH, TURNS = 16, 64, 3


def evaluation(model: str, device: str | None, dtype: str | None) -> list[Entry]:
    """The same cases by the same method, routed and scored whole, in batches and one by one; median of the ratios of turns."""
    from memedit.evaluation import DataSet, Evaluation, Job, Options, Record
    from memedit.lm import HFModel

    base = HFModel.from_pretrained(model, device=device, dtype=dtype)
    data = DataSet("invented", "", "memedit", "", "all", tuple(_cases()), 0)

    def batched() -> float:
        record = Record(None, {})
        options = Options(batch_size=BATCH, opening={"device": device})
        spent = seconds(lambda: Evaluation(base, record, options).run([Job(data, "ice")]))
        record.close()
        return spent

    batched()  # warms up
    turns = [(seconds(lambda: _one_by_one(base, data.cases, device)), batched()) for _ in range(TURNS)]
    ratio = statistics.median(one / many for one, many in turns)
    rate = CASES / statistics.median(many for _, many in turns)
    return [
        entry(
            f"cases a second of `eval`, batches of {BATCH}, against one question at a time", ratio, "times", 5.0,
            f"{CASES} cases of 4 questions, ice, generated and teacher-forced, base beside it; {rate:.1f} cases a second", True,
        )
    ]  # fmt: skip


def _one_by_one(base: HFModel, cases: Sequence[Case], device: str | None) -> None:
    """The same edits and questions, each routed, answered and scored by itself, as a loop over a data set does it."""
    from memedit.edited import EditedModel
    from memedit.memory import EditMemory

    options = {"max_new_tokens": 16, "do_sample": False}
    with tempfile.TemporaryDirectory() as folder, EditMemory.open(folder, device=device) as memory:
        memory.add([edit for case in cases for edit in case.edits])
        model = EditedModel.from_pretrained(base, memory=memory)
        for case in cases:
            for query in case.queries:
                routes = model.route([query.prompt])
                asked: list[tuple[Any, dict[str, Any]]] = [(base, {}), (model, {"routes": routes})]
                targets = [*query.answers, case.edit.target or ""]
                for lm, own in asked:
                    lm.generate([query.prompt], **options, **own)
                    for target in dict.fromkeys(targets):
                        lm.score([query.prompt], [target], **own)


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
