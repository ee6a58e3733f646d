"""What was to be reached: misses first, each with examples of why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memedit.report.blocks import Block, Cell, Heading, Table, Text
from memedit.report.picking import label
from memedit.report.reading import Answer, Run, RunFile, listed, number
from memedit.report.units import plain


def goals(file: RunFile) -> list[Block]:
    """Goals, misses first, each miss with its examples."""
    ordered = sorted(file.goals, key=lambda goal: goal.get("met") is True)
    rows: list[list[Cell | str]] = [
        [
            Cell("met" if goal.get("met") is True else "missed", (), "good" if goal.get("met") is True else "bad"),
            str(goal.get("what", "")), _amount(goal.get("value")), _limit(goal),
        ]
        for goal in ordered
    ]  # fmt: skip
    out: list[Block] = [Table(["", "goal", "measured", "wanted"], rows, left=2)]
    for goal in ordered:
        if goal.get("met") is True:
            continue
        out.append(Heading(f"Why missed: {goal.get('what', '')}", 3))
        found = [pair for place in listed(goal.get("examples"))[:3] if (pair := file.answer(place))]
        if found:
            out.append(_examples(found))
        else:
            out.append(Text("The run file names no example of this miss.", "quiet"))
    return out


def _examples(found: Sequence[tuple[Run, Answer]]) -> Table:
    rows: list[list[Cell | str]] = [
        [
            Cell(str(a.get("prompt", "")), (f"{run.data}, {label(run, [run])}, {a.get('kind', '')}",)),
            expected(a), str(a.get("base") or ""), said(a), why(a),
        ]
        for run, a in found
    ]  # fmt: skip
    return Table(["query", "expected", "base's answer", "edited answer", "route"], rows, left=5)


def said(answer: Answer) -> str:
    """The edited answer, or why there is none."""
    error = answer.get("error")
    return f"(failed: {error})" if error else str(answer.get("text") or "")


def expected(answer: Answer) -> str:
    """What the answer should have been, in words."""
    if answer.get("kind") in ("locality", "unrelated"):
        return "as the base"
    wanted = " | ".join(map(str, listed(answer.get("answers"))))
    if answer.get("kind") == "old":
        return f"not: {answer.get('old') or wanted}"
    return wanted or ("as the base" if isinstance(answer.get("unchanged"), bool) else "")


def why(answer: Answer) -> str:
    """The route in words: what fired, with which probability against which threshold, and the reason."""
    route = answer.get("route")
    fired = answer.get("fired")
    if fired is None and not isinstance(route, Mapping):
        return "no router (in the weights)"
    said = f"edit {', '.join(map(str, listed(fired)))} fired" if fired else "no edit fired"
    if fired and answer.get("right") is False:
        said += " (not the right one)"
    if isinstance(route, Mapping):
        sure, limit = number(route.get("probability")), number(route.get("threshold"))
        if sure is not None:
            said += f", p {sure:.3f}" + (f" against {limit:.3f}" if limit is not None else "")
        said += "".join(f", {route[key]}" for key in ("class", "method") if route.get(key))
        said += f": {route['why']}" if route.get("why") else ""
    return said


def _amount(value: Any) -> str:
    """A goal's number: a share in percent, other numbers as they are, words too."""
    given = number(value)
    if given is None:
        return "" if value is None else str(value)
    return f"{100 * given:.1f} %" if 0 <= given <= 1 else plain(given)


def _limit(goal: Mapping[str, Any]) -> str:
    wanted, value = number(goal.get("goal")), number(goal.get("value"))
    if wanted is None or value is None:
        return _amount(goal.get("goal"))
    at_least = (value >= wanted) == (goal.get("met") is True) or value == wanted
    return f"{'>=' if at_least else '<='} {_amount(wanted)}"
