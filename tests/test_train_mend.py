"""The training job of MEND's editor in miniature: it learns, survives a kill, and keeps to its splits."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "train"))

import mend as job  # noqa: E402
from counterfactual_data import part_of  # noqa: E402
from mend_data import Sources, Text  # noqa: E402

from memedit.edit import Edit  # noqa: E402
from memedit.lm import HFModel  # noqa: E402
from memedit.methods import load_method  # noqa: E402
from memedit.methods._hypernetwork import Editor  # noqa: E402

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def sources(data: Path) -> Sources:
    return Sources(data, job.FACTS)


@pytest.fixture(scope="module")
def settings(data: Path, sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Settings of a miniature on a tiny base; the sources are read once for all tests of this file."""
    shared = tmp_path_factory.mktemp("runs")
    tiny_model("llama").save_pretrained(shared / "base")
    tiny_tokenizer().save_pretrained(shared / "base")

    def make(run: str, **changed: Any) -> job.Settings:
        sizes = {"steps": 6, "edits": 2, "layers": 1, "rank": 2, "save_every": 2, "probe_every": 0}
        where = {"base": str(shared / "base"), "data": str(data), "run": str(shared / run)}
        return job.Settings(**{**where, **sizes, **changed})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "Sources", lambda *_: sources)
        yield make


def test_nothing_that_is_scored_is_trained(sources):
    rng = random.Random(0)
    left_out = set(sources.data.split["held_out_relations"])
    scored = set(sources.scored.values()) | set(sources.apart.values())
    assert not left_out & set(sources.forms)
    assert not scored & {form for forms in sources.forms.values() for form in forms}
    subjects = {f.subject for some in sources.facts["scored"].values() for f in some}
    subjects |= {f.subject for some in sources.facts["apart"].values() for f in some}
    assert len(subjects) > 1000
    assert all(part_of(f.subject, sources.data) == "open" for f in (*sources.more, *sources.taught))
    assert all(part_of(s, sources.data) == "open" for _, s, *_ in sources.stated)
    asked = {prompt for _ in range(300) for prompt in sources.example(rng, 3, 2).asked}
    for relation, form in (*sources.scored.items(), *sources.apart.items()):
        known = [f.subject for f in sources.facts["open"].get(relation, ())]
        assert not {form.replace("[X]", subject) for subject in known} & asked


def test_probes_and_development_edits_are_of_subjects_kept_apart(sources):
    for row in sources.edits(20):
        assert part_of(row["subject"], sources.data) == "apart"
        assert row["old"] != row["target"]
        assert row["paraphrases"] != [row["prompt"]]
    wordings = [re.escape(w).replace(r"\[X\]", ".+") for w in sources.apart.values()]
    assert all(any(re.fullmatch(w, e.asked[1]) for w in wordings) for e in sources.probes(5))


def test_a_killed_run_goes_on_to_the_same_editor(settings):
    whole = Editor.load(job.train(settings("whole")))
    cut = settings("cut", stop_after=3, save_every=1)
    job.train(cut)
    resumed = Editor.load(job.train(settings("cut", save_every=1)))
    for (name, one), (_, other) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6), name


def test_a_checkpoint_of_other_settings_is_refused(settings):
    job.train(settings("other", steps=1))
    with pytest.raises(SystemExit, match="base or settings have changed"):
        job.train(settings("other", steps=2, rank=3))


def test_the_editor_learns_and_serves_its_base(settings, tmp_path):
    s = settings(
        "learns", steps=60, edits=4, rate=3e-3, rate_alpha=3e-3, c_e=1.0, out=str(tmp_path / "editor")
    )
    assert job.train(s) == tmp_path / "editor"
    base = HFModel.from_pretrained(s.base)
    edit = Edit(prompt="The capital of France is", target="Lyon", subject="France")
    before = base.score([edit.prompt], [edit.target])[0].logprob
    with load_method("mend", editor=s.out).applied(base, [[edit]]) as model:
        assert model.score([edit.prompt], [edit.target])[0].logprob > before + 1


def test_losses_are_of_the_edited_weights(settings, sources):
    trainer = job.Trainer(settings("losses"))
    with torch.no_grad():
        trainer.job.editor.alpha.fill_(0.0)
    examples = [sources.example(random.Random(i), 2, 2) for i in range(2)]
    edit, local, _ = trainer.job.losses(examples)
    assert float(local) == pytest.approx(0.0, abs=1e-6)
    base = trainer.job.base
    scores = base.score([p for e in examples for p in e.asked], [e.target for e in examples for _ in e.asked])
    assert float(edit) == pytest.approx(
        sum(-s.logprob / len(s.agreed) for s in scores) / len(scores), rel=1e-3
    )
    with torch.no_grad():
        trainer.job.editor.alpha.fill_(0.5)
    changed, local, _ = trainer.job.losses(examples)
    assert float(local) > 1e-4
    assert float(changed) < float(edit)


def test_all_of_a_sentence_counts_and_of_an_answer_its_own_tokens():
    base = HFModel(tiny_model("llama"), tiny_tokenizer())
    text = Text("One two three")
    length = len(base.tokenizer(text.prompt)["input_ids"])
    batch = job.batch_of(base, [(text.prompt, ""), ("One two", "three")])
    assert batch.gold.sum(1).tolist() == [length - 2, len(base.target_ids("One two", "three"))]
