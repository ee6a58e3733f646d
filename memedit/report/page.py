"""Blocks as one HTML page that needs nothing else: style, script, figures and answers are inside."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from memedit.report.blocks import Block, Cell, Heading, Items, Picture, Table, Text
from memedit.report.goals import expected
from memedit.report.reading import Answer, Run, number, verdict

# a browser that keeps to this asks nobody for anything, whatever the answers hold
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(blocks: Sequence[Block], figures: Mapping[str, str], runs: Sequence[Run] = ()) -> str:
    """The page. `figures`: SVG by name, for the middle of a page. `runs`: their answers can be browsed.

    Returns:
        HTML that asks the network for nothing; every text of a run is escaped.
    """
    title = next((b.text for b in blocks if isinstance(b, Heading) and b.level == 1), "memedit")
    heads = [b.text for b in blocks if isinstance(b, Heading) and b.level == 2]
    links = [f'<a href="#{_anchor(head)}">{text(head)}</a>' for head in heads]
    if runs:
        links.append('<a href="#cases">Single cases</a>')
    body = []
    for block in blocks:
        body.append(_block(block, figures))
        if isinstance(block, Heading) and block.level == 1:
            body.append(f"<nav>{''.join(links)}</nav>")
    data = (
        f'<script type="application/json" id="answers">{script_json(answers(runs))}</script>\n'
        if runs
        else ""
    )
    script = f"<script>\n{_asset('page.js')}</script>\n"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>\n{_asset('page.css')}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n"
        + (_asset("browser.html") if runs else "")
        + data
        + script
        + "</body></html>\n"
    )


def text(value: str) -> str:
    """A text of any content, for between tags or in quotes: escaped; what HTML can't hold becomes a mark."""
    return html.escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", value))


def script_json(value: Any) -> str:
    """JSON for a script element: nothing in it can end the element, and every letter is ASCII."""
    packed = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return packed.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def answers(runs: Iterable[Run]) -> dict[str, Any]:
    """The answers for page.js: every text once in `texts`, a row of places for each answer (see ROW there)."""
    texts: dict[str, int] = {}

    def place(value: Any) -> int:
        return texts.setdefault("" if value is None else str(value), len(texts))

    about, rows = [], []
    for i, run in enumerate(runs):
        about.append({"data": run.data, "name": _name(run), "how": f"{run.edits:,} edits, {run.protocol}"})
        rows += [_row(i, answer, place) for answer in run.answers]
    return {"runs": about, "texts": list(texts), "rows": rows}


def _name(run: Run) -> str:
    return run.method if run.method == "none" else f"{run.method}, {run.way}"


def _row(run: int, answer: Answer, place: Any) -> list[Any]:
    route = answer.get("route")
    route = route if isinstance(route, Mapping) else {}
    fired = answer.get("fired")
    fired = ", ".join(map(str, fired)) if isinstance(fired, (list, tuple)) else ("" if route else "-")
    still = answer.get("kind") in ("locality", "unrelated")
    words = [answer.get(key) for key in ("kind", "label", "case", "prompt")]
    words += [
        expected(answer),
        None if still else answer.get("old"),
        answer.get("base"),
        answer.get("text"),
        fired,
    ]
    words += [route.get(key) for key in ("class", "method", "why")]
    sure = [
        None if (v := number(route.get(key))) is None else round(v, 4) for key in ("probability", "threshold")
    ]
    judged = {True: 1, False: 0, None: 2}[verdict(answer)]
    right = answer.get("right")
    return [run, *map(place, words), *sure, judged, int(right) if isinstance(right, bool) else None]


def _asset(name: str) -> str:
    return (files("memedit.report") / name).read_text(encoding="utf-8")


def _anchor(head: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", head.casefold()).strip("-") or "part"


def _block(block: Block, figures: Mapping[str, str]) -> str:
    if isinstance(block, Heading):
        mark = f' id="{_anchor(block.text)}"' if block.level == 2 else ""
        return f"<h{block.level}{mark}>{text(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f"<p{_class(block.tone)}>{text(block.text)}</p>"
    if isinstance(block, Items):
        return f"<ul{_class(block.tone)}>{''.join(f'<li>{text(item)}</li>' for item in block.items)}</ul>"
    if isinstance(block, Picture):
        drawing = figures.get(block.name, "")
        return f"<figure>{drawing}<figcaption>{text(block.caption)}</figcaption></figure>"
    table = _table(block)
    if not block.folded:
        return table
    return f"<details><summary>{text(block.title)}</summary>{table}</details>"


def _class(*names: str) -> str:
    kept = " ".join(name for name in names if name)
    return f' class="{kept}"' if kept else ""


def _table(table: Table) -> str:
    starts, at = set(), 0  # columns at which a group begins
    top = ""
    for name, width in table.groups:
        starts |= {at} if at else set()
        at += width
        top += f'<th scope="colgroup" colspan="{width}"{_class("group" if name else "")}>{text(name)}</th>'

    def sides(i: int, tone: str = "") -> str:
        return _class("left" if i < table.left else "", "starts" if i in starts else "", tone)

    head = "".join(f'<th scope="col"{sides(i)}>{text(name)}</th>' for i, name in enumerate(table.head))
    rows = []
    for row in table.rows:
        cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
        parts = (
            f"<td{sides(i, c.tone)}>{text(c.text)}{''.join(f'<small>{text(note)}</small>' for note in c.notes)}</td>"
            for i, c in enumerate(cells)
        )
        rows.append(f"<tr>{''.join(parts)}</tr>")
    first = f"<tr>{top}</tr>" if top else ""
    return f'<div class="wide"><table><thead>{first}<tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
