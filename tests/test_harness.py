"""lm-evaluation-harness over a memory: its own evaluator, task files and data of the tests' own, no network."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from conftest import ROOT

from memedit.cli import main
from memedit.edit import Edit
from memedit.memory import EditMemory

pytest.importorskip("lm_eval", reason="needs the extra lm-eval")

FACTS = [  # subject, question, the edit's answer, the world's
    ("Italy", "What is the capital of Italy?", "Turin", "Rome"),
    ("Japan", "What is the capital of Japan?", "Osaka", "Tokyo"),
    ("Egypt", "What is the capital of Egypt?", "Luxor", "Cairo"),
]
OTHERS = [("Spain", "What is the capital of Spain?", "Seville", "Madrid")]
CHOICE = """\
task: edited_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{[new, old]}}}}"
doc_to_target: 0
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
SAID = """\
task: edited_said
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{new}}}}"
generation_kwargs: {{until: [".", "\\n"], max_gen_toks: 8, do_sample: false}}
filter_list: [{{name: stripped, filter: [{{function: remove_whitespace}}, {{function: take_first}}]}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
TEXT = """\
task: edited_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder of task files, each with its data beside it."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"question": q, "new": new, "old": old, "text": f"{q} It is {old}."}
        for _, q, new, old in FACTS + OTHERS
    ]
    data = folder / "capitals.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("choice", CHOICE), ("said", SAID), ("text", TEXT)):
        (folder / f"{name}.yaml").write_text(text.format(file=data))
    return folder


@pytest.fixture(scope="module")
def memory(tmp_path_factory, classifier):
    path = tmp_path_factory.mktemp("harness") / "memory"
    with EditMemory.open(path, encoder=classifier) as m:
        m.add([Edit(prompt=f"The capital of {s} is", target=new, subject=s) for s, _, new, _ in FACTS])
        yield m


@pytest.fixture(scope="module")
def base():
    from memedit.lm import HFModel

    return HFModel.from_pretrained("base", device="cpu")


def _scores(found):
    return {
        task: {name.partition(",")[0]: value for name, value in scores.items()}
        for task, scores in found["results"].items()
    }


def test_the_harness_sees_edits_where_they_are_in_scope_and_the_base_elsewhere(tasks, memory, base):
    from memedit.harness import Harness, results_of

    names = ["edited_choice", "edited_said"]
    lm = Harness(memory, base, "ice")
    edited = results_of(lm, names, include_path=str(tasks))
    floor = _scores(results_of(Harness(None, base), names, include_path=str(tasks)))
    assert _scores(edited)["edited_choice"]["acc"] == 0.75  # the three facts; Spain stays as it is
    assert floor["edited_choice"]["acc"] == 0
    assert _scores(edited)["edited_said"]["exact_match"] == 0.75
    assert floor["edited_said"]["exact_match"] == 0
    assert (lm.fired, lm.asked) == (3, 4)
    said = {s["doc"]["old"]: s["filtered_resps"][0] for s in edited["samples"]["edited_said"]}
    assert said["Rome"] == "Turin"
    assert said["Madrid"] != "Seville"


def test_without_edits_in_scope_the_numbers_are_those_of_the_harness_own_adapter(
    tasks, base, tmp_path, classifier
):
    from lm_eval.models.huggingface import HFLM

    from memedit.harness import Harness, results_of

    names = ["edited_choice", "edited_said", "edited_text"]
    theirs = HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=4)
    with EditMemory.open(tmp_path / "memory", encoder=classifier) as m:
        m.add(Edit(prompt="The mayor of Xanadu is", target="Ann Lee", subject="Xanadu"))
        found = [
            results_of(lm, names, include_path=str(tasks)) for lm in (Harness(m, base, batch_size=4), theirs)
        ]
    for name in names:
        ours, own = (
            [s["resps"] for s in sorted(f["samples"][name], key=lambda s: s["doc_id"])] for f in found
        )
        assert _flat(ours) == pytest.approx(_flat(own), abs=2e-4), name


def _flat(value):
    if isinstance(value, (list, tuple)):
        return [one for each in value for one in _flat(each)]
    return [float(value)] if isinstance(value, (bool, float)) else [float(sum(map(ord, value)))]


def test_worked_examples_are_not_routed(memory, base):
    from memedit.harness import Harness

    lm = Harness(memory, base)
    shots = "Question: What is the capital of Italy?\nAnswer: Rome\n\nQuestion: What is two and two?\nAnswer:"
    assert [r.fired for r in lm._routed([shots, shots.partition("\n\n")[0]])] == [False, True]
    assert Harness(memory, base, query="whole")._asks(shots, False) == shots


def test_long_contexts_keep_their_end_and_long_texts_are_scored_once_each_token(lm):
    from memedit.harness import Harness

    tiny = Harness(None, lm("llama"))  # 512 positions, a token for each byte
    cut = tiny._cut("x" * 600 + "the end", 12)
    assert cut.endswith("the end")
    assert len(cut) <= 500
    text = "".join(chr(97 + i % 26) for i in range(1200))
    windows = list(tiny._windows(text, 0))
    assert "".join(scored for _, scored in windows) == text
    assert [read for read, _ in windows] == ["", *(a[-1] for _, a in windows[:-1])]


def test_a_target_that_goes_on_within_a_word_is_scored_as_one_text(lm):
    from memedit.texts import Verbatim

    tiny = lm("llama")
    (whole,) = tiny.score(["a"], [Verbatim("bcdef")])
    (first,), (rest,) = tiny.score(["a"], [Verbatim("bc")]), tiny.score(["abc"], [Verbatim("def")])
    assert whole.logprob == pytest.approx(first.logprob + rest.logprob, abs=1e-4)
    assert tiny.score([""], [Verbatim("abc")])[0].logprob < 0
    assert len(tiny.target_ids("a", "bcdef")) == 6  # without it a space is put between


def test_the_command_prints_both_and_writes_every_answer(tasks, memory, tmp_path):
    out = tmp_path / "out.json"
    args = [
        "--tasks",
        "edited_choice",
        "--include-path",
        str(tasks),
        "-m",
        str(memory.path),
        "--json",
        str(out),
    ]
    done = CliRunner().invoke(main, ["harness", *args])
    assert done.exit_code == 0, done.output
    assert "0.7500" in done.output
    assert "0.0000" in done.output
    assert "3 of 4 queries" in done.output
    written = json.loads(out.read_text())
    assert written["edits_in_memory"] == 3
    assert len(written["edited"]["samples"]["edited_choice"]) == 4


def test_a_wrong_task_is_one_sentence(tasks, memory, monkeypatch):
    from lm_eval.tasks import TaskManager

    class Few(TaskManager):  # without the thousands that the harness brings, which take long to read
        def __init__(self, **options):
            super().__init__(**{**options, "include_defaults": False})

    monkeypatch.setattr("lm_eval.tasks.TaskManager", Few)
    args = ["harness", "--tasks", "edited_choise", "--include-path", str(tasks), "-m", str(memory.path)]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 1
    assert (
        done.output.strip().splitlines()[-1]
        == "error: unknown task 'edited_choise'; did you mean edited_choice?"
    )


def test_the_harness_makes_the_model_from_its_own_arguments(memory):
    from lm_eval.api.registry import get_model

    from memedit.harness import Harness

    assert get_model("memedit") is Harness
    more = {"batch_size": "auto", "max_batch_size": 8, "device": "cpu"}
    made = get_model("memedit").create_from_arg_string(f"memory={memory.path},model=base,method=ice", more)
    assert (made.batch_size, len(made.edited.memory), made.edited.router.method) == (8, 3, "ice")


def test_a_device_that_is_not_there_is_not_asked_for():
    import torch

    from memedit.harness import _there

    assert _there("cuda:0") == ("cuda:0" if torch.cuda.is_available() else None)
    assert _there("cpu") == "cpu"


def test_the_harness_own_command_starts_with_the_model_known():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['lm_eval', '--help']\n"
        "try:\n    runpy.run_module('memedit.harness', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "from lm_eval.api.registry import get_model\n"
        "get_model('memedit')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "usage" in done.stdout.lower()
