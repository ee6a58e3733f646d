"""What sequential edits cost, merged into weights and behind the router: `memedit bench drift`.

At each number of edits a sample of those made so far is asked: whether the answer is the new one (es; in other words: gen),
whether questions about neighbouring subjects get the answer they had; and what no edit is about: perplexity of running text,
right answers to shipped questions (drift.py). Every point is stored as soon as it is found, and a stopped run goes on there.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memedit.bench.measured import Entry, machine
from memedit.data import Case, read_cases
from memedit.drift import Standard
from memedit.errors import DataError, MemeditError, MethodError
from memedit.lm import HFModel
from memedit.methods import METHODS, load_method, method_info
from memedit.metrics import pooled, starts_with

if TYPE_CHECKING:
    from memedit.edit import Edit
    from memedit.memory import EditMemory
    from memedit.merging import Merged

COUNTS = (1, 3, 10, 30, 100, 300, 1000)
COMPARED = ("rome", "memit", "ft-m", "lora", "mend")
WAYS = ("merged", "routed")
NEIGHBOURS = 3  # questions about other subjects, of each edit that is asked about
OPTIONS: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}
_BATCH = 32

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Point:
    """One method after so many edits; shares are of 1, None where nothing was asked.

    Attributes:
        how: "merged", "routed", or "base" (no edit at all: what perplexity and accuracy start from). refused: edits that
            could not be made. seconds: of processor time, of editing and asking.
    """

    method: str
    how: str
    edits: int
    es: float | None
    gen: float | None
    neighbours: float | None
    perplexity: float
    accuracy: float
    refused: int = 0
    seconds: float = 0.0


class Store:
    """Points in a JSON file, with the setting that they hold for.

    Raises:
        DataError: the file is of another setting, or none of ours.
    """

    def __init__(self, path: Path, setting: Mapping[str, Any]) -> None:
        self.path, self.setting = path, dict(setting)
        self.points: list[Point] = []
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                kept, rows = found["setting"], [Point(**row) for row in found["points"]]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{path} holds no points of this bench ({error}); name another --output"
                ) from error
            if kept != json.loads(json.dumps(self.setting)):
                raise DataError(
                    f"{path} was measured with other settings; name another --output, or delete it"
                )
            self.points = rows

    @property
    def digest(self) -> str:
        """Of the setting."""
        return hashlib.sha256(json.dumps(self.setting, sort_keys=True).encode()).hexdigest()

    def has(self, method: str, how: str, edits: int) -> bool:
        """Whether a point is there."""
        return any((p.method, p.how, p.edits) == (method, how, edits) for p in self.points)

    def add(self, point: Point) -> None:
        """Keep a point, whole or not at all."""
        self.points.append(point)
        rows = [asdict(p) for p in self.points]
        beside = self.path.with_name(f".{self.path.name}.part")
        beside.write_text(
            json.dumps({"setting": self.setting, "machine": machine(), "points": rows}, indent=1) + "\n"
        )
        beside.replace(self.path)


class Questions:
    """The edits in their order, and what is asked of a sample of those made so far.

    Args:
        most: edits, all of facts whose old answer the base gives. sample: how many of those made are asked about.
    """

    def __init__(self, base: HFModel, cases: Iterable[Case], most: int, sample: int) -> None:
        self.base, self.sample = base, sample
        self._said: dict[str, str] = {}
        self.cases = self._known(cases, most)

    @property
    def edits(self) -> list[Edit]:
        """In the order in which they are made."""
        return [case.edit for case in self.cases]

    def scores(self, lm: Any, made: int) -> tuple[float | None, float | None, float | None]:
        """es, gen, neighbours of a sample of the first so many edits, evenly from first to last."""
        some = [self.cases[i * made // min(self.sample, made)] for i in range(min(self.sample, made))]
        asked: list[tuple[str, str, list[str]]] = []
        for case in some:
            edit = case.edit
            right = [edit.target or "", *edit.target_aliases]
            asked.append(("es", edit.prompt or "", right))
            asked += [("gen", q.prompt, right) for q in pooled(case.queries, "paraphrase")]
            near = [q.prompt for q in pooled(case.queries, "locality")][:NEIGHBOURS]
            asked += [("neighbours", prompt, []) for prompt in near]
        before = self._before([prompt for _, prompt, _ in asked])
        old = {case.edit.prompt: case.edit.old or "" for case in some}
        hits: dict[str, list[bool]] = {"es": [], "gen": [], "neighbours": []}
        after = _ask(lm, [prompt for _, prompt, _ in asked])
        own = ""
        for (kind, prompt, right), was, text in zip(asked, before, after, strict=True):
            own = prompt if kind == "es" else own
            if kind == "neighbours":
                hits[kind].append(text == was)
            elif kind == "es" or starts_with(was, [old[own]]):
                hits[kind].append(starts_with(text, right))
        es, gen, near_ = (sum(v) / len(v) if v else None for v in hits.values())
        return es, gen, near_

    def _known(self, cases: Iterable[Case], most: int) -> list[Case]:
        """Those whose old answer the base gives, and whose target it does not; no two with one prompt."""
        out: list[Case] = []
        ready = [c for c in cases if c.edit.prompt and c.edit.target and c.edit.old]
        for start in range(0, len(ready), _BATCH):
            some = ready[start : start + _BATCH]
            for case, text in zip(some, self._before([c.edit.prompt or "" for c in some]), strict=True):
                new = [case.edit.target or "", *case.edit.target_aliases]
                twice = any(c.edit.prompt == case.edit.prompt for c in out)
                if not twice and starts_with(text, [case.edit.old or ""]) and not starts_with(text, new):
                    out.append(case)
            if len(out) >= most:
                break
        return out[:most]

    def _before(self, prompts: Sequence[str]) -> list[str]:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._said]
        self._said |= dict(zip(new, _ask(self.base, new), strict=True))
        return [self._said[prompt] for prompt in prompts]


def _ask(lm: Any, prompts: Sequence[str]) -> list[str]:
    return lm.generate(list(prompts), batch_size=_BATCH, **OPTIONS) if prompts else []


def drift(
    model: str,
    device: str | None,
    dtype: str | None,
    *,
    data: str | None = None,
    output: str | None = None,
    counts: Sequence[int] = COUNTS,
    only: Sequence[str] = (),
    sample: int = 20,
    text: str | None = None,
    passages: int = 60,
    questions: int = 60,
    ways: Sequence[str] = WAYS,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Progress | None = None,
) -> list[Entry]:
    """Measure all points that are missing in DIR/drift.json, then write drift.md, drift.png and drift.svg beside it.

    Raises:
        DataError: no file is named, or it holds too few facts that the base knows. MethodError: no such method.
    """
    if data is None or output is None:
        raise DataError(
            "bench drift needs --data FILE, facts that the base knows, and --output DIR for what it finds"
        )
    names = list(only) or [name for name in COMPARED if name in METHODS]
    for name in names:
        method_info(name)
    counts = sorted(set(counts))
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    base = HFModel.from_pretrained(model, device=device, dtype=dtype)
    setting = {
        "model": model, "base": base.fingerprint, "data": _file(data), "sample": sample, "text": text and _file(text),
        "passages": passages, "questions": questions, "settings": dict(settings or {}), "options": OPTIONS,
    }  # fmt: skip
    store = Store(folder / "drift.json", setting)
    standard = Standard.of(text, passages, questions)
    asked = Questions(base, read_cases(data), counts[-1], sample)
    if len(asked.cases) < counts[-1]:
        raise DataError(
            f"the base knows {len(asked.cases)} of the facts in {data}; give more, or fewer edits by --edits"
        )
    if not store.has("", "base", 0):
        found = standard.measure(base)
        store.add(Point("", "base", 0, None, None, None, found.perplexity, found.accuracy))
    units = {"merged": counts[-1], "routed": len(counts)}  # edits that are made, points that are asked
    steps = _Steps(progress, len(names) * sum(units[way] for way in ways))
    bench = _Bench(base, asked, standard, store, counts, settings or {}, steps)
    if "routed" in ways:
        bench.routed(names)
    for name in names if "merged" in ways else ():
        bench.merged(name, folder)
    from memedit.bench.drift_figure import table, write_figures

    (folder / "drift.md").write_text(table(store.points, str(standard), sample), encoding="utf-8")
    write_figures(store.points, folder)
    return [entry for point in store.points for entry in _entries(point)]


def _file(path: str) -> str:
    """A file's name, and a digest of what it holds.

    Raises:
        DataError: it can't be read.
    """
    try:
        return f"{Path(path).name} {hashlib.sha256(Path(path).read_bytes()).hexdigest()[:24]}"
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error


class _Steps:
    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def more(self, n: int = 1) -> None:
        self.done += n
        if self.progress:
            self.progress(self.done, self.total)


@dataclass
class _Bench:
    base: HFModel
    asked: Questions
    standard: Standard
    store: Store
    counts: Sequence[int]
    settings: Mapping[str, Mapping[str, Any]]
    steps: _Steps

    def merged(self, name: str, folder: Path) -> None:
        """One method, edit after edit in a copy; the weights at the last point are kept until all is measured."""
        state = folder / f"drift-{name}.safetensors"
        todo = [n for n in self.counts if not self.store.has(name, "merged", n)]
        if not todo:
            self.steps.more(self.counts[-1])
            return
        merged, made, refused = self._begun(name), 0, 0
        if state.exists():
            merged.load_state(state, self.store.digest)
            mine = [p for p in self.store.points if (p.method, p.how) == (name, "merged")]
            done = [p for p in mine if p.edits - p.refused == merged.edits]
            made, refused = (done[-1].edits, done[-1].refused) if done else (0, 0)
            if not done or made >= todo[0]:  # counts in between were asked for since: begin anew
                merged, made, refused = self._begun(name), 0, 0
        self.steps.more(made)
        for n in todo:
            start = time.process_time()
            refused += self._merge(merged, self.asked.edits[made:n])
            made = n
            self._measure(merged.lm, name, "merged", n, refused, start)
            if merged.resumable:
                merged.save_state(state, self.store.digest)
        state.unlink(missing_ok=True)

    def _begun(self, name: str) -> Merged:
        from memedit.merging import Merged

        return Merged(self.base, load_method(name, **self.settings.get(name, {})))

    def _merge(self, merged: Merged, edits: Sequence[Edit]) -> int:
        """Make edits; how many could not be made, as happens once a model has collapsed."""
        refused = 0
        for edit in edits:
            try:
                merged.add(edit)
            except MemeditError:
                refused += 1
            self.steps.more()
        return refused

    def routed(self, names: Sequence[str]) -> None:
        """Each method behind the router, on a memory of its own that grows."""
        for name in names:
            todo = [n for n in self.counts if not self.store.has(name, "routed", n)]
            self.steps.more(len(self.counts) - len(todo))
            if todo:
                self._routed(name, todo)

    def _routed(self, name: str, todo: Sequence[int]) -> None:
        from memedit.memory import EditMemory

        with tempfile.TemporaryDirectory(prefix="memedit-drift-") as place, EditMemory.open(place) as memory:
            made = refused = 0
            for n in todo:
                start = time.process_time()
                memory.add(self.asked.edits[made:n])
                made = n
                try:
                    self._ask_routed(memory, name, n, refused, start)
                except MethodError:  # an edit that fired can't be served: find all such, and forget them
                    refused += self._prepare(memory, name)
                    self._ask_routed(memory, name, n, refused, start)
                self.steps.more()

    def _ask_routed(self, memory: EditMemory, name: str, n: int, refused: int, start: float) -> None:
        """Patches are prepared when their edit first fires; those that nothing asks for change no answer."""
        from memedit.edited import EditedModel

        edited = EditedModel.from_pretrained(self.base, memory=memory, method=name, settings=self.settings)
        self._measure(edited, name, "routed", n, refused, start)

    def _prepare(self, memory: EditMemory, name: str) -> int:
        """Prepare all edits; how many could not be prepared, which are forgotten."""
        from memedit.kept import MemoryPatches, bound, prepare

        patches = MemoryPatches(memory)
        method = bound(load_method(name, **self.settings.get(name, {})), patches)
        records = list(memory)
        refused = [one.id for one in prepare(patches, self.base, records, lambda edit: method) if one.error]
        memory.forget_all(refused)
        return len(refused)

    def _measure(self, lm: Any, name: str, how: str, n: int, refused: int, start: float) -> None:
        es, gen, near = self.asked.scores(lm, n)
        found = self.standard.measure(lm)
        spent = time.process_time() - start
        self.store.add(
            Point(name, how, n, es, gen, near, found.perplexity, found.accuracy, refused, round(spent, 1))
        )


def _entries(point: Point) -> list[Entry]:
    if point.how == "base":
        return []
    about = f"perplexity {point.perplexity:.1f}, right answers {100 * point.accuracy:.0f} %, {point.refused} refused"
    return [
        {
            "claim": f"{point.method} {point.how}, {point.edits:,} edits: es", "value": 100 * (point.es or 0.0), "unit": "%",
            "limit": "", "met": None, "detail": about,
        }
    ]  # fmt: skip
