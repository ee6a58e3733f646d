"""docs/generate.md, run block by block: what the page says is what happens."""

from __future__ import annotations

import doctest
import re

from conftest import ROOT


def test_every_block_of_the_page_does_what_it_says(tmp_path):
    page = (ROOT / "docs" / "generate.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    globs = {"folder": str(tmp_path / "memory")}
    flags = doctest.ELLIPSIS
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), globs, "generate.md", "docs/generate.md", 0)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=flags, verbose=False)
    result = runner.run(test, out=said.append, clear_globs=False)
    assert result.failed == 0, "".join(said)
