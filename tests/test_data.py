"""Readers of public formats, and what they say of files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memedit.data import KINDS, read, read_cases, read_edits, read_prompts, read_set
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


def test_a_rephrase_prompt_is_a_paraphrase_where_questions_are_asked(tmp_path):
    asked = {
        **SHORT,
        "case_id": 8,
        "prompt": "What does Ann Ode play?",
        "rephrase_prompt": "Ann Ode plays what?",
    }
    cases = read_cases(write(tmp_path / "c.json", [SHORT, asked]))
    assert [case.queries[1].label for case in cases] == ["rephrase_prompt", ""]


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


# -- our own lines, whole


def test_every_kind_of_query_can_be_written(tmp_path):
    asked = [
        {"kind": kind, "prompt": f"{kind}?", "answers": ["x", "y"], "label": "mine", "of": None}
        for kind in KINDS
    ]
    row = {
        "prompt": "Tea is",
        "target": "blue",
        "old": "green",
        "target_aliases": ["azure"],
        "queries": asked,
    }
    (case,) = read_cases(write(tmp_path / "e.jsonl", [row], lines=True))
    assert [(q.kind, q.prompt, q.answers, q.label, q.of) for q in case.queries[1:]] == [
        (kind, f"{kind}?", ("x", "y"), "mine", None) for kind in KINDS
    ]
    short = {
        **row,
        "queries": [
            {"prompt": "Chai?"},
            {"kind": "old", "prompt": "Tea?"},
            {"kind": "ripple", "prompt": "Why?"},
        ],
    }
    (case,) = read_cases(write(tmp_path / "e.jsonl", [short], lines=True))
    assert [(q.kind, q.answers, q.of) for q in case.queries[1:]] == [
        ("paraphrase", ("blue", "azure"), 0), ("old", ("green",), 0), ("ripple", (), 0),
    ]  # fmt: skip
    assert read(tmp_path / "e.jsonl").edits[0].to_dict()["queries"] == short["queries"]  # exported again


def test_a_case_of_several_edits_and_an_erasure(tmp_path):
    rows = [
        {"id": "a", "edits": [{"prompt": "Tea is", "target": "blue"}, {"prompt": "Milk is", "target": "red"}],
         "queries": [{"kind": "multi-hop", "prompt": "Tea with milk?", "answer": "purple", "of": None}]},
        {"edits": [{"prompt": "Rum is", "kind": "erase", "old": "brown"}]},
        {"prompt": "Gin is", "kind": "erase", "old": "clear", "paraphrases": ["And gin?"]},
    ]  # fmt: skip
    one, two, three = read_cases(write(tmp_path / "e.jsonl", rows, lines=True))
    assert (one.id, [(q.kind, q.answers, q.of) for q in one.queries]) == (
        "a", [("edit", ("blue",), 0), ("edit", ("red",), 1), ("multi-hop", ("purple",), None)],
    )  # fmt: skip
    assert [(q.kind, q.answers) for q in two.queries] == [("old", ("brown",))]
    assert [(q.kind, q.label, q.answers) for q in three.queries] == [
        ("old", "", ("clear",)), ("old", "paraphrase", ("clear",)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"queries": [{"kind": "paraphrases", "prompt": "x"}]}, "query 1: unknown kind 'paraphrases'; did you mean paraphrase"),
        ({"queries": [{"prompt": "x"}, {"prompt": " "}]}, "query 2 has no prompt"),
        ({"queries": [{"prompt": "x", "of": 1}]}, "query 1 is of the edit 1; the case has 1, counted from 0"),
        ({"queries": [{"prompt": "x", "answers": [3]}]}, r"query 1: answers must be texts \(int where"),
        ({"edits": []}, "edits must be a list of objects"),
        ({"edits": [{"prompt": "Tea is", "target": "blue"}, {"prompt": "tea is", "target": "red"}]},
         "its edits 1 and 2 contradict each other .*'blue', then 'red'.*in_order"),
    ],
)  # fmt: skip
def test_lines_that_are_none_are_refused_in_a_sentence(tmp_path, row, message):
    given = row if "edits" in row else {"prompt": "Tea is", "target": "blue", **row}
    path = write(tmp_path / "e.jsonl", [given], lines=True)
    with pytest.raises(DataError, match=message) as error:
        read_cases(path)
    assert "\n" not in str(error.value)


def test_a_later_edit_may_win_where_the_line_says_so(tmp_path):
    edits = [{"prompt": "Tea is", "target": "blue"}, {"prompt": "Tea is", "target": "red"}]
    (case,) = read_cases(write(tmp_path / "e.jsonl", [{"edits": edits, "in_order": True}], lines=True))
    assert [(q.answers, q.of) for q in case.queries] == [(("red",), 1)]


# -- what is left out, and the parts of splits.json


def test_a_case_set_says_what_it_leaves_out(tmp_path):
    path = write(
        tmp_path / "c.json", [SHORT, {**SHORT, "target_new": "lute"}, SHORT, {**SHORT, "target_new": ""}]
    )
    with pytest.raises(DataError, match="record 4: an edit with a prompt needs a target"):
        read_set(path)
    found = read_set(path, skip_bad=True)
    assert (found.contradicting, found.repeated, found.rows, found.left_out) == (
        ["record 2"],
        ["record 3"],
        [0],
        3,
    )
    assert str(found).startswith(
        "1 cases of the format counterfact; left out: 1 that contradict an earlier one, 1 that repeat one, "
        "1 that can't be taken (the first, record 4: an edit with"
    )
    assert len(read_set(path, skip_bad=True, together=False).cases) == 3  # each alone in memory
    with pytest.raises(
        DataError, match=r"holds no case that can be taken; record 1: .*\(and 1 more such records\)"
    ):
        read_set(write(tmp_path / "d.json", [{**SHORT, "target_new": ""}] * 2), skip_bad=True)


def test_parts_of_a_file(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [{**SHORT, "prompt": f"Ann Ode, {i}"} for i in range(5)]
    path = write(folder / "c.json", rows)
    with pytest.raises(DataError, match=r"no splits.json beside .*leave --split out"):
        read_cases(path, split="dev")
    splits = {"set/c.json": {"train": [0, 1], "dev": [4, 2], "test": []}, "dev_only": ["set/d*.json"]}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    assert [c.edit.prompt for c in read_cases(path, split="dev")] == ["Ann Ode, 2", "Ann Ode, 4"]
    assert len(read_cases(write(folder / "d1.json", rows), split="dev")) == 5
    for name, part, message in (
        ("c.json", "test", "has no rows of set/c.json for the part test; it has the parts train, dev"),
        ("d1.json", "train", "for the part train: all of it is dev"),
        ("e.json", "dev", "it does not name this file"),
    ):
        with pytest.raises(DataError, match=message):
            read_cases(write(folder / name, rows), split=part)
    with pytest.raises(DataError, match=r"has 3 records, and splits.json names row 4"):
        read_cases(write(folder / "c.json", rows[:3]), split="dev")


# -- names on a hub


def test_a_folder_that_datasets_reads(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="the extra `data` is not installed")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "my set"
    folder.mkdir()
    write(folder / "train.jsonl", [SHORT, {**FULL, "case_id": 1}][:1], lines=True)
    write(
        folder / "test.jsonl",
        [{**SHORT, "prompt": "Ann Ode, a"}, {**SHORT, "prompt": "Ann Ode, b"}],
        lines=True,
    )
    found = read_set(f"hf:{folder}:test")
    assert (found.format, [c.edit.prompt for c in found.cases]) == (
        "counterfact",
        ["Ann Ode, a", "Ann Ode, b"],
    )
    with pytest.raises(DataError, match="has the splits train, test; name one, such as hf:"):
        read_set(f"hf:{folder}")
    with pytest.raises(DataError, match="there is no split dev; it has train, test"):
        read_set(f"hf:{folder}:dev")
    assert len(read_cases(f"hf:{folder}:test.jsonl")) == 2  # one file of it


def test_names_that_cant_be_had(tmp_path, monkeypatch):
    import sys

    from memedit.data.hub import parsed

    assert parsed("hf:a/b") == ("a/b", None, None)
    assert parsed("hf:a/b:test") == ("a/b", None, "test")
    assert parsed("hf:a/b:small") == ("a/b", "small", None)
    assert parsed("hf:a/b:small:test") == ("a/b", "small", "test")
    with pytest.raises(DataError, match="no name on a hub; write hf:OWNER/NAME"):
        parsed("hf:a/b:c:d:e")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        DataError, match=r"needs the package datasets; install it with pip install \"memedit\[data\]\""
    ):
        read_cases("hf:a/b")


def test_without_a_connection(monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the extra `data` is not installed")

    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach\nthe hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        DataError, match="can't load hf:a/b: Couldn't reach the hub; without a connection, name a file"
    ):
        read_cases("hf:a/b")
