"""Blocks as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable

from memedit.report.blocks import Block, Cell, Heading, Items, Picture, Table, Text

_MARK = {"good": "**{}**", "bad": "**{}**"}


def markdown(blocks: Iterable[Block]) -> str:
    """The blocks as one Markdown text; pictures are the PNG files beside it."""
    return "\n\n".join(part for block in blocks if (part := _block(block))) + "\n"


def plain_line(text: str) -> str:
    """Text of any content as one line of Markdown that shows it as it is."""
    text = re.sub(
        r"\s+", " ", "".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text)
    ).strip()
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]|#])", r"\\\1", text)
    # what would start a list or a quotation; within words an underscore is harmless, and reads better
    return re.sub(r"(?<=\w)\\_(?=\w)", "_", text)


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {plain_line(block.text)}"
    if isinstance(block, Text):
        line = plain_line(block.text)
        return f"**{line}**" if block.tone == "lead" else line
    if isinstance(block, Items):
        return "\n".join(f"- {plain_line(item)}" for item in block.items)
    if isinstance(block, Picture):
        return f"![{block.name}]({block.name}.png)\n\n{plain_line(block.caption)}"
    return _table(block)


def _table(table: Table) -> str:
    heads = [plain_line(head) for head in table.head]
    if len(table.groups) > 2:  # Markdown has one line of heads
        owners = [name for name, width in table.groups for _ in range(width)]
        heads = [f"{plain_line(o)}<br>{h}" if o else h for o, h in zip(owners, heads, strict=True)]
    elif table.groups:
        name = plain_line(table.groups[-1][0])
        heads[0] = f"{name}<br>{heads[0]}"
    rule = ["---" if i < table.left else "---:" for i in range(len(heads))]
    lines = [heads, rule, *([_cell(cell) for cell in row] for row in table.rows)]
    whole = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{plain_line(table.title)}:\n\n{whole}" if table.title else whole


def _cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return plain_line(cell)
    text = plain_line(cell.text)
    if text and cell.tone in _MARK:
        text = _MARK[cell.tone].format(text)
    return "<br>".join([text, *(f"<sub>{plain_line(note)}</sub>" for note in cell.notes)])
