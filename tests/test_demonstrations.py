"""The demonstrations' own store: read from files, built whole or not at all, and the commands around it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from memory_fixtures import TrigramEncoder

from memedit.cli import main
from memedit.cli.demos import demos
from memedit.data import Demonstration, read_demonstrations
from memedit.demonstrations import FILE, SHIPPED, DemonstrationStore, build, remove
from memedit.errors import DataError, EncoderMismatch, MemoryError_
from memedit.memory import EditMemory

TESTS = Path(__file__).parent
OWN = {
    "prompt": "The capital of Peru is",
    "target": "Cusco",
    "subject": "Peru",
    "paraphrases": ["What is the capital\n of Peru?"],
    "neighbours": [{"prompt": "The capital of Chile is", "answer": "Santiago"}],
}
COUNTERFACT = {
    "case_id": 1, "prompt": "Toko, the", "target_new": "piano", "subject": "Toko", "ground_truth": "guitar",
    "rephrase_prompt": "Toko plays", "locality_prompt": "Lennon plays the", "locality_ground_truth": "guitar",
}  # fmt: skip


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def some(count: int) -> list[Demonstration]:
    return [
        Demonstration(f"Town {i} is in", f"Land {i}", f"Town {i} is in Land {i}.", f"Town {i}")
        for i in range(count)
    ]


# -- reading


def test_our_lines_and_a_public_format_are_read(tmp_path):
    (own,) = read_demonstrations(write(tmp_path / "own.jsonl", OWN)).facts
    assert own == Demonstration(
        "The capital of Peru is", "Cusco", "The capital of Peru is Cusco.", "Peru",
        ("What is the capital of Peru?",), (("The capital of Chile is", "Santiago"),),
    )  # fmt: skip
    assert Demonstration.from_dict(own.to_dict()) == own
    (public,) = read_demonstrations(write(tmp_path / "cf.jsonl", COUNTERFACT)).facts
    assert (public.paraphrases, public.neighbours) == (("Toko plays",), (("Lennon plays the", "guitar"),))


def test_what_cannot_be_shown_is_left_out_and_named(tmp_path):
    bad = {
        **OWN,
        "prompt": "The capital of Mali is",
        "subject": "Mali",
        "paraphrases": ["Prompt: say", "", "Mali's is"],
    }
    read = read_demonstrations(write(tmp_path / "f.jsonl", OWN, {"statement": "Water is dry."}, bad))
    assert [fact.subject for fact in read.facts] == ["Peru", "Mali"]
    assert read.facts[1].paraphrases == ("Mali's is",)
    assert len(read.left_out) == 3
    assert "Water is dry" in read.left_out[0]
    assert "label 'Prompt'" in read.left_out[1]


@pytest.mark.parametrize(
    "neighbour", ["Chile", 7, {"prompt": "The capital of Chile is"}, {"prompt": "a", "answer": 1}]
)
@pytest.mark.parametrize("listed", [True, False])
def test_a_neighbour_without_prompt_or_answer_is_left_out_and_named(tmp_path, neighbour, listed):
    given = [neighbour, *OWN["neighbours"]] if listed else neighbour
    read = read_demonstrations(write(tmp_path / "f.jsonl", {**OWN, "neighbours": given}))
    assert len(read.facts[0].neighbours) == listed
    assert len(read.left_out) == 1


def test_one_bad_record_does_not_cost_the_others(tmp_path):
    read = read_demonstrations(
        write(tmp_path / "f.jsonl", OWN, {**OWN, "target": ""}, OWN, COUNTERFACT | OWN)
    )
    assert len(read.facts) == 1
    assert [text.split(":")[0] for text in read.left_out] == ["line 2"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "is empty"),
        ([{"statement": "Water is dry."}], "holds no fact with a prompt and a target"),
        ([{**OWN, "target": ""}], "holds no fact .* needs a target"),
        ([{"answer": "Cusco"}], "no known format"),
    ],
)
def test_files_that_give_nothing_are_refused(tmp_path, rows, words):
    with pytest.raises(DataError, match=words):
        read_demonstrations(write(tmp_path / "f.jsonl", *rows))


# -- the store


def test_the_nearest_come_first_and_only_usable_ones(tmp_path):
    encoder = TrigramEncoder()
    build(tmp_path, some(30), encoder, source="towns")
    store = DemonstrationStore.read(tmp_path)
    assert (len(store), store.about["source"], list(store)) == (30, "towns", some(30))
    vector = encoder.encode(["Town 17 is in Land 17."])[0]
    found = store.nearest(vector, 4)
    assert found[0][1] == some(30)[17]
    assert found[0][0] == pytest.approx(1, abs=1e-5)
    assert [c for c, _ in found] == sorted((c for c, _ in found), reverse=True)
    cosines = encoder.encode([fact.statement for fact in some(30)]) @ vector
    assert [c for c, _ in found] == pytest.approx(np.sort(cosines)[:-5:-1].tolist(), abs=1e-5)
    assert some(30)[17] not in [
        f for _, f in store.nearest(vector, 30, lambda fact: fact.subject != "Town 17")
    ]
    assert store.nearest(vector, 0) == []
    assert len(store.nearest(vector, 99)) == 30


def test_a_memory_without_its_own_uses_those_that_ship(tmp_path):
    with EditMemory.open(tmp_path, encoder=TrigramEncoder()) as memory:
        store = DemonstrationStore.of(memory)
        assert store.about["source"] == "shipped"
        assert len(store) == len(store.vectors) >= 200
        build(tmp_path, some(3), memory.encoder)
        assert len(DemonstrationStore.of(memory)) == 3
        assert remove(tmp_path) is True
        assert remove(tmp_path) is False
        assert len(DemonstrationStore.of(memory)) == len(store)


def test_every_shipped_fact_can_be_built_from_and_is_of_an_invented_subject():
    read = read_demonstrations(SHIPPED)
    assert read.left_out == []
    assert [fact.to_dict() for fact in read.facts] == [
        json.loads(line) for line in SHIPPED.read_text().splitlines()
    ]
    assert all(fact.paraphrases and len(fact.neighbours) == 2 for fact in read.facts)
    assert len({fact.subject for fact in read.facts}) == len(read.facts)


def test_another_encoders_vectors_are_refused_in_one_sentence(tmp_path):
    build(tmp_path, some(3), TrigramEncoder(seed=1))
    with EditMemory.open(tmp_path / "m", encoder=TrigramEncoder()) as memory:
        (tmp_path / FILE).rename(tmp_path / "m" / FILE)
        with pytest.raises(EncoderMismatch, match="build them again with `memedit demos build FILE`"):
            DemonstrationStore.of(memory)


@pytest.mark.parametrize("damage", ["cut", "flipped", "flipped vector", "empty", "other"])
def test_a_damaged_store_is_refused_in_one_sentence(tmp_path, damage):
    build(tmp_path, some(5), TrigramEncoder())
    path = tmp_path / FILE
    data = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    if damage == "cut":
        data = data[:-9]
    elif damage == "flipped":
        data[header + (5 if data[header : header + 1] == b"{" else -1)] ^= 1
    elif damage == "flipped vector":
        data[-2] ^= 1
    else:
        data = bytearray(b"" if damage == "empty" else b"no store at all")
    path.write_bytes(data)
    with pytest.raises(MemoryError_, match="is damaged, or of another version"):
        DemonstrationStore.read(tmp_path)


def test_a_build_that_fails_leaves_the_old_store(tmp_path):
    build(tmp_path, some(3), TrigramEncoder())
    before = (tmp_path / FILE).read_bytes()

    class Fails(TrigramEncoder):
        def encode(self, texts):
            if self.encoded:
                raise KeyboardInterrupt
            return super().encode(texts)

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, some(600), Fails())
    with pytest.raises(DataError):
        build(tmp_path, [], TrigramEncoder())
    assert (tmp_path / FILE).read_bytes() == before
    assert os.listdir(tmp_path) == [FILE]


_BUILDER = """
import sys
from test_demonstrations import some
from memory_fixtures import TrigramEncoder
from memedit.demonstrations import build
print("ready", flush=True)
n = 0
while True:
    n += 1
    build(sys.argv[1], some(n % 40 + 1), TrigramEncoder(), source=str(n % 40 + 1))
"""


def test_a_build_that_is_killed_leaves_a_whole_store(tmp_path):
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    builder = subprocess.Popen(
        [sys.executable, "-c", _BUILDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert builder.stdout.readline() == b"ready\n"
    deadline = time.monotonic() + 20
    while not (tmp_path / FILE).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    builder.stdout.close()
    store = DemonstrationStore.read(tmp_path)
    assert str(len(store)) == store.about["source"]
    assert list(store) == some(len(store))


# -- the commands


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEMEDIT_MEMORY", raising=False)

    def call(*args, code=0):
        done = CliRunner().invoke(main, ["demos", *args])
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.output
        return done

    return call


def test_build_show_list_remove(run, tmp_path):
    out = run(
        "build",
        write(tmp_path / "f.jsonl", OWN, {**OWN, "prompt": "Peru is in", "neighbours": []}),
        "-m",
        "mine",
    )
    assert "from 2 facts in mine: 2 with a paraphrase, 1 with a neighbour" in out.output
    about = json.loads(run("show", "-m", "mine", "--json").output)
    assert (about["facts"], about["with_neighbours"], about["encoder_name"]) == (2, 1, "all-MiniLM-L6-v2")
    listed = json.loads(run("list", "-m", "mine", "--json").output)
    again = read_demonstrations(write(tmp_path / "again.jsonl", *listed)).facts
    assert again == list(DemonstrationStore.read(tmp_path / "mine"))
    assert "Cusco" in run("list", "-m", "mine", "--limit", "1").output
    assert "removed" in run("remove", "-m", "mine").output
    assert "has no demonstrations of its own" in run("remove", "-m", "mine").output
    assert "shipped" in run("show", "-m", "mine").output


def test_a_build_says_which_kinds_will_be_missing(run, tmp_path):
    bare = {"prompt": "The capital of Mali is", "target": "Gao"}
    out = run("build", write(tmp_path / "f.jsonl", bare, {"statement": "Water is dry."}))
    assert "there will be no update demonstration" in out.stderr
    assert "there will be no retain demonstration" in out.stderr
    assert "left out: " in out.stderr


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("build", "none.jsonl"), 2, "does not exist"),
        (("build", "empty.jsonl"), 1, "empty.jsonl"),
        (("build", "bad.jsonl"), 1, "not JSON"),
        (("show",), 1, "there is no memory"),
        (("remove",), 1, "there is no memory"),
        (("biuld",), 2, "No such command"),
    ],
)
def test_bad_input_gets_one_sentence_and_makes_no_memory(run, tmp_path, args, code, words):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bad.jsonl").write_text("{\n")
    out = run(*args, code=code)
    assert words in out.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.jsonl", "empty.jsonl"]


@pytest.mark.parametrize("name", sorted(demos.commands))
def test_every_command_has_help_with_an_example(name):
    command = demos.commands[name]
    assert "Example" in command.help
    assert f"memedit demos {name}" in command.help
