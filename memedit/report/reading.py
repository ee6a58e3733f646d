"""The run file of `memedit eval`, looked at before anything is drawn from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memedit.errors import DataError

FORMAT = 1
_NEEDED = ("data", "method", "way", "mode", "scores", "answers")
_OUTSIDE = ("locality", "unrelated")  # kinds that are to stay as they were: `unchanged` is their verdict
_ABOUT = ("memedit", "command", "date", "machine", "seed", "decoding", "suite")
Answer = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Score:
    """One number of a run with its 95 % interval; `floor` is the unedited base's, `n` how many answers made it."""

    kind: str
    label: str
    score: str
    value: float
    low: float | None
    high: float | None
    floor: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Run:
    """One method on one data set, in one way and mode, scored at one moment.

    Attributes:
        way: routed or merged. mode: all, single, batch:N or sequential. when: after-all or after-each.
        edits: in memory when scored. seconds: by phase. first: place of its first answer among all runs' answers.
    """

    data: str
    method: str
    way: str
    mode: str
    when: str
    edits: int
    settings: Mapping[str, Any]
    seconds: Mapping[str, float]
    rate: float | None
    scores: tuple[Score, ...]
    drift: Mapping[str, float]
    failed: tuple[Mapping[str, Any], ...]
    answers: Sequence[Answer]
    first: int

    @property
    def key(self) -> tuple[str, str, str]:
        return self.data, self.method, self.way

    @property
    def protocol(self) -> str:
        """In words: how and when it was scored."""
        modes = {"all": "all edits at once", "single": "each edit alone", "sequential": "one after the other",
                 "chat": "one chat for each"}  # fmt: skip
        mode = modes.get(self.mode, self.mode.replace("batch:", "batches of "))
        when = "scored right after each" if self.when == "after-each" else "scored after all"
        return mode if self.mode in ("single", "chat") else f"{mode}, {when}"

    def find(self, kind: str, score: str, label: str = "") -> Score | None:
        """The score of that name, of all labels together unless one is named; kind or label "*": of any."""
        return next(
            (
                s
                for s in self.scores
                if s.score == score and label in ("*", s.label) and kind in ("*", s.kind)
            ),
            None,
        )


@dataclass(frozen=True, slots=True)
class RunFile:
    """A whole run file.

    Attributes:
        about: what it says of itself (command, date, machine, seed, ...). published: numbers of others that it holds
            ("what", "turns", "caveat"); empty where there are none.
    """

    name: str
    model: Mapping[str, Any]
    data: tuple[Mapping[str, Any], ...]
    runs: tuple[Run, ...]
    goals: tuple[Mapping[str, Any], ...]
    about: Mapping[str, Any]
    published: Mapping[str, Any]

    def answer(self, place: Any) -> tuple[Run, Answer] | None:
        """The answer at a goal's example: its place among all runs' answers, or a pair (run, place in it)."""
        if isinstance(place, (list, tuple)) and len(place) == 2 and all(isinstance(i, int) for i in place):
            number, at = place
            if 0 <= number < len(self.runs) and 0 <= at < len(self.runs[number].answers):
                return self.runs[number], self.runs[number].answers[at]
        elif isinstance(place, int) and not isinstance(place, bool):
            for run in self.runs:
                if 0 <= place - run.first < len(run.answers):
                    return run, run.answers[place - run.first]
        return None


def verdict(answer: Answer) -> bool | None:
    """Whether the answer is as it should be: unchanged outside the scope, else a success; None if nobody judged it."""
    names = ("unchanged", "success") if answer.get("kind") in _OUTSIDE else ("success", "unchanged")
    return next((answer[name] for name in names if isinstance(answer.get(name), bool)), None)


def read_run(source: Mapping[str, Any] | Path | str) -> RunFile:
    """A run file, from disk or as the engine holds it.

    Raises:
        DataError: it can't be read, is no JSON, half-written, of another format, or holds no answer.
    """
    if isinstance(source, Mapping):
        return _whole(source, "the run")
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"there is no file {path}; `memedit eval --json FILE` writes one") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; name the JSON file that `memedit eval --json` wrote") from None
    except UnicodeDecodeError:
        raise DataError(
            f"{path} is not UTF-8 text; name the JSON file that `memedit eval --json` wrote"
        ) from None
    try:
        loaded = json.loads(text)
    except RecursionError:
        raise DataError(f"{path} is nested too deep for a run file of `memedit eval`") from None
    except json.JSONDecodeError as error:
        whole = text.rstrip()
        cut = whole[:1] == "{" and (error.pos > len(whole) - 12 or "Unterminated" in error.msg)
        if cut:
            raise DataError(
                f"{path} ends in the middle: it is half-written; run the same `memedit eval` again to finish it"
            ) from None
        raise DataError(
            f"{path} is not JSON ({error.msg} at line {error.lineno}); name what `memedit eval --json` wrote"
        ) from None
    return _whole(loaded, str(path))


def _whole(loaded: Any, name: str) -> RunFile:
    if not isinstance(loaded, Mapping) or not isinstance(loaded.get("runs"), Sequence):
        there = (
            ", ".join(map(str, list(loaded)[:6])) if isinstance(loaded, Mapping) else type(loaded).__name__
        )
        raise DataError(
            f'{name} is no run file of `memedit eval`: it holds no list "runs" (found: {there or "nothing"})'
        )
    version = loaded.get("format")
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        todo = "a newer memedit wrote it; update memedit" if newer else "run `memedit eval --json` again"
        raise DataError(f"{name} is of format {version!r}, and this memedit reads {FORMAT}; {todo}")
    runs: list[Run] = []
    for number, one in enumerate(loaded["runs"], 1):
        runs.append(_run(one, f"{name}, run {number}", runs[-1].first + len(runs[-1].answers) if runs else 0))
    if not any(run.answers for run in runs):
        failed = sum(len(run.failed) for run in runs)
        why = (
            f"all {failed:,} cases failed, the first with: {_first_error(runs)}"
            if failed
            else "it holds none"
        )
        raise DataError(f"{name} has no answers to report ({why}); run `memedit eval` again")
    return RunFile(
        name=Path(name).name,
        model=_mapping(loaded.get("model")),
        data=tuple(_mapping(one) for one in listed(loaded.get("data"))),
        runs=tuple(runs),
        goals=tuple(goal for goal in map(_mapping, listed(loaded.get("goals"))) if goal),
        about={key: loaded[key] for key in _ABOUT if loaded.get(key) is not None},
        published=_mapping(loaded.get("published")),
    )


def _first_error(runs: Sequence[Run]) -> str:
    return next(str(f.get("error", "?")) for run in runs for f in run.failed)


def _run(one: Any, where: str, first: int) -> Run:
    if not isinstance(one, Mapping):
        raise DataError(f"{where} is no object but {type(one).__name__}; run `memedit eval --json` again")
    missing = [key for key in _NEEDED if key not in one]
    if missing:
        raise DataError(f"{where} lacks {', '.join(missing)}; run `memedit eval --json` again")
    answers = listed(one["answers"])
    for place, answer in enumerate(answers):
        if not isinstance(answer, Mapping) or not all(
            isinstance(answer.get(k), str) for k in ("kind", "prompt")
        ):
            raise DataError(
                f"{where}, answer {place} has no kind or no prompt; run `memedit eval --json` again"
            )
    scores = [_score(s, where) for s in listed(one["scores"])]
    return Run(
        **{key: str(one[key]) for key in ("data", "method", "way", "mode")},
        when=str(one.get("when") or "after-all"),
        edits=int(number(one.get("edits_in_memory")) or 0),
        settings=_mapping(one.get("settings")),
        seconds={k: v for k, v in ((k, number(v)) for k, v in _mapping(one.get("seconds")).items()) if v},
        rate=number(one.get("cases_per_second")),
        scores=tuple(s for s in scores if s is not None),
        drift={
            k: v for k, v in ((k, number(v)) for k, v in _mapping(one.get("drift")).items()) if v is not None
        },
        failed=tuple(_mapping(f) for f in listed(one.get("failed"))),
        answers=answers,
        first=first,
    )


def _score(one: Any, where: str) -> Score | None:
    """A score, or None where it has no value (nothing was asked)."""
    if not isinstance(one, Mapping) or not isinstance(one.get("score"), str):
        raise DataError(f"{where} holds a score without a name; run `memedit eval --json` again")
    given = one.get("value")
    value = number(given)
    if value is None:
        if given is None or isinstance(given, float):  # nothing asked, or not a number
            return None
        raise DataError(
            f"{where}: {one['score']} is {given!r} and no number; run `memedit eval --json` again"
        )
    low, high, floor = (number(one.get(key)) for key in ("low", "high", "floor"))
    kind, label = (str(one.get(key) or "") for key in ("kind", "label"))
    return Score(kind, label, one["score"], value, low, high, floor, int(number(one.get("n")) or 0))


def number(value: Any) -> float | None:
    """A finite number as a float; None of anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def listed(value: Any) -> list[Any]:
    """A list as it is; of anything else none."""
    return list(value) if isinstance(value, (list, tuple)) else []
