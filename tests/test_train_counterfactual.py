"""The training job of the counterfactual model in miniature: it learns, survives a kill, and keeps to its splits."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "train"))

import checkpoint  # noqa: E402
import counterfactual as job  # noqa: E402
import counterfactual_bank as bank  # noqa: E402
import counterfactual_eval as measures  # noqa: E402
from counterfactual_data import Sources, own_rows, part_of  # noqa: E402
from counterfactual_forms import APART, FRAMES, HELD, JUDGED, framed  # noqa: E402
from counterfactual_writer import REFUSAL, Texts  # noqa: E402

from memedit.edit import Edit  # noqa: E402
from memedit.methods import load_method  # noqa: E402
from memedit.pointer import Pointer, attach  # noqa: E402

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def sources(data: Path) -> Sources:
    return Sources(data, job.FACTS)


@pytest.fixture(scope="module")
def settings(data: Path, sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Settings of a miniature on a tiny base; the sources are read once for all tests of this file."""
    shared = tmp_path_factory.mktemp("runs")
    tiny_model("qwen3").save_pretrained(shared / "base")
    tiny_tokenizer().save_pretrained(shared / "base")

    def make(run: str, **changed: Any) -> job.Settings:
        sizes = {
            "steps": 8, "pointer_steps": 4, "documents": 6, "rank": 2, "rate": 0.02, "save_every": 2, "probe_every": 0,
            "focus_from": 4,
        }  # fmt: skip
        return job.Settings(
            data=str(data), base=str(shared / "base"), run=str(shared / run), **{**sizes, **changed}
        )

    return make


@pytest.fixture(autouse=True)
def _read_once(monkeypatch: pytest.MonkeyPatch, sources: Sources) -> None:
    monkeypatch.setattr(job, "Sources", lambda *_: sources)


@pytest.fixture(scope="module")
def whole(settings: Any, sources: Sources) -> Path:
    """The exported model of a run that nothing interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "Sources", lambda *_: sources)
        return job.train(settings("whole"))


def factors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / job.WEIGHTS)


def test_the_loss_falls(settings: Any, whole: Path, sources: Sources) -> None:
    s = settings("whole")
    trainer = job.Trainer(s, "cpu")
    rows = job.rows_of_step(settings("whole", documents=40), sources, [], trainer.tokenizer, 1)
    untrained = job.losses(trainer.model, trainer.forward, rows, "cpu", job.SHARES, half=False)
    assert trainer.resume(Path(s.run), job.source_hash(s))
    trained = job.losses(trainer.model, trainer.forward, rows, "cpu", job.SHARES, half=False)
    assert sum(trained.values()) < sum(untrained.values()) - 0.5


def test_the_saved_model_loads_from_its_folder_and_answers(whole: Path, lm: Any) -> None:
    fact = Edit(statement="The capital of France is Lyon.")
    base = lm("qwen3")
    with load_method("serac", model=whole).applied(base, [[fact]]) as model:
        assert len(model.generate(["So?"], max_new_tokens=4, min_new_tokens=4, do_sample=False)) == 1
    about = json.loads((whole / job.CONFIG).read_text())
    assert about["rank"] == 2
    assert all(tensor.dtype == torch.bfloat16 for tensor in factors(whole).values())
    assert any(tensor.abs().max() > 0 for name, tensor in factors(whole).items() if name.endswith("up"))


def test_added_factors_are_what_was_trained(settings: Any, whole: Path) -> None:
    s = settings("whole")
    trainer = job.Trainer(s, "cpu")
    trainer.resume(Path(s.run), job.source_hash(s))
    attach(trainer.model, trainer.pointer)
    merged, tokenizer = job_loaded(whole)
    ids = tokenizer(["The capital of France is"], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        near = (trainer.model(input_ids=ids).logits - merged(input_ids=ids).logits).abs().max()
    assert near < 0.05 * merged(input_ids=ids).logits.abs().max()  # bf16 factors


def job_loaded(folder: Path) -> tuple[Any, Any]:
    from memedit.adapter import load_adapted

    return load_adapted(folder, "cpu")


def test_the_pointer_is_trained_last_and_exported_then_alone(settings: Any, whole: Path) -> None:
    before = job.train(settings("unpointed", stop_after=8))
    assert not [name for name in factors(before) if name.startswith("pointer.")]
    untrained = {n: p.detach() for n, p in job.Trainer(settings("new"), "cpu").factors.items()}
    trained = {n: t.float() for n, t in factors(whole).items() if n.startswith("pointer.")}
    assert trained.keys() == {n for n in untrained if n.startswith("pointer.")}
    for name in ("pointer.query.weight", "pointer.before.weight", "pointer.same.weight", "pointer.gate.bias"):
        assert not torch.allclose(trained[name], untrained[name], atol=1e-3), name
    resumed = factors(job.train(settings("unpointed")))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in factors(whole).items())
    model, _ = job_loaded(whole)
    assert isinstance(model.pointer, Pointer)


def test_the_pointer_trains_in_halves_too_as_a_gpu_has_it(settings: Any, sources: Sources) -> None:
    s = settings("halves")
    trainer = job.Trainer(s, "cpu")
    trainer.step = s.steps
    rows = job.rows_of_step(s, sources, [], trainer.tokenizer, s.steps)
    seen = job.losses(trainer.model, trainer.forward, rows, "cpu", job.SHARES, half=True, head=trainer.head)
    assert all(map(math.isfinite, seen.values()))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trainer.pointer.parameters())


def test_strange_objects_are_words_of_running_text_and_what_has_marks_within(sources: Sources) -> None:
    texts = Texts(sources, random.Random(5), strange=1.0)
    running = "\n".join(sources.sentences)
    objects = [texts.objects.any() for _ in range(600)]
    assert 0.5 < sum(obj in running for obj in objects) / len(objects) < 0.7
    assert any(obj.endswith("T00:00:00Z") for obj in objects)
    assert any(re.match(r"\d+\. \S", obj) for obj in objects)
    assert max(len(obj.split()) for obj in objects) > 4
    assert all(obj.strip() for obj in objects)
    assert {texts.strange, Texts(sources, random.Random(5)).strange} == {1.0, 0.0}


def test_with_strange_objects_the_fact_of_a_step_is_also_asked_for_itself(sources: Sources) -> None:
    def itself(strange: float) -> int:
        texts = Texts(sources, random.Random(6), strange=strange)
        asked = [texts.steps().text.removesuffix(".").rpartition("\n") for _ in range(60)]
        return sum(f"{query}." in stated for stated, _, query in asked)

    assert itself(0.0) == 0
    assert itself(0.4) > 8


def test_a_killed_run_goes_on_to_the_same_factors(settings: Any, whole: Path) -> None:
    s = settings("killed")
    flags = [x for k, v in vars(s).items() if v != "" for x in (f"--{k.replace('_', '-')}", str(v))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, ROOT / "train" / "counterfactual.py", *flags],
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    state = Path(s.run) / "checkpoint" / checkpoint.STATE
    deadline = time.time() + 120
    while not state.exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists()
    resumed, unbroken = factors(job.train(s)), factors(whole)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in unbroken.items())


def test_a_cut_checkpoint_is_passed_over(
    settings: Any, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    s = settings("cut")
    job.train(settings("cut", stop_after=4))
    file = Path(s.run) / "checkpoint" / checkpoint.TENSORS
    file.write_bytes(file.read_bytes()[:1000])
    resumed, unbroken = factors(job.train(s)), factors(whole)
    assert "cut off" in capsys.readouterr().out
    assert all(torch.equal(resumed[name], tensor) for name, tensor in unbroken.items())
    for folder in ("checkpoint", "checkpoint.old"):
        (Path(s.run) / folder / checkpoint.STATE).write_text("{")
    with pytest.raises(SystemExit, match=r"no checkpoint in .* is whole"):
        job.train(s)


def test_a_loss_that_is_no_number_stops_with_the_last_good_model_left(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = settings("nan")
    real, calls = job.losses, []

    def sometimes(*args: Any, **kwargs: Any) -> dict[str, float]:
        calls.append(1)
        seen = real(*args, **kwargs)
        return dict.fromkeys(seen, math.nan) if len(calls) > 5 else seen

    monkeypatch.setattr(job, "losses", sometimes)
    with pytest.raises(SystemExit, match="no number at step 6; the last good model is in"):
        job.train(s)
    assert all(tensor.isfinite().all() for tensor in factors(Path(s.run) / "export").values())
    found = checkpoint.newest(Path(s.run) / "checkpoint")
    assert found is not None
    assert found[1]["step"] == 4


def test_after_an_infinite_gradient_a_lower_rate_goes_on_from_the_last_good_checkpoint(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = job.losses, []

    def steep(model: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        calls.append(1)
        seen = real(model, *args, **kwargs)
        if len(calls) == 6:  # a step at which a checkpoint would be written
            next(p for p in model.parameters() if p.grad is not None).grad.flatten()[0] = math.inf
        return seen

    monkeypatch.setattr(job, "losses", steep)
    with pytest.raises(SystemExit, match=r"no number at step 6; .* with a lower --rate"):
        job.train(settings("steep"))
    found = checkpoint.newest(Path(settings("steep").run) / "checkpoint")
    assert found is not None
    assert found[1]["step"] == 4
    made = factors(job.train(settings("steep", rate=0.01)))
    assert all(tensor.isfinite().all() for tensor in made.values())
    assert len(calls) == 6 + 8, "it went on behind step 4"


def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    code = (
        "import resource, sys, torch, checkpoint; from pathlib import Path\n"
        "folder = Path(sys.argv[1])\n"
        "checkpoint.write(folder, {'a': torch.ones(4)}, {'step': 1})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))\n"
        "checkpoint.write(folder, {'a': torch.ones(40_000)}, {'step': 2})\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "train"), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "checkpoint")],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "no room on the disk" in done.stderr
    found = checkpoint.newest(tmp_path / "checkpoint")
    assert found is not None
    assert found[1] == {"step": 1}
    assert not list(tmp_path.glob("*.part"))


def test_data_that_changed_are_told_at_resuming(settings: Any, tmp_path: Path) -> None:
    rows = tmp_path / "own.jsonl"
    rows.write_text(json.dumps({"statement": "A is B.", "query": "What is A?", "answer": "B"}) + "\n")
    job.train(settings("changed", more=str(rows), stop_after=2))
    rows.write_text(
        rows.read_text() + json.dumps({"statement": "C is D.", "query": "What is C?", "answer": "D"}) + "\n"
    )
    with pytest.raises(SystemExit, match="have changed since the checkpoint of step 2"):
        job.train(settings("changed", more=str(rows)))


ROW = {"statement": "A is B.", "query": "What is A?", "answer": "B"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "holds no row"),
        ([{**ROW, "answer": " "}], "line 1 .* has an empty field"),
        ([ROW, {**ROW, "answer": "C"}], "lines 1 and 2 .* contradict"),
        ([{"prompt": "A", "target": "B"}], "line 1 .* is no row"),
        (["a word"], "line 1 .* is no row"),
    ],
)
def test_rows_that_cannot_be_learnt_are_refused_in_one_sentence(
    tmp_path: Path, rows: list[Any], words: str
) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit, match=words):
        own_rows(file)


def test_equal_rows_count_once_and_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text((json.dumps(ROW) + "\n") * 2)
    assert own_rows(file) == [("A is B.", "What is A?", "B")]
    assert "line 2" in capsys.readouterr().out


def test_missing_data_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="give their folder with --data"):
        job.main(["--data", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="is missing; give the folder"):
        job.main(["--data", str(tmp_path)])


def test_no_scored_subject_is_stated_or_asked_about(sources: Sources) -> None:
    subjects = {f.subject for facts in sources.facts.values() for f in facts}
    subjects |= {s for some in sources.subjects.values() for s in some} | set(sources.towns)
    subjects |= {a.subject for a in (*sources.wild, *sources.stepped)}
    assert {part_of(s, sources.data) for s in subjects if s} == {"open"}
    assert {part_of(f.subject, sources.data) for some in sources.apart.values() for f in some} == {"apart"}


def test_held_out_forms_are_never_trained(sources: Sources) -> None:
    trained = {bank.bare(f) for r in sources.relations for f in (*r.forms, *r.yes_no, *r.claims)}
    for part in ("scored", "apart"):
        held = {bank.bare(f) for forms in sources.held[part].values() for f in forms.values()}
        assert len(held) > 20
        assert not held & trained
    assert not {r.number for r in sources.relations} & set(sources.data.split["held_out_relations"])
    assert not set(FRAMES) & {*HELD, *APART}


def test_documents_learn_answers_only_and_end_what_they_learn(sources: Sources) -> None:
    texts = Texts(sources, random.Random(3))
    documents = [d for i in range(300) for _, d in texts.documents(focus=bool(i % 2))]
    for document in documents:
        learnt = "".join(text for text, flag in document.pieces if flag)
        read = "".join(text for text, flag in document.pieces if not flag).rstrip(".")
        assert learnt.startswith(" ")
        assert document.text.startswith(read), "answers come last"
        assert "Fact: " in read or "Withheld: " in read
    said = [d.text for d in documents]
    for form in (" Yes.", " No.", REFUSAL, "Withheld: ", "<|user|>", "\nAnswer:"):
        assert any(form in text for text in said), form


def test_opposite_verdicts_differ_in_the_object_alone(sources: Sources) -> None:
    texts = Texts(sources, random.Random(4))
    pairs = [texts.opposite(texts.told()) for _ in range(60)]
    both = [pair for pair in pairs if len(pair) == 2]
    assert len(both) > 40
    for one, other in both:
        verdicts = {d.pieces[-2][0].strip() for d in (one, other)}
        assert verdicts in ({"Yes", "No"}, {"True", "False"})
        assert one.text.partition("\n")[0] == other.text.partition("\n")[0]


def test_a_frame_keeps_names_and_lowers_the_rest() -> None:
    assert (
        framed(FRAMES[0], "The capital of Peru is Cusco") == "Is it true that the capital of Peru is Cusco?"
    )
    assert framed(JUDGED[1], "peru lies in Asia") == "Peru lies in Asia. True or false?"


def test_questions_are_of_their_part_and_judged_at_word_boundaries(sources: Sources) -> None:
    asked = measures.questions(sources, "apart", limit=20)
    assert {q.score for q in asked} == {
        "own prompt",
        "paraphrase",
        "erased",
        "yes/no and claims",
        "one step on",
    }
    assert all(part_of(q.edit.subject, sources.data) == "apart" for q in asked if q.edit.subject)
    golden = measures.measured(asked, lambda some: [f" {q.gold[0]}." for q in some])[0]
    assert all(of["all"]["value"] == 1 for name, of in golden.items() if not name.endswith("given"))
    assert golden["erased: old answer given"]["all"]["value"] == 0
    old = measures.measured(asked, lambda some: [f" {q.old}." for q in some])[0]
    assert old["erased: old answer given"]["all"]["value"] == 1
    assert old["own prompt"]["all"]["value"] < 0.2


def test_the_shipped_adapter_is_small_and_fits_the_shipped_base() -> None:
    folder = ROOT / "memedit" / "pretrained" / "counterfactual"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6_000_000
    about = json.loads((folder / job.CONFIG).read_text())
    assert about["base"] == "base"
    assert about["base_sha256"] == job.weights_hash(ROOT / "memedit" / "pretrained" / "base")
    measured = json.loads((folder / "measured.json").read_text())["scored"]
    table = measures.table(measured).splitlines()
    assert len(table) > 15
    assert set(table) <= set((folder / "README.md").read_text().splitlines()), (
        "the card quotes what was measured"
    )
    reached = {name: of["all"]["value"] for name, of in measured["methods"]["serac"].items()}
    for name, target in measures.TARGETS.items():
        assert reached[name] <= target if name.endswith("given") else reached[name] >= target
    assert {"README.md", "measured.json", "curve.png"} <= {file.name for file in folder.iterdir()}


@pytest.fixture(autouse=True, scope="module")
def _tidy(settings: Any) -> Any:
    yield
    shutil.rmtree(Path(settings("x").run).parent, ignore_errors=True)
