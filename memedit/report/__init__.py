"""Reports of `memedit eval`: one run as Markdown and a page, two runs beside each other.

reading.py   the run file, checked          picking.py   which run and score stand for a method
content.py   what a report says             suites.py    the suites' own tables
units.py     a score's unit and direction   published.py the paper's numbers
figures.py   the figures                    markdown.py, page.py   the two ways to write it
compare.py   two runs, point by point       folder.py    all files or none
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memedit.report.compare import Comparison, compare, write_comparison
from memedit.report.folder import check_folder, write_files
from memedit.report.reading import RunFile, read_run

__all__ = ["Comparison", "RunFile", "check_folder", "compare", "read_run", "write_comparison", "write_report"]


def write_report(run: Mapping[str, Any] | Path, folder: Path) -> list[Path]:
    """Write report.md, report.html, scores.csv and the figures of a run into a folder.

    Args:
        run: the run as `memedit eval` holds it, or its file. folder: made where there is none; its parent must be there.

    Returns:
        The files, report.html first.

    Raises:
        DataError: it is no run file, holds no answer, or the folder can't be written; then nothing is.
    """
    from memedit.report import content, figures
    from memedit.report.markdown import markdown
    from memedit.report.page import page

    check_folder(folder)
    file = read_run(run)
    drawn = figures.draw(file.runs)
    blocks = content.blocks(file, list(drawn))
    inline = {name: figures.inline(one.svg, name, content.CAPTIONS[name]) for name, one in drawn.items()}
    files: dict[str, str | bytes] = {
        "report.html": page(blocks, inline, file.runs),
        "report.md": markdown(blocks),
    }
    files["scores.csv"] = content.scores_csv(file)
    for name, one in drawn.items():
        files |= {f"{name}.png": one.png, f"{name}.svg": one.svg}
    return write_files(folder, files)
