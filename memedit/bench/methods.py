"""Editing methods side by side, each edit alone and no router: `memedit bench methods`; and what patches cost in a batch.

Only facts that the base answers are edited: a case counts when the base, asked greedily, begins with the old answer.
es: it begins with the target afterwards. gen: the same of paraphrases that the base answered with the old answer.
neighbours: the output for questions about other subjects is token for token what it was.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memedit.bench.measured import Entry, entry, invented_edits, seconds
from memedit.data import read_cases
from memedit.errors import DataError, MemeditError
from memedit.lm import HFModel
from memedit.methods import METHODS, load_method, method_info
from memedit.metrics import pooled, starts_with

if TYPE_CHECKING:
    from memedit.edit import Edit
    from memedit.methods._effects import Effect
    from memedit.methods._rows import Row

OPTIONS: dict[str, Any] = {"max_new_tokens": 16, "do_sample": False}
TOGETHER = 8  # edits whose questions are asked in one batch
GOALS = {  # (es, gen, neighbours) on the shipped base, in percent; None: reported only
    "rome": (95, 70, 80), "memit": (90, 65, 80), "pmet": (85, 60, 80), "alphaedit": (90, 60, 80),
    "ultraedit": (80, 50, None), "ft-m": (98, 60, None), "lora": (98, 70, None), "mend": (85, 70, None),
    "grace": (98, None, None), "t-patcher": (97, None, None),
}  # fmt: skip
SECONDS = 3.0  # one edit on the shipped base
MIXED, PAIRS = 32, 12  # rows of a mixed batch, and how often they are asked beside plain ones

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Known:
    """An edit of a fact that the base knows; the questions in other words that it answers; neighbours and their answers."""

    edit: Edit
    paraphrases: tuple[str, ...]
    neighbours: tuple[tuple[str, str], ...]

    @property
    def prompts(self) -> list[str]:
        """All that is asked: the edit's own prompt, paraphrases, neighbours."""
        return [self.edit.prompt or "", *self.paraphrases, *(prompt for prompt, _ in self.neighbours)]


def known(base: HFModel, data: str | Path, limit: int) -> list[Known]:
    """The first cases of a file whose old answer the base gives, and whose target it does not.

    Raises:
        DataError: the file can't be read, or the base knows none of its facts.
    """
    out: list[Known] = []
    cases = [c for c in read_cases(data) if c.edit.prompt and c.edit.target and c.edit.old]
    for start in range(0, len(cases), 32):
        some = cases[start : start + 32]
        said = base.generate([c.edit.prompt for c in some], **OPTIONS)
        for case, text in zip(some, said, strict=True):
            edit = case.edit
            old, new = [edit.old or ""], [edit.target or "", *edit.target_aliases]
            if len(out) >= limit or not starts_with(text, old) or starts_with(text, new):
                continue
            others = pooled(case.queries, "paraphrase") + pooled(case.queries, "locality")
            answers = base.generate([q.prompt for q in others], **OPTIONS) if others else []
            pairs = list(zip(others, answers, strict=True))
            out.append(
                Known(
                    edit,
                    tuple(q.prompt for q, a in pairs if q.kind == "paraphrase" and starts_with(a, old)),
                    tuple((q.prompt, a) for q, a in pairs if q.kind == "locality"),
                )
            )
        if len(out) >= limit:
            break
    if not out:
        raise DataError(
            f"the base answers none of the facts in {data} (prompt, target and old are needed): take another file"
        )
    return out


def measure(
    base: HFModel,
    name: str,
    cases: Sequence[Known],
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """One method on all cases, each edit alone.

    Returns:
        es, gen, neighbours (percent; None where nothing was asked), their numbers n_..., seconds (of processor time,
        median for an edit, 0 where nothing is prepared), slowest, size (bytes, median), refused (edits that the method
        can't serve).
    """
    method = load_method(name, **(settings or {}))
    hits: dict[str, list[bool]] = {"es": [], "gen": [], "neighbours": []}
    spent, sizes, refused = [], [], 0  # processor time: other work on the machine does not count
    for start in range(0, len(cases), TOGETHER):
        ready = []
        for case in cases[start : start + TOGETHER]:
            try:
                row = method.row(base, [case.edit])
            except MemeditError:
                refused += 1
                hits["es"].append(False)
                continue
            ready.append(case)
            patch = getattr(method, "patch", None)
            if row.patch and patch is not None:
                found = patch(base, case.edit)
                spent.append(float(found.about["cpu_seconds"]))
                sizes.append(found.size)
        if ready:
            _ask(base, method, ready, hits)
        if progress:
            progress(min(start + TOGETHER, len(cases)), len(cases))
    share = {k: 100 * sum(v) / len(v) if v else None for k, v in hits.items()}
    return {
        "method": name, **share, **{f"n_{k}": len(v) for k, v in hits.items()},
        "seconds": statistics.median(spent) if spent else 0.0, "slowest": max(spent, default=0.0),
        "size": int(statistics.median(sizes)) if sizes else 0, "refused": refused,
    }  # fmt: skip


def _ask(base: HFModel, method: Any, cases: Sequence[Known], hits: dict[str, list[bool]]) -> None:
    prompts = [prompt for case in cases for prompt in case.prompts]
    edits = [[case.edit] for case in cases for _ in case.prompts]
    with method.applied(base, edits) as model:
        texts = iter(model.generate(prompts, **OPTIONS))
    for case in cases:
        right = [case.edit.target or "", *case.edit.target_aliases]
        hits["es"].append(starts_with(next(texts), right))
        hits["gen"] += [starts_with(next(texts), right) for _ in case.paraphrases]
        hits["neighbours"] += [next(texts) == before for _, before in case.neighbours]


def methods(
    model: str,
    device: str | None,
    dtype: str | None,
    *,
    data: str | None = None,
    limit: int = 60,
    only: Sequence[str] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Progress | None = None,
) -> list[Entry]:
    """An entry for every method and score, against its goal on the shipped base.

    Raises:
        DataError: no file is named. MethodError: no such method.
    """
    if data is None:
        raise DataError(
            "bench methods needs --data FILE: facts that the base knows, with prompt, target and old"
        )
    names = list(only) or [name for name, info in METHODS.items() if info.handed is None]
    for name in names:
        method_info(name)
    base = HFModel.from_pretrained(model, device=device, dtype=dtype)
    cases = known(base, data, limit)
    out: list[Entry] = []
    for name in names:
        found = measure(base, name, cases, (settings or {}).get(name), progress)
        goals = GOALS.get(name, (None, None, None)) if model == "base" else (None, None, None)
        detail = f"{len(cases)} facts that the base knows, each edit alone, greedy, no router; {found['refused']} refused"
        for score, goal in zip(SCORES, goals, strict=True):
            if found[score] is not None:
                out.append(_at_least(name, score, found[score], goal, found[f"n_{score}"], detail))
        cost = f"processor time, median; slowest {found['slowest']:.2f} s; {found['size']:,} bytes a patch"
        limit_s = SECONDS if model == "base" and found["seconds"] else None
        out.append(
            {
                "claim": f"{name}: processor time for an edit", "method": name, "score": "seconds",
                "value": found["seconds"], "unit": "s",
                "limit": "" if limit_s is None else f"<= {limit_s:g} s",
                "met": None if limit_s is None else found["seconds"] <= limit_s, "detail": cost,
                "slowest": found["slowest"], "size": found["size"], "refused": found["refused"],
            }
        )  # fmt: skip
    return out


SCORES = ("es", "gen", "neighbours")
HEADS = ("method", *SCORES, "s an edit", "slowest", "bytes", "refused")


def table(entries: Sequence[Entry]) -> list[list[str]]:
    """A row for each method under HEADS; a goal stands behind its number, with a mark where it is missed."""
    rows: dict[str, dict[str, Entry]] = {}
    for one in entries:
        rows.setdefault(one["method"], {})[one["score"]] = one
    out = []
    for name, found in rows.items():
        cost = found["seconds"]
        more = [f"{cost['value']:.2f}", f"{cost['slowest']:.2f}", f"{cost['size']:,}", f"{cost['refused']}"]
        out.append([name, *(_with_goal(found.get(score)) for score in SCORES), *more])
    return out


def _with_goal(one: Entry | None) -> str:
    if one is None:
        return ""
    goal = f" ({one['limit'].removesuffix(' %')}{'' if one['met'] else ', MISSED'})" if one["limit"] else ""
    return f"{one['value']:.1f}{goal} n {one['n']}"


def _at_least(name: str, score: str, value: float, goal: float | None, n: int, detail: str) -> Entry:
    return {
        "claim": f"{name}: {score}", "method": name, "score": score, "n": n, "value": value, "unit": "%",
        "limit": "" if goal is None else f">= {goal:g} %", "met": None if goal is None else value >= goal,
        "detail": f"n = {n}; {detail}",
    }  # fmt: skip


def covariance(model: str, device: str | None, dtype: str | None) -> list[Entry]:
    """What ROME's family needs once of a base, the second moment of a module's keys, estimated anew; and the memory of it."""
    import resource

    from memedit.layout import Layout
    from memedit.methods._moments import TEXT, estimate, lines_of

    base = HFModel.from_pretrained(model, device=device, dtype=dtype)
    blocks = Layout.of(base.model).blocks
    module = blocks[len(blocks) // 2].mlp_out
    lines, _ = lines_of(None)
    found: list[Any] = []
    spent = seconds(lambda: found.append(estimate(base, module, lines, None)))
    load_method("rome").row(base, [next(invented_edits(1))])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # Linux counts in kibibytes
    what = f"{module}, {found[0]} from {TEXT.name}"
    return [
        entry("second moment of one module's keys, once for a base", spent, "s", 60, what),
        entry(
            "memory of the process that estimated it and made an edit by rome",
            peak,
            "GB",
            1.5,
            "resident, peak",
        ),
    ]


def mixed_batch(model: str, device: str | None, dtype: str | None) -> list[Entry]:
    """32 rows that each have another edit, against 32 plain rows: medians of ratios, turn by turn in one run.

    `rome`'s patches are solved for here; those of five modules are random, since what is in them costs no time. A row of
    `ice` stands against a plain one that reads as much: the stated fact and the prompt as one text.
    """
    from memedit.methods._rows import Row
    from memedit.methods._splice import joined

    base = HFModel.from_pretrained(model, device=device, dtype=dtype)
    edits = list(invented_edits(MIXED))
    prompts = [edit.prompt or "" for edit in edits]
    rome, ice = ([load_method(name).row(base, [edit]) for edit in edits] for name in ("rome", "ice"))
    wide = [Row(patch=patch) for patch in _random_patches(base, MIXED, 5)]
    modules = len(wide[0].patch or ())
    stated = [joined(row.context) + prompt for row, prompt in zip(ice, prompts, strict=True)]
    return [
        _mixed(base, rome, prompts, prompts, "another fact by rome", "plain rows", 1.3),
        _mixed(
            base, wide, prompts, prompts, f"another rank-one patch of {modules} modules (as MEMIT)", "plain rows", 1.3
        ),
        _mixed(base, ice, prompts, stated, "another fact by ice", "plain rows of the same length", 1.15),
    ]  # fmt: skip


def _random_patches(base: HFModel, count: int, modules: int) -> list[dict[str, Effect]]:
    import torch

    from memedit.layout import Layout, weight
    from memedit.methods._effects import LowRank

    generator, out = torch.Generator().manual_seed(0), []
    for _ in range(count):
        patch: dict[str, Effect] = {}
        for block in Layout.of(base.model).blocks[:modules]:
            high, wide = weight(base.model, block.mlp_out).shape
            up, down = torch.randn(high, 1, generator=generator), torch.randn(1, wide, generator=generator)
            patch[block.mlp_out] = LowRank(1e-3 * up, down)
        out.append(patch)
    return out


def _mixed(
    base: HFModel,
    rows: Sequence[Row],
    prompts: Sequence[str],
    plain: Sequence[str],
    what: str,
    against: str,
    limit: float,
) -> Entry:
    """Rows with edits, against the base's own of the plain prompts; who goes first takes turns."""
    from memedit.methods._rows import rows_applied

    options, ratios = {"max_new_tokens": 32, "min_new_tokens": 32, "do_sample": False}, []
    with rows_applied(base, rows) as applied:
        turns: list[Callable[[], Any]] = [
            lambda: base.generate(plain, **options),
            lambda: applied.generate(prompts, **options),
        ]
        for i in range(PAIRS + 2):
            spent = {which: seconds(turns[which]) for which in (i % 2, 1 - i % 2)}
            if i >= 2:  # the first two warm up
                ratios.append(spent[1] / spent[0])
    tokens = base.tokenize(plain)["input_ids"].shape[1]
    return entry(
        f"{len(rows)} rows, each with {what}, against {len(rows)} {against}, 32 new tokens",
        statistics.median(ratios), "times", limit,
        f"median of {PAIRS} pairs, turn by turn; plain prompts of {tokens} tokens at most",
    )  # fmt: skip
