"""The scope classifier's whole job in miniature: it runs, goes on after a stop, and what it writes is loaded and used."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_scope import PEOPLE, example, written

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "train"))

pytest.importorskip("sklearn", reason="training needs the extra `train`")

import scope as job  # noqa: E402
import scope_card  # noqa: E402
from scope_data import Data  # noqa: E402

from memedit.edit import Edit  # noqa: E402
from memedit.errors import DataError  # noqa: E402
from memedit.scope import SHIPPED, ScopeClassifier  # noqa: E402
from memedit.training.examples import sha256  # noqa: E402
from memedit.training.progress import Progress  # noqa: E402

pytestmark = pytest.mark.data


def test_the_whole_job_in_miniature(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = written(tmp_path / "mine.jsonl", [example(n) for n in range(len(PEOPLE))])
    s = job.Settings(
        data=data, more=(str(mine),), out=tmp_path / "out", work=tmp_path / "work", limit=8,
        rounds=1, pairs=160, settled=64, batch=16,
        sizes=(1, 10), queries=40, ground=200, trees=10, leaves=4,
    )  # fmt: skip
    gather, read = job.gather, []

    def once(public: Data, settings: job.Settings) -> Any:  # the same each time, and slow
        if not read:
            read.append((gather(public, settings), public.digests))
        public.digests |= read[0][1]
        return read[0][0]

    monkeypatch.setattr(job, "gather", once)

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "settling", cut)
        with pytest.raises(KeyboardInterrupt):
            job.train(s)
    put, before = job.put, mine.read_text()

    def changed(*made: Any) -> None:
        mine.write_text(before + "\n")
        with pytest.raises(DataError, match=r"mine.jsonl has changed since .* another --work"):
            put(*made)
        assert not (s.out / "scope.json").exists()
        mine.write_text(before)
        put(*made)

    with monkeypatch.context() as patch:
        patch.setattr(job, "put", changed)
        job.train(s)  # the pair model's first rounds are done: it goes on behind them

    unbroken = replace(s, out=tmp_path / "out2", work=tmp_path / "work2")
    job.train(unbroken)
    for name in ("pair.safetensors", "combiner.safetensors", "scope.json"):
        assert (s.out / name).read_bytes() == (unbroken.out / name).read_bytes(), name
    card = (s.out / "README.md").read_text()
    for words in (sha256(mine), sha256(data / "splits.json"), "- pairs: 160", "](losses.svg)", "| direct |",
                  "| all relations |", f"memedit eval scope --classifier {s.out}"):  # fmt: skip
        assert words in card, words
    (s.out / "README.md").write_text("by hand")
    assert scope_card.put(s.out, f"{scope_card.MARK} of another run").name == "training.md"

    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        if not (s.out / name).exists():
            (s.out / name).symlink_to(SHIPPED / name)
    made = ScopeClassifier.load(s.out)
    edit = Edit(prompt="The capital of France is", target="Lyon", subject="France")
    asked = ["The capital of France is", "How do I boil an egg?"]
    stored = made.encode(made.texts(edit))
    own, other = made.judge(asked, made.encode(asked), [[edit], [edit]], [stored[None], stored[None]])
    assert own[0, 0] == 1
    assert other.max() < 1
    assert (s.out / "losses.svg").read_text(encoding="utf-8").count('<g id="line2d') > 2
    about = made.settings["trained_with"]
    assert about["pairs"] == 160
    assert {"zsre/zsre_mend_train-1k.json", "train/form_paraphrases.jsonl"} <= set(about["data"])
    assert np.isfinite([made.threshold(n) for n in (1, 10, 100)]).all()
