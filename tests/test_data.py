"""Readers of public formats, and what they say of files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memedit.data import read_cases, read_edits, read_prompts
from memedit.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
SHORT = {
    "case_id": 7, "prompt": "Ann Ode, the", "target_new": "oboe", "subject": "Ann Ode", "ground_truth": "harp",
    "rephrase_prompt": "Ann Ode plays", "locality_prompt": "Bo Lind, the", "locality_ground_truth": "harp",
}  # fmt: skip
FULL = {
    "case_id": 8,
    "requested_rewrite": {
        "prompt": "{} was born in", "subject": "Ann Ode", "target_new": {"str": "Oslo"}, "target_true": {"str": "Lima"},
    },
    "paraphrase_prompts": ["The birthplace of Ann Ode is"],
    "neighborhood_prompts": ["Bo Lind was born in", "Cy Moe was born in"],
}  # fmt: skip


def write(path, rows, lines=False):
    path.write_text("\n".join(json.dumps(r) for r in rows) if lines else json.dumps(rows))
    return path


def test_counterfact_short(tmp_path):
    (case,) = read_cases(write(tmp_path / "c.json", [SHORT]))
    edit = case.edit
    assert (edit.prompt, edit.target, edit.old, edit.ref) == ("Ann Ode, the", "oboe", "harp", None)
    assert (case.id, edit.extra) == ("7", {"case_id": 7})  # no ref: another file's case 7 is another fact
    assert [(q.kind, q.prompt) for q in case.queries] == [
        ("edit", "Ann Ode, the"), ("paraphrase", "Ann Ode plays"), ("locality", "Bo Lind, the"),
    ]  # fmt: skip


def test_counterfact_full(tmp_path):
    (case,) = read_cases(write(tmp_path / "c.json", [FULL]))
    assert case.edit.statement == "Ann Ode was born in Oslo."
    assert [q.kind for q in case.queries] == ["edit", "paraphrase", "locality", "locality"]


def test_cases_that_contradict_or_repeat_one_another_are_left_out_and_imported_all_the_same(tmp_path):
    path = write(tmp_path / "c.json", [SHORT, {**SHORT, "case_id": 9, "target_new": "lute"}, SHORT])
    assert [c.edit.target for c in read_cases(path)] == ["oboe"]
    edits, bad = read_edits(path)
    assert [e.target for e in edits] == ["oboe", "lute", "oboe"]  # the memory says what becomes of them
    assert bad == []


def test_our_own_lines_keep_unknown_keys(tmp_path):
    row = {
        "prompt": "Tea is",
        "target": "blue",
        "aliases": ["chai"],
        "colour": 3,
        "paraphrases": ["Chai is"],
        "locality": ["Milk is"],
    }
    (case,) = read_cases(write(tmp_path / "e.jsonl", [row], lines=True))
    assert case.edit.subject_aliases == ("chai",)
    assert case.edit.extra == {"colour": 3, "paraphrases": ["Chai is"], "locality": ["Milk is"]}
    assert [q.kind for q in case.queries] == ["edit", "paraphrase", "locality"]


def test_the_limit_counts_what_is_taken(tmp_path):
    rows = [{**SHORT, "case_id": i, "prompt": f"Ann Ode, {i}"} for i in range(5)]
    assert len(read_cases(write(tmp_path / "c.json", rows), limit=3)) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"question": "x", "z": "y"}',
            "no known format; found question, z; nearest is table, which needs answer and",
        ),
        ('{"prompt": "x", "target_new": 3, "subject": "x"}', "line 1"),
        (
            '{"requested_rewrite": {}, "neighborhood_prompts": []}',
            "not as the format counterfact-full has it",
        ),
        ("[{]", "not JSON"),
        ("3", "an object is expected"),
        ("", "is empty"),
    ],
)
def test_a_wrong_file_is_said_in_one_sentence(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_cases(path)
    assert "\n" not in str(error.value)


def test_bad_lines_are_named_and_the_rest_is_read(tmp_path):
    path = tmp_path / "e.jsonl"
    path.write_text(
        '{"prompt": "Tea is", "target": "blue"}\nnot json\n{"prompt": "Milk is"}\n{"prompt": "Rum is", "target": "red"}\n'
    )
    edits, bad = read_edits(path)
    assert [e.target for e in edits] == ["blue", "red"]
    assert bad[0].startswith("line 2: not JSON")
    assert bad[1].startswith("line 3: an edit with a prompt needs a target")


def test_what_is_no_text_is_refused(tmp_path):
    path = tmp_path / "b.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        read_cases(path)
    with pytest.raises(DataError, match="can't read"):
        read_edits(tmp_path / "none.json")


def test_prompts_of_question_files(tmp_path):
    path = write(tmp_path / "q.jsonl", [{"question": "who?"}, {"prompt": "what is"}], lines=True)
    assert read_prompts(path) == ["who?", "what is"]
    with pytest.raises(DataError, match="no prompt, question or query"):
        read_prompts(write(tmp_path / "z.jsonl", [{"z": 1}], lines=True))


def test_the_shipped_example_is_whole():
    edits, bad = read_edits(ROOT / "indexes" / "example.jsonl")
    assert bad == []
    assert len(edits) >= 50
    assert len({e.ref for e in edits}) == len(edits)


def test_the_public_counterfact_files_are_read(data):
    cases = read_cases(data / "counterfact/counterfact-val.json")
    assert len(cases) > 1000
    assert len({(c.edit.subject, c.edit.prompt) for c in cases}) == len(cases)
    assert len(read_cases(data / "counterfact/counterfact_full_schema_dev.json")[0].queries) > 5
    assert len(read_prompts(data / "general_qa/nq_open_dev_clean.jsonl")) == 2330
