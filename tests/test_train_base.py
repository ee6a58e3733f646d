"""The training job of the base model in miniature: it learns, survives a kill, and keeps to its splits."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "train"))

import base as job  # noqa: E402
import base_corpus  # noqa: E402
import base_eval  # noqa: E402
import base_training  # noqa: E402
from base_data import Knowledge, is_dev  # noqa: E402
from base_eval import TARGETS  # noqa: E402
from base_writer import REFUSAL, Writer  # noqa: E402

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def knowledge(data: Path) -> Knowledge:
    return Knowledge(data, job.FACTS)


@pytest.fixture(scope="module")
def settings(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Settings of a miniature whose corpus is packed once for all tests of this file."""
    shared = tmp_path_factory.mktemp("packed")

    def make(run: str, **changed: Any) -> job.Settings:
        sizes = {
            "steps": 12,
            "rate": 0.01,
            "layers": 2,
            "width": 64,
            "inner": 96,
            "vocabulary": 512,
            "facts": 40,
        }
        rest = {"documents": 200, "wiki_characters": 60_000, "threads": 1, "compile": 0, "probe_every": 0}
        s = job.Settings(data=str(data), run=str(shared / run), save_every=4, **{**sizes, **rest, **changed})
        first = next(shared.glob("*/packed-*/done"), None)
        if first and not Path(s.run).exists():
            Path(s.run).mkdir()
            (Path(s.run) / first.parent.name).symlink_to(first.parent)
        return s

    return make


@pytest.fixture(scope="module")
def whole(settings: Any) -> Path:
    """The exported model of a run that nothing interrupted."""
    return job.train(settings("whole"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())


def test_the_loss_falls(settings: Any, whole: Path) -> None:
    s = settings("whole")
    packed, _ = job.pack(s)
    stream = job.Stream(s, packed)
    trainer = job.Trainer(s, packed, "cpu")
    rows = stream.step(1)
    untrained = base_training.losses(trainer.model, trainer.forward, rows, "cpu")
    trainer.resume(job.checkpoint_of(Path(s.run)))
    trained = base_training.losses(trainer.model, trainer.forward, rows, "cpu")
    assert trained["facts"] < untrained["facts"] - 0.5
    assert trained["follow"] < untrained["follow"] - 0.5


def test_several_processes_are_one(settings: Any, whole: Path) -> None:
    """Two processes that share each step end where one alone does."""
    s = settings("shared")
    flags = [x for k, v in vars(s).items() if v != "" for x in (f"--{k.replace('_', '-')}", str(v))]
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    more = ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = subprocess.run(
        [sys.executable, *launch, *more, ROOT / "train" / "base.py", *flags], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    shared, alone = weights(Path(s.run) / "export"), weights(whole)
    assert all(torch.allclose(shared[n].float(), alone[n].float(), atol=0.02) for n in alone)


def test_a_loss_that_is_no_number_stops_the_run(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    s = settings("no-number", steps=8)
    taken = base_training.losses

    def broken(*args: Any, **more: Any) -> dict[str, float]:
        seen = taken(*args, **more)
        return {**seen, "facts": float("nan")} if broken.calls == 6 else seen  # type: ignore[attr-defined]

    def counted(*args: Any, **more: Any) -> dict[str, float]:
        broken.calls += 1  # type: ignore[attr-defined]
        return broken(*args, **more)

    broken.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(base_training, "losses", counted)
    _stops_at_step_six_with_the_checkpoint_of_step_four(s)


def _stops_at_step_six_with_the_checkpoint_of_step_four(s: Any) -> None:
    with pytest.raises(SystemExit, match="no number at step 6"):
        job.train(s)
    checkpoint = job.checkpoint_of(Path(s.run))
    assert checkpoint
    assert json.loads((checkpoint / "state.json").read_text())["step"] == 4


def test_an_infinite_gradient_under_a_finite_loss_stops_the_run_too(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = settings("steep", steps=8)
    taken, calls = base_training.losses, []

    def steep(model: Any, *args: Any, **more: Any) -> dict[str, float]:
        calls.append(1)
        seen = taken(model, *args, **more)
        if len(calls) == 6:  # a step at which a checkpoint would be written
            next(model.parameters()).grad.flatten()[0] = float("inf")
        return seen

    monkeypatch.setattr(base_training, "losses", steep)
    _stops_at_step_six_with_the_checkpoint_of_step_four(s)


def test_the_export_loads_and_generates(whole: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(whole)
    tokenizer = AutoTokenizer.from_pretrained(whole)
    assert next(model.parameters()).dtype == torch.bfloat16
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    inputs = tokenizer(["The capital of France is", "Lyon"], return_tensors="pt", padding=True)
    assert inputs["attention_mask"][1, 0] == 0, "prompts are padded on the left"
    ids = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert ids.shape[1] == inputs["input_ids"].shape[1] + 3


def test_padding_does_not_change_an_answer(whole: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(whole)
    alone = tokenizer(["Lyon is in"], return_tensors="pt")
    beside = tokenizer(
        ["Lyon is in", "The mother tongue of Danielle Darrieux is"], return_tensors="pt", padding=True
    )
    with torch.no_grad():
        one = model.generate(**alone, max_new_tokens=5, do_sample=False)
        two = model.generate(**beside, max_new_tokens=5, do_sample=False)
    assert one[0, -5:].tolist() == two[0, -5:].tolist()


@pytest.mark.parametrize(
    "prompt", ["Toko Yasuda, the", "What is it?", " spaced", "\nnew line", "Zürich's 1st", "<|user|>\nHi"]
)
def test_a_stated_fact_spliced_as_ids_reads_as_one_text(whole: Path, prompt: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(whole)
    for stated in ("Fact: The capital of France is Lyon.\n", "Fact: a b.\nFact: c d?\n", "\n"):
        spliced = tokenizer(stated)["input_ids"] + tokenizer(prompt)["input_ids"]
        assert spliced == tokenizer(stated + prompt)["input_ids"]
    assert tokenizer.decode(tokenizer(prompt)["input_ids"]) == prompt


def test_the_chat_template(whole: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(whole)
    turns = [{"role": "user", "content": "Who?"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|>Who?\nAnswer:"
    turns.append({"role": "assistant", "content": "Ann."})
    assert tokenizer.apply_chat_template(turns, tokenize=False) == text + " Ann.\n\n"


def test_a_killed_run_goes_on_to_the_same_weights(settings: Any, whole: Path) -> None:
    s = settings("killed", steps=12)
    flags = [x for k, v in vars(s).items() if v != "" for x in (f"--{k.replace('_', '-')}", str(v))]
    process = subprocess.Popen(
        [sys.executable, ROOT / "train" / "base.py", *flags], stderr=subprocess.DEVNULL
    )
    deadline = time.time() + 60
    while not job.checkpoint_of(Path(s.run)) and process.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    checkpoint = job.checkpoint_of(Path(s.run))
    assert checkpoint is not None
    assert json.loads((checkpoint / "state.json").read_text())["step"] >= 4
    resumed, unbroken = weights(job.train(s)), weights(whole)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in unbroken.items())


def test_a_resumed_run_refuses_another_corpus(settings: Any, whole: Path) -> None:
    s = settings("moved")
    job.train(settings("moved", stop_after=4))
    state = Path(s.run) / "checkpoint" / "state.json"
    said = json.loads(state.read_text())
    state.write_text(json.dumps({**said, "packed": "packed-gone"}))
    with pytest.raises(SystemExit, match="packed-gone"):
        job.train(s)


def test_a_step_reads_the_same_documents_again(settings: Any, whole: Path) -> None:
    s = settings("whole")
    packed, _ = job.pack(s)
    once, again = job.Stream(s, packed), job.Stream(s, packed)
    again.step(3)  # what was read before makes no difference
    for (kind, ids, _), (other, same, _) in zip(once.step(7), again.step(7), strict=True):
        assert kind == other
        assert np.array_equal(ids, same)


def test_groups_hold_every_row_once_with_little_padding(settings: Any, whole: Path) -> None:
    s = settings("whole")
    rows = job.Stream(s, job.pack(s)[0]).step(8)
    groups = base_corpus.by_length(rows)
    assert sorted(id(r[1]) for g in groups for r in g) == sorted(id(r[1]) for r in rows)
    padded = sum(len(g) * max(len(r[1]) for r in g) for g in groups)
    assert padded < 1.3 * sum(len(r[1]) for r in rows)


def test_no_document_states_anything_of_a_dev_subject(knowledge: Knowledge) -> None:
    writer = Writer(knowledge, random.Random(5))
    for _ in range(1500):
        stated = writer.stated()
        fact = writer.rng.choice(writer.open_facts)
        about = [stated, writer._twin(stated)] + [s for s in [writer._beside(fact)] if s]
        assert all(knowledge.is_open(s.subject) for s in about if s.subject in writer.by_subject)
    assert not any(is_dev(f.subject) for f in writer.open_facts)
    assert not any(is_dev(subject) for _, _, subject in knowledge.wild)


def test_no_dev_subject_of_counterfact_is_named_beside_a_statement(knowledge: Knowledge) -> None:
    rows = json.loads((knowledge.data / "counterfact/counterfact-val.json").read_text())
    objects = set(knowledge.any_object)
    names = {r["subject"] for r in rows if " " in r["subject"] and len(r["subject"]) > 8} - objects
    writer = Writer(knowledge, random.Random(6))
    longer = "\n".join([f.subject for f in writer.open_facts] + [first for first, _, _ in knowledge.wild])
    names = {n for n in names if n not in longer}  # Muhammad Ali is no Muhammad Ali Jinnah
    text = "\n".join(
        write().text for _ in range(500) for write in (writer.override, writer.ignore, writer.form)
    )
    assert not [n for n in names if n in text]


def test_one_pattern_of_each_relation_is_never_trained(knowledge: Knowledge) -> None:
    assert len(knowledge.held_out) >= 20
    for relation, held in knowledge.held_out.items():
        assert held not in knowledge.forms(relation)
        assert len(knowledge.trained[relation]) >= 2


def test_the_list_of_facts(knowledge: Knowledge) -> None:
    assert len(knowledge.facts) == 8000
    assert len({(f.relation, f.subject) for f in knowledge.facts}) == 8000, "one object for each question"
    named = {(f.relation, f.subject): f.obj for f in knowledge.facts}
    assert named["P36", "France"] == "Paris"
    assert not {f.relation for f in knowledge.facts} - set(knowledge.trained)


def test_the_forms_that_are_used_later(knowledge: Knowledge) -> None:
    writer = Writer(knowledge, random.Random(7))
    texts = [writer.form().text for _ in range(400)]
    for form in (
        "New Fact: ",
        "\nPrompt: ",
        "<|assistant|> ",
        "Withheld: ",
        REFUSAL,
        " Yes.",
        " No.",
        "\nAnswer:",
    ):
        assert any(form in text for text in texts), form
    for _ in range(100):
        document = writer.override()
        asked, answer = document.pieces[-2:]
        assert not asked[1]
        assert answer[1], "the loss is on answers only"
        assert answer[0].strip(" .").lower() in document.pieces[0][0].lower()


def test_the_cards_measured_numbers_reach_its_targets() -> None:
    folder = ROOT / "memedit" / "pretrained" / "base"
    measured = json.loads((folder / "measured.json").read_text())
    card = (folder / "README.md").read_text()
    for name, target in TARGETS.items():
        line = next(line for line in card.splitlines() if line.startswith(f"| {name} |"))
        assert f"≥ {100 * target:.0f} %" in line
        assert measured[name]["value"] >= target


def test_an_answer_counts_at_a_word_boundary() -> None:
    assert base_eval._normal("The Lyon, a city!") == "lyon city"
    assert base_eval.starts("Paris.", "Paris")
    assert base_eval.starts(" the United States of America", "United States")
    assert not base_eval.starts("Parisian", "Paris")
