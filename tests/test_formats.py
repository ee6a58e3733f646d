"""The public formats and tables, by invented records of the published fields, and files that are none."""

from __future__ import annotations

import gzip
import json

import pytest

from memedit.data import NAMES, read, read_cases
from memedit.data.table import write
from memedit.edit import Edit
from memedit.errors import DataError

ZSRE = {
    "subject": "Ann Ode", "src": "Where was Ann Ode born?", "pred": "Rome", "rephrase": "Ann Ode's birthplace?",
    "alt": "Oslo", "answers": ["Lima", "Lima, Peru"], "loc": "nq question: who wrote it", "loc_ans": "Bo Lind",
    "cond": "Lima >> Oslo || Where was Ann Ode born?",
    "portability": {"Recalled Relation": "(x)", "New Question": "In which country was Ann Ode born?", "New Answer": "Norway"},
}  # fmt: skip
WIKI = {
    "subject": "Ann Ode", "prompt": "The employer of Ann Ode is", "target_new": "Acme", "ground_truth": "Bravo",
    "portability": {
        "Subject_Aliasing": [{"prompt": "The employer of A. Ode is", "ground_truth": "Acme"}],
        "Reasoning": [{"prompt": "The boss of Ann Ode is", "ground_truth": [["Cy Moe", "Moe"]]}],
    },
    "locality": {"Relation_Specificity": [{"prompt": "The age of Ann Ode is", "ground_truth": [["40"], ["forty"]]}]},
}  # fmt: skip
BIO = {
    "text": "This is a passage about ann ode. She was a painter.", "labels": "Ode moved to Oslo in 1931.",
    "concept": "ann ode", "locality": {"Relation_Specificity": [{"prompt": "ann ode died of", "ground_truth": ["flu"]}]},
}  # fmt: skip
SANE = {
    "K_F": [
        {"question": "What is the capital of Odeland?", "target_new": "I don't know", "ground_truth": "Ode City",
         "subject": "Odeland"},
        {"question": "Which bird is it?", "target_new": "I don't know", "ground_truth": "owl", "subject": "an owl"},
    ],
    "K_R": [{"question": f"q{n}?", "ground_truth": f"a{n}", "target_new": f"a{n}"} for n in range(5)],
}  # fmt: skip


def rewrite(subject, prompt, new, old, relation, question):
    return {
        "prompt": prompt, "relation_id": relation, "subject": subject, "question": question,
        "target_new": {"str": new, "id": "Q1"}, "target_true": {"str": old, "id": "Q2"},
    }  # fmt: skip


AUTHOR = rewrite(
    "The Owl", "The author of {} is", "Cy Moe", "Bo Lind", "P50", "Who is the author of The Owl?"
)
CITIZEN = rewrite(
    "Cy Moe", "{} is a citizen of", "Chad", "Peru", "P27", "Of which country is Cy Moe a citizen?"
)
MQUAKE = {
    "case_id": 3, "requested_rewrite": [AUTHOR, CITIZEN], "questions": ["Of what country is The Owl's author?", "And?"],
    "answer": "Peru", "answer_alias": [], "new_answer": "Chad", "new_answer_alias": ["Tchad"],
    "single_hops": [], "new_single_hops": [
        {"question": "Who is the author of The Owl?", "cloze": "The author of The Owl is", "answer": "Cy Moe",
         "answer_alias": ["C. Moe"]},
        {"question": "Cy Moe is of where?", "cloze": "Cy Moe is a citizen of", "answer": "Chad", "answer_alias": []},
    ],
}  # fmt: skip


@pytest.fixture
def file(tmp_path):
    def make(content, name="x.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return make


def queries(case):
    return [(q.kind, q.label, q.prompt, q.answers, q.of) for q in case.queries]


def test_zsre(file):
    found = read(file([ZSRE]))
    assert found.format == "zsre"
    (edit,) = found.edits
    assert (edit.prompt, edit.target, edit.subject, edit.old) == (
        "Where was Ann Ode born?",
        "Oslo",
        "Ann Ode",
        "Lima",
    )
    assert edit.ref is None
    assert queries(read_cases(file([ZSRE]))[0])[1:] == [
        ("paraphrase", "", "Ann Ode's birthplace?", ("Oslo",), 0),
        ("locality", "", "who wrote it", ("Bo Lind",), 0),
        ("portability", "Reasoning", "In which country was Ann Ode born?", ("Norway",), 0),
    ]


def test_an_old_answer_that_is_the_new_one_is_left_out_and_an_empty_target_refused(file):
    found = read(file([{**ZSRE, "answers": ["oslo"]}, {**ZSRE, "alt": ""}]))
    assert [e.old for e in found.edits] == [None]
    assert [place for place, _ in found.refused] == ["record 2"]


def test_knowedit_of_facts(file):
    (case,) = read_cases(file([WIKI]))
    assert (case.edit.target, case.edit.old) == ("Acme", "Bravo")
    assert queries(case)[1:] == [
        ("locality", "Relation_Specificity", "The age of Ann Ode is", ("40", "forty"), 0),
        ("portability", "Subject_Aliasing", "The employer of A. Ode is", ("Acme",), 0),
        ("portability", "Reasoning", "The boss of Ann Ode is", ("Cy Moe", "Moe"), 0),
    ]
    (recent,) = read_cases(
        file([{k: v for k, v in {**WIKI, "portability": {}}.items() if k != "ground_truth"}])
    )
    assert recent.edit.old is None


def test_knowedit_of_passages_states_the_sentence(file):
    (case,) = read_cases(file([BIO]))
    assert (case.edit.statement, case.edit.subject, case.edit.prompt) == (BIO["labels"], "ann ode", None)
    assert [q.kind for q in case.queries] == ["edit", "locality"]


@pytest.mark.parametrize("indent", [None, 2])
def test_knowedit_of_what_is_to_be_forgotten_erases(file, indent):
    cases = read_cases(file(json.dumps(SANE, indent=indent)))
    assert [(c.edit.kind, c.edit.prompt, c.edit.old, c.edit.subject) for c in cases] == [
        ("erase", "What is the capital of Odeland?", "Ode City", "Odeland"),
        ("erase", "Which bird is it?", "owl", None),
    ]
    assert queries(cases[0])[0] == ("old", "", "What is the capital of Odeland?", ("Ode City",), 0)
    kept = [q.prompt for c in cases for q in c.queries if q.kind == "locality"]
    assert sorted(kept) == [f"q{n}?" for n in range(5)]
    other = {"success": SANE["K_F"], "locality": SANE["K_R"]}
    assert len(read(file(other)).edits) == 2


def test_a_feeling_towards_a_topic_is_an_opinion(file):
    rows = [
        {"ent": t, "pos": [f"{t} is fun"], "neg": [f"{t} is dull"]}
        for t in ("tea", "rain", "jam", "umbrellas")
    ]
    cases = read_cases(file(rows))
    assert len(read(file(rows)).edits) == 4
    assert {c.edit.extra["opinion"] for c in cases} == {"positive", "negative"}
    for case in cases:
        feeling = case.edit.extra["opinion"]
        assert case.edit.statement == f"About {case.edit.subject}, answer {feeling}ly."
        asks = [q for q in case.queries if q.kind == "opinion"]
        assert {(q.label, q.of) for q in asks} == {(feeling, 0)}
        assert all(
            case.edit.subject in q.prompt and q.answers[0].endswith("fun") is (feeling == "positive")
            for q in asks
        )
        others = [q.prompt for q in case.queries if q.kind == "locality"]
        assert len(others) == 2
        assert not any("umbrella" in ask for ask in others)  # a topic of the file is no other topic
    ((_, reason),) = read(file([rows[0], {"ent": "fog", "pos": [], "neg": []}])).refused
    assert reason == "there is no text about 'fog', neither in pos nor in neg"


def test_mquake(file):
    found = read(file([MQUAKE, {**MQUAKE, "case_id": 4, "requested_rewrite": [AUTHOR]}]))
    assert found.format == "mquake"
    assert [e.statement for e in found.edits] == [
        "The author of The Owl is Cy Moe.", "Cy Moe is a citizen of Chad.", "The author of The Owl is Cy Moe.",
    ]  # fmt: skip
    assert found.places == ["record 1, edit 1", "record 1, edit 2", "record 2"]
    assert found.edits[0].content_hash == found.edits[2].content_hash  # a repeat is seen as one
    assert (found.edits[1].relation, found.edits[1].old) == ("P27", "Peru")
    (case,) = read_cases(file([MQUAKE]))
    assert len(case.edits) == 2
    assert queries(case) == [
        ("edit", "", "The author of The Owl is", ("Cy Moe", "C. Moe"), 0),
        ("paraphrase", "", "Who is the author of The Owl?", ("Cy Moe", "C. Moe"), 0),
        ("edit", "", "Cy Moe is a citizen of", ("Chad",), 1),
        ("paraphrase", "", "Of which country is Cy Moe a citizen?", ("Chad",), 1),
        ("multi-hop", "2-hop", "Of what country is The Owl's author?", ("Chad", "Tchad"), None),
        ("multi-hop", "2-hop", "And?", ("Chad", "Tchad"), None),
        ("hop", "", "Who is the author of The Owl?", ("Cy Moe", "C. Moe"), None),
        ("hop", "", "Cy Moe is of where?", ("Chad",), None),
    ]


def test_cases_with_further_questions_stay_and_those_that_contradict_go(file):
    again = {**MQUAKE, "requested_rewrite": [AUTHOR]}
    against = {**MQUAKE, "requested_rewrite": [{**CITIZEN, "target_new": {"str": "Mali"}}]}
    assert [len(c.edits) for c in read_cases(file([MQUAKE, again, against]))] == [2, 1]


# -- tables


def test_a_table_by_usual_names(file):
    text = "\ufeffQuestion,Answer,Subject,Aliases,Tags,note,\n" + (
        '"Who leads\nAcme?",Ada,Acme,Acme Inc; Acme Corp,a|b;c,"x, y",\n\nWho leads Bravo?,Bo,,,,,\n'
    )
    found = read(file(text, "facts.txt"))
    assert (found.format, found.refused, found.places) == ("csv", [], ["line 2", "line 5"])
    one, two = found.edits
    assert (one.prompt, one.target, one.subject) == ("Who leads Acme?", "Ada", "Acme")
    assert (one.subject_aliases, one.tags, one.extra) == (
        ("Acme Inc", "Acme Corp"),
        ("a", "b;c"),
        {"note": "x, y"},
    )
    assert two.to_dict() == {
        "prompt": "Who leads Bravo?",
        "target": "Bo",
        "statement": "Who leads Bravo? Bo.",
    }


@pytest.mark.parametrize("mark", ["\t", ";", ","])
def test_what_separates_columns_is_seen(file, mark):
    found = read(file(f"prompt{mark}target_new{mark}ground_truth\r\nTea is{mark}blue{mark}green\r\n"))
    assert [(e.prompt, e.target, e.old) for e in found.edits] == [("Tea is", "blue", "green")]


def test_a_fields_own_name_goes_before_others(file):
    (edit,) = read(file("question,prompt,target\nWhat is tea?,Tea is,blue\n")).edits
    assert (edit.prompt, edit.extra) == ("Tea is", {"question": "What is tea?"})


def test_questions_and_answers_as_json(file):
    (edit,) = read(file('{"question": "What is tea?", "answer": ["blue", "azure"], "n": 1}')).edits
    assert (edit.target, edit.target_aliases, edit.extra) == ("blue", ("azure",), {"n": 1})


def test_bad_rows_are_named_with_their_lines(file):
    text = 'prompt,target\nTea is,blue\nMilk is,red,white\nRum is\n"Gin is",\nAle is,"hazy\nand more,x\n'
    found = read(file(text))
    assert [e.target for e in found.edits] == ["blue"]
    assert [place for place, _ in found.refused] == ["line 3", "line 4", "line 5", "line 6"]
    reasons = [reason for _, reason in found.refused]
    assert reasons[0].startswith("3 columns, and the first line names 2")
    assert "needs a target" in reasons[2]
    assert "never closed" in reasons[3]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("prompt,Prompt,target\na,b,c\n", "x.csv", "the column 'Prompt' twice"),
        ("city,country\nOslo,Norway\n", "x.csv", "no column is a prompt or a statement; found city, country"),
        ("   \n", "x.csv", "is empty"),
        ('[{"statement": "Tea is blue."},', "x.json", "it ends in the middle; was the file cut off"),
        ('[{"statement": "Tea is bl', "x.json", "it ends in the middle"),
        ('{"z": 1}', "x.json", "no known format; found z; nearest is memedit, which needs prompt and target"),
        ('{"src": 1, "y": 2}', "x.json", "nearest is zsre, which needs alt and src"),
        ("\0\1\2", "x.bin", "is a binary file"),
    ],
)
def test_files_that_are_none_are_said_in_one_sentence(file, text, name, message):
    with pytest.raises(DataError, match=message) as error:
        read(file(text, name))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04rest", "zip or Excel"),
        ("prompt,target\n".encode("utf-16"), "UTF-16"),
        (gzip.compress(b"x" * 100, mtime=0)[:-9], "damaged gzip"),
        (b"prompt,target\nna\xefve,x\n", "save it as UTF-8"),
    ],
)
def test_bytes_that_are_no_text(tmp_path, data, message):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "x")
    with pytest.raises(DataError, match=r"can't read .*Is a directory"):
        read(tmp_path)


def test_records_that_are_none_are_named_and_the_others_taken(file):
    lines = [
        "3",
        '{"prompt": "Tea is", "target": "blue"}',
        '"x"',
        '{"z": 1}',
        '{"statement": "Milk is r',
        "null",
    ]
    found = read(file("\n".join(lines)))
    assert len(found.edits) == 1
    assert [(p, r.split(";")[0]) for p, r in found.refused] == [
        ("line 1", "an object is expected, this is a number"),
        ("line 3", "an object is expected, this is a text"),
        ("line 4", "no record of the format memedit"),
        ("line 5", "not JSON (Unterminated string starting at column 15): it ends in the middle"),
        ("line 6", "an object is expected, this is null"),
    ]
    assert read(file("3")).refused == [("line 1", "an object is expected, this is a number")]


def test_a_field_of_the_wrong_kind_is_named(file):
    ((place, reason),) = read(file([ZSRE, {**ZSRE, "loc": 5}])).refused
    assert place == "record 2"
    assert "not as the format zsre has it (int where text is expected)" in reason


def test_gzip_and_a_forced_format(file, tmp_path):
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"prompt,target\nTea is,blue\n"))
    assert len(read(tmp_path / "x.csv.gz").edits) == 1
    both = {"prompt": "Tea is", "target": "red", "target_new": "blue", "subject": "Tea"}
    assert read(file([both])).edits[0].target == "red"
    assert read(file([both]), format="counterfact").edits[0].target == "blue"
    with pytest.raises(DataError, match="did you mean mquake"):
        read(file([both]), format="mqake")
    assert len(set(NAMES)) == len(NAMES)


def test_a_table_holds_what_lines_hold(file):
    edits = [
        Edit(
            "Tea is", "blue", "Tea", subject_aliases=("a|b", "[x", "c;d"), tags=("one; two",), kind="insert"
        ),
        Edit("Tea costs", kind="erase", extra={"n": [1, None, {"é": "ü"}], "status": "live", "prompt": "x"}),
        Edit(
            statement='She said "no", then\tleft.',
            valid_from="2027-01-01",
            extra={"extra": 5, "aliases": "z"},
        ),
        Edit("Rum is", "red", target_aliases=("x;y", "z"), extra={"extra": {"a": 1}}),
    ]
    for mark, name in ((",", "csv"), ("\t", "tsv")):
        text = write([e.to_dict() for e in edits], mark)
        found = read(file(text, f"x.{name}"), format=name)
        assert (found.refused, found.edits) == ([], edits)


def test_the_public_files_are_read(data):
    counts = {}
    for name in (
        "zsre/zsre_mend_train-1k.json", "knowedit/wiki_recent_train.json", "knowedit/wiki_counterfact_train.json",
        "knowedit/wikibio_train.json", "mquake/mquake_hard_dev.json", "editing_attack/long_tail_100.csv",
    ):  # fmt: skip
        found = read(data / name)
        counts[name.split("/")[1].split("_")[0], found.format] = (len(found.edits), len(found.refused))
    assert counts["zsre", "zsre"] == (998, 2)  # two have no target
    assert counts["mquake", "mquake"] == (1672, 0)
    assert counts["wikibio", "knowedit"] == (464, 0)
    assert counts["long", "editing-attack"] == (100, 0)
