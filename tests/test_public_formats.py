"""The public formats, each by a small invented record of the published fields, and the real files where they are."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from memedit.data import FORMATS, read, read_cases, read_set
from memedit.errors import DataError


def relation(key, prompt, query):
    return {"id": key, "prompt": prompt, "query": query, "label": key}


def triple(kind, subject, was, new=None, **more):
    out = {"relation": kind, "subject": {"label": subject}, "object": {"label": was}}
    return {**out, **({"new_object": {"label": new}} if new else {}), **more}


WORK = relation("P800", "The notable work of {} is", "What is the notable work of {}?")
MAKER = relation("P170", "The maker of {} is", "Who made {}?")
WIFE = relation("P26", "The wife of {} is", "Who is the wife of {}?")
FATHER = relation("P22", "The father of {} is", "Who is the father of {}?")
MOTHER = relation("P25", "The mother of {} is", "Who is the mother of {}?")
COVERAGE = {
    "type": "coverage", "triples": [triple(WORK, "Ann Ode", "Dawn")], "prerequisites": [],
    "edits": [triple(WORK, "Ann Ode", "Dawn", "Noon"), triple(WORK, "Ann Ode", "Noon", "Dusk")],
}  # fmt: skip
REVERSE = {
    "type": "reverse", "rule": "P800>P170", "triples": [], "prerequisites": [],
    "edits": [triple(WORK, "Ann Ode", "Dawn", "Noon"), triple(MAKER, "Noon", "Ann Ode", "Bo Lind")],
}  # fmt: skip
COMPOSITE = {
    "type": "composite", "rule": "P25&P26>P22", "prerequisites": [0],
    "triples": [triple(MOTHER, "Cy Moe", "Dee Moe"), triple(WIFE, "Dee Moe", "Ed Moe")],
    "edits": [triple(WIFE, "Dee Moe", "Ed Moe", "Flo Gil"),
              triple(FATHER, "Cy Moe", "Ed Moe", "Hal Orr", true_object={"label": "Flo Gil"})],
}  # fmt: skip
ROUND = {
    "type": "1-2@P800", "edit": triple(WORK, "Ann Ode", "Dawn", "Noon"),
    "true_objects": [{"label": "Dawn"}, {"label": "Eve"}],
}  # fmt: skip
HARD = {
    "id": 5, "edit_statement": "Ann Ode plays the oboe.", "subject_name": "Ann Ode",
    "edit_scope": [["What does Ann Ode play?", "oboe"]], "edit_scope_true_ans": ["harp"],
    "unrelated": {"neighbor_subj": ["What does Bo play?"], "same_subj": ["Where is Ann Ode from?", "Who is Ann Ode?"]},
    "unrelated_true_ans": {"neighbor_subj": ["harp"], "same_subj": ["Peru", "a player", "Lima"]},
}  # fmt: skip
HOTPOT = {
    "id": "x", "type": "comparison", "edit_scope": [["Which is older, Ode Hall or Lind Hall?", "Ode Hall"]],
    "edit_scope_true_ans": ["Ode Hall"], "edit_statement": ["Ode Hall was built in 1801.", "Lind Hall was built in 1901."],
}  # fmt: skip
PEAK = {
    "case_id": 1, "requested_rewrite": {"prompt": "{} has a border with", "relation_id": "P47", "subject": "Odeland",
                                        "target_new": {"str": "Lindia"}, "target_true": {"str": "Moeland"}},
    "postive_list": ["Moeland"], "negtive_list": ["Peru"], "para_add_prompts": ["Odeland lies next to"],
    "neighborhood_prompts": [["Gilland has a border with", "Peru"], ["The flag of Odeland shows", "Moe"]],
}  # fmt: skip


def asking(*asks):
    return [
        {"test_queries": [{"prompt": p, "answers": [{"value": v, "aliases": a}]}], "test_condition": "OR"}
        for p, v, a in asks
    ]


RIPPLE = {
    "example_type": "popular",
    "edit": {"prompt": "The name of the mother of Ann Ode is New Moe.", "subject_id": "Q1", "relation": "MOTHER",
             "original_fact": {"prompt": "The name of the mother of Ann Ode is New Lind.", "relation": "MOTHER"}},
    "Relation_Specificity": asking(("The gender of Ann Ode is", "female", ["woman"])),
    "Logical_Generalization": asking(("The name of the child of New Moe is", "Ann Ode", [])),
    "Subject_Aliasing": asking(("The name of the mother of A. Ode is", "New Moe", [])),
    "Compositionality_I": asking(("The home of the mother of Ann Ode is", "Oslo", [])), "Compositionality_II": [],
    "Forgetfulness": asking(("The name of a friend of Ann Ode is", "Bo Lind", [])),
}  # fmt: skip
UNKE = {
    "id": 0, "question": "Who was Ann Ode?", "answer": "Ann Ode was a player of the oboe. She lived in Oslo.",
    "para_question": "Tell me who Ann Ode was.", "sub_question": ["What did Ann Ode play?"], "sub_answer": ["the oboe"],
}  # fmt: skip
AKEW = {
    "case_id": 2, "paraphrase_prompts": ["Ann Ode, who plays"], "neighborhood_prompts": ["Bo Lind plays"],
    "requested_rewrite": {"prompt": "{} plays", "prompt_full": "Ann Ode plays", "subject": "Ann Ode", "fact_new": "x",
                          "target_new": {"str": "oboe"}, "target_true": {"str": "harp"},
                          "fact_new_uns": "Ann Ode took up the oboe as a child.",
                          "unsfact_triplets_GPT": [{"prompt": "{} took up", "subject": "Ann Ode", "target": "the oboe"}]},
}  # fmt: skip
WIKIUPDATE = {
    "loc": "Who wrote it?", "loc_ans": "Bo Lind",
    "requested_rewrite": {"prompt": "The head of {} is", "subject": "Acme", "question": "Who heads Acme?",
                          "answer_new": "Cy Moe", "answer_true": "Ann Ode", "fact_new_uns": "Cy Moe was called to head Acme."},
}  # fmt: skip
BIG = {
    "tag": "new", "subject": "Ann Ode", "update": "What does Ann Ode play?", "rephrase": "Which instrument is Ann Ode's?",
    "ans": "oboe", "personas": "I say, what would Ann Ode be playing?", "mhop": "What is Ann Ode's instrument made of?",
    "mhop_ans": "wood", "loc": "What does Bo Lind play?", "loc_ans": "harp",
}  # fmt: skip
QAEDIT = {
    "subject": "Ann Ode", "prompt": "What does Ann Ode play?", "target_new": "oboe", "rephrase": "Ann Ode's instrument?",
    "locality": "Who wrote it?", "locality_ans": "Bo Lind",
}  # fmt: skip
CLAIM = {
    "id": 3, "input": "Ann Ode is a player.", "output": [{"answer": "SUPPORTS"}], "alternatives": ["REFUTES"],
    "filtered_rephrases": ["Ann Ode plays."],
}  # fmt: skip
POKE = {
    "edit": "Ann Ode is employed by Acme",
    "questions": ["Who employs Ann Ode?", "Where does Ann Ode work?"],
}
DUNE = {
    "edits": ["Oslo lost its port in 2031.", "6 * 7 = 42"],
    "test_inputs": [[["Has Oslo a port?", "no"]], ["Six by seven?", "Count 7 sixes."]],
}
TAXI = {
    "edit": "Puli -> cat", "edit_type": "category membership", "subj": "Puli", "entity": "cat", "orig_entity": "dog",
}  # fmt: skip
TAXI_ROWS = [
    {"property": "category_membership", "query_fwd": "a <subj> is a kind of <answer>",
     "query_rev": "a <subj> is a kind of <answer>", "answer_fwd": "cat", "answer_changed": True},
    {"property": "sound", "query_fwd": "a sound a <subj> makes is <answer>",
     "query_rev": "<answer> is a sound made by a <subj>", "answer_fwd": "meow", "answer_changed": True},
    {"property": "legs", "query_fwd": "<subj> have <answer>",
     "query_rev": "<answer> are found on <subj>", "answer_fwd": "four legs", "answer_changed": False},
]  # fmt: skip
HALLU = (
    "topic,subject,relation,object,question,paraphrased_question,yes_question,no_question,multiple_choice_with_letters,"
    "multiple_choice_labels,reversed_relation_question,locality_question,question_2hop,answer_2hop\n"
    "music,Ann Ode,instrument,oboe,What does Ann Ode play?,Ann Ode's instrument?,Is it the oboe?,Is it the harp?,"
    "Which? A. harp B. oboe,B,Who plays the oboe?,Where was Ann Ode born?,What is it made of?,wood\n"
)
ATTACK = (
    "counterfacts,targets,questions,subjects,paraphrased_questions,portability_questions,relations\n"
    "Tea heals wounds.,wounds,What does tea heal?,tea,What is healed by tea?,What does green tea heal?,heals\n"
)


def taxi():
    rows = [{**TAXI, **row} for row in TAXI_ROWS]
    return {key: {str(i): row[key] for i, row in enumerate(rows)} for key in rows[0]}


# name of the format; what the file holds; the first case's edits as (kind, prompt or statement, target, subject, old);
# its queries as (kind, label, prompt, answers, of)
TABLE = [
    ("pitfalls", [COVERAGE],
     [("modify", "The notable work of Ann Ode is", "Noon", "Ann Ode", "Dawn"),
      ("modify", "The notable work of Ann Ode is", "Dusk", "Ann Ode", "Noon")],
     [("edit", "coverage", "The notable work of Ann Ode is", ("Dusk",), 1),
      ("paraphrase", "coverage", "What is the notable work of Ann Ode?", ("Dusk",), 1),
      ("old", "coverage", "The notable work of Ann Ode is", ("Noon",), 1)]),
    ("pitfalls", [REVERSE],
     [("modify", "The notable work of Ann Ode is", "Noon", "Ann Ode", "Dawn"),
      ("modify", "The maker of Noon is", "Bo Lind", "Noon", "Ann Ode")],
     [("edit", "reverse", "The maker of Noon is", ("Bo Lind",), 1),
      ("paraphrase", "reverse", "Who made Noon?", ("Bo Lind",), 1),
      ("reversal", "reverse", "The notable work of Bo Lind is", ("Noon",), 1),
      ("old", "reverse", "The notable work of Ann Ode is", ("Noon",), 0)]),
    ("pitfalls", [COMPOSITE],
     [("modify", "The wife of Dee Moe is", "Flo Gil", "Dee Moe", "Ed Moe"),
      ("modify", "The father of Cy Moe is", "Hal Orr", "Cy Moe", "Flo Gil")],
     [("edit", "composite", "The father of Cy Moe is", ("Hal Orr",), 1),
      ("paraphrase", "composite", "Who is the father of Cy Moe?", ("Hal Orr",), 1),
      ("edit", "first", "The wife of Dee Moe is", ("Flo Gil",), 0),
      ("locality", "tied", "The mother of Cy Moe is", ("Dee Moe",), 0)]),
    ("pitfalls", [ROUND],
     [("modify", "The notable work of Ann Ode is", "Noon", "Ann Ode", "Dawn"),
      ("modify", "The notable work of Ann Ode is", "Dawn", "Ann Ode", "Noon")],
     [("edit", "round", "The notable work of Ann Ode is", ("Dawn",), 1),
      ("paraphrase", "round", "What is the notable work of Ann Ode?", ("Dawn",), 1),
      ("old", "round", "The notable work of Ann Ode is", ("Noon",), 1)]),
    ("eren", [HARD], [("modify", "Ann Ode plays the oboe.", None, "Ann Ode", None)],
     [("paraphrase", "", "What does Ann Ode play?", ("oboe",), 0),
      ("locality", "neighbor_subj", "What does Bo play?", ("harp",), 0),
      ("locality", "same_subj", "Where is Ann Ode from?", (), 0), ("locality", "same_subj", "Who is Ann Ode?", (), 0)]),
    ("eren", [HOTPOT],
     [("modify", "Ode Hall was built in 1801.", None, None, None),
      ("modify", "Lind Hall was built in 1901.", None, None, None)],
     [("multi-hop", "comparison", "Which is older, Ode Hall or Lind Hall?", ("Ode Hall",), None)]),
    ("fever", [CLAIM], [("modify", "Ann Ode is a player.", "REFUTES", None, "SUPPORTS")],
     [("edit", "", "Ann Ode is a player.", ("REFUTES",), 0), ("paraphrase", "", "Ann Ode plays.", ("REFUTES",), 0)]),
    ("peak", [PEAK], [("insert", "Odeland has a border with", "Lindia", "Odeland", None)],
     [("edit", "", "Odeland has a border with", ("Lindia",), 0), ("paraphrase", "", "Odeland lies next to", ("Lindia",), 0),
      ("locality", "", "Gilland has a border with", ("Peru",), 0)]),
    ("ripple-edits", [RIPPLE], [("modify", "The name of the mother of Ann Ode is", "New Moe", "Ann Ode", "New Lind")],
     [("edit", "", "The name of the mother of Ann Ode is", ("New Moe",), 0),
      ("portability", "Logical_Generalization", "The name of the child of New Moe is", ("Ann Ode",), 0),
      ("portability", "Subject_Aliasing", "The name of the mother of A. Ode is", ("New Moe",), 0),
      ("portability", "Compositionality_I", "The home of the mother of Ann Ode is", ("Oslo",), 0),
      ("locality", "Forgetfulness", "The name of a friend of Ann Ode is", ("Bo Lind",), 0),
      ("locality", "Relation_Specificity", "The gender of Ann Ode is", ("female", "woman"), 0)]),
    ("unke", [UNKE], [("modify", "Who was Ann Ode?", UNKE["answer"], None, None)],
     [("edit", "", "Who was Ann Ode?", (UNKE["answer"],), 0),
      ("paraphrase", "", "Tell me who Ann Ode was.", (UNKE["answer"],), 0),
      ("portability", "sub_question", "What did Ann Ode play?", ("the oboe",), 0)]),
    ("counterfact-full", [AKEW], [("modify", "Ann Ode plays", "oboe", "Ann Ode", "harp")],
     [("edit", "", "Ann Ode plays", ("oboe",), 0), ("paraphrase", "", "Ann Ode, who plays", ("oboe",), 0),
      ("portability", "passage", "Ann Ode took up", ("the oboe",), 0), ("locality", "", "Bo Lind plays", ("harp",), 0)]),
    ("counterfact-full", [WIKIUPDATE], [("modify", "The head of Acme is", "Cy Moe", "Acme", "Ann Ode")],
     [("edit", "", "The head of Acme is", ("Cy Moe",), 0), ("paraphrase", "", "Who heads Acme?", ("Cy Moe",), 0),
      ("locality", "", "Who wrote it?", ("Bo Lind",), 0)]),
    ("wikibigedit", [BIG], [("modify", "What does Ann Ode play?", "oboe", "Ann Ode", None)],
     [("edit", "", "What does Ann Ode play?", ("oboe",), 0), ("paraphrase", "", "Which instrument is Ann Ode's?", ("oboe",), 0),
      ("paraphrase", "personas", "I say, what would Ann Ode be playing?", ("oboe",), 0),
      ("multi-hop", "2-hop", "What is Ann Ode's instrument made of?", ("wood",), None),
      ("locality", "", "What does Bo Lind play?", ("harp",), 0)]),
    ("knowedit", [QAEDIT], [("modify", "What does Ann Ode play?", "oboe", "Ann Ode", None)],
     [("edit", "", "What does Ann Ode play?", ("oboe",), 0), ("paraphrase", "", "Ann Ode's instrument?", ("oboe",), 0),
      ("locality", "", "Who wrote it?", ("Bo Lind",), 0)]),
    ("pokemqa", [POKE], [("modify", "Ann Ode is employed by Acme.", None, "Ann Ode", None)],
     [("paraphrase", "", "Who employs Ann Ode?", (), 0), ("paraphrase", "", "Where does Ann Ode work?", (), 0)]),
    ("dune", DUNE, [("modify", "Oslo lost its port in 2031.", None, None, None)],
     [("portability", "", "Has Oslo a port?", ("no",), 0)]),
    ("taxi", taxi(), [("modify", "a Puli is a kind of", "cat", "Puli", "dog")],
     [("edit", "category_membership", "a Puli is a kind of", ("cat",), 0),
      ("portability", "sound", "a sound a Puli makes is", ("meow",), 0),
      ("reversal", "sound", "meow is a sound made by a", ("Puli",), 0), ("locality", "legs", "Puli have", ("four legs",), 0)]),
    ("hallueditbench", HALLU, [("modify", "What does Ann Ode play?", "oboe", "Ann Ode", None)],
     [("edit", "", "What does Ann Ode play?", ("oboe",), 0), ("paraphrase", "", "Ann Ode's instrument?", ("oboe",), 0),
      ("portability", "yes", "Is it the oboe?", ("Yes",), 0), ("portability", "no", "Is it the harp?", ("No",), 0),
      ("portability", "multiple_choice", "Which? A. harp B. oboe", ("B",), 0),
      ("reversal", "reversed_relation", "Who plays the oboe?", ("Ann Ode",), 0),
      ("multi-hop", "2-hop", "What is it made of?", ("wood",), None), ("locality", "", "Where was Ann Ode born?", (), 0)]),
    ("editing-attack", ATTACK, [("modify", "What does tea heal?", "wounds", "tea", None)],
     [("edit", "", "What does tea heal?", ("wounds",), 0), ("paraphrase", "", "What is healed by tea?", ("wounds",), 0),
      ("portability", "", "What does green tea heal?", ("wounds",), 0)]),
]  # fmt: skip


def put(folder, content, name="x.json"):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("name", "content", "edits", "queries"), TABLE, ids=[f"{row[0]}-{i}" for i, row in enumerate(TABLE)]
)
def test_what_a_record_yields(tmp_path, name, content, edits, queries):
    path = put(tmp_path, content)
    found = read_set(path)
    case = found.cases[0]
    assert found.format == name
    assert [(e.kind, e.prompt or e.statement, e.target, e.subject, e.old) for e in case.edits] == edits
    assert [(q.kind, q.label, q.prompt, q.answers, q.of) for q in case.queries] == queries
    assert read(path).edits[: len(edits)] == list(case.edits)  # an import takes the same
    if not isinstance(content, str):  # the same by name
        assert read_cases(path, format=name)[0] == case


def test_every_format_is_tested_and_named_once():
    elsewhere = {
        "memedit",
        "table",
        "mquake",
        "zsre",
        "counterfact",
        "canonical",
    }  # test_formats, test_data, below
    assert {f.name for f in FORMATS} == {row[0] for row in TABLE} | elsewhere


def test_statements_stay_beside_prompts(tmp_path):
    (case,) = read_cases(put(tmp_path, [AKEW]))
    assert case.edit.statement == "Ann Ode took up the oboe as a child."
    (case,) = read_cases(put(tmp_path, ATTACK, "x.csv"))
    assert case.edit.statement == "Tea heals wounds."
    two = read_cases(put(tmp_path, DUNE))[1]
    assert [(q.prompt, q.answers) for q in two.queries] == [
        ("Six by seven?", ("42",)),
        ("Count 7 sixes.", ("42",)),
    ]


def test_conflict_data_is_read_with_what_stands_beside_it(tmp_path):
    put(tmp_path, {"P800": ["The best of {} is", "{} is known for", "x {}"]}, "conflict_prompts.json")
    (case,) = read_cases(put(tmp_path, [ROUND], "hard.json"))
    asks = [q.prompt for q in case.queries if q.kind == "paraphrase"]
    assert asks == ["What is the notable work of Ann Ode?", "The best of Ann Ode is", "Ann Ode is known for"]
    assert {q.label for q in case.queries} == {"round hard"}
    assert case.edit.extra["true_objects"] == ["Dawn", "Eve"]


def test_canonical_facts_are_read_with_the_files_beside_them(tmp_path):
    said = "The capital of Odeland is"
    fact = {
        "statement": f"{said} Ode.",
        "country": "Odeland",
        "capital": "Ode",
        "prefix": said,
        "suffix": " Ode",
    }
    longer = {**fact, "prefix": "In the south lies Odeland, whose first city is"}
    near = {
        "country": "Odeland",
        "prefix": "In Odeland, ships sail from",
        "suffix": " Moe",
        "other_city": "Moe",
    }
    names = ("country_capital_fixed-val", "country_capital_clear_eval-val", "country_capital_hard_neg-val")
    rows = ([fact], [longer], [near, {**near, "prefix": "The capital of Odeland is not"}])
    paths = [
        put(tmp_path, "\n".join(map(json.dumps, r)), f"{n}.jsonl") for n, r in zip(names, rows, strict=True)
    ]
    found = read_set(paths[0])
    assert found.format == "canonical"
    assert [(q.kind, q.label, q.prompt, q.answers) for q in found.cases[0].queries] == [
        ("edit", "", "The capital of Odeland is", ("Ode",)),
        ("paraphrase", "", "In the south lies Odeland, whose first city is", ("Ode",)),
        ("locality", "hard_neg", "In Odeland, ships sail from", ("Moe",)),
    ]
    with pytest.raises(DataError, match="hard negative and holds no fact; read country_capital_fixed"):
        read_cases(paths[2])
    with pytest.raises(DataError, match="asks for balance between two words"):
        read_cases(put(tmp_path, {"prefix": "The nurse said", "suffix1": " he", "suffix2": " she"}))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "format_", "cases", "left_out", "kinds"),
    [
        ("pitfalls/coverage_edit.json", "pitfalls", 2480, 20, "edit paraphrase old"),
        ("pitfalls/reverse_edit.json", "pitfalls", 2445, 55, "edit paraphrase reversal old"),
        ("pitfalls/hard.json", "pitfalls", 2499, 1, "edit paraphrase old"),
        ("eren/counterfact_hard_dev.json", "eren", 558, 0, "paraphrase locality"),
        ("eren/hotpot.json", "eren", 1024, 0, "multi-hop"),
        ("peak/PEAK_counter.json", "peak", 1959, 3, "edit paraphrase locality"),
        ("canonical/country_capital_fixed-val.jsonl", "canonical", 116, 3, "edit paraphrase locality"),
        ("editing_attack/long_tail_100.csv", "editing-attack", 100, 0, "edit paraphrase portability"),
        ("mquake/mquake_stubborn2_dev.json", "mquake", 911, 1, "edit paraphrase multi-hop hop"),
        ("counterfact/counterfact-val.json", "counterfact", 1912, 7, "edit paraphrase locality"),
        ("zsre/zsre_mend_train-1k.json", "zsre", 998, 2, "edit paraphrase locality"),
    ],
)  # fmt: skip
def test_the_real_files(data, name, format_, cases, left_out, kinds):
    found = read_set(data / name, skip_bad=True)
    assert (found.format, len(found.cases), found.left_out) == (format_, cases, left_out)
    assert list(Counter(q.kind for c in found.cases for q in c.queries)) == kinds.split()


@pytest.mark.data
def test_cases_of_the_real_files(data):
    case = read_cases(data / "pitfalls/composite_edit.json", limit=1)[0]
    assert [e.target for e in case.edits] == ["Gena Rowlands", "John Forbes-Robertson"]
    assert case.edits[1].old == "Gena Rowlands"
    case = read_cases(data / "eren/counterfact_hard_dev.json", limit=1)[0]
    assert (case.edit.statement, case.edit.subject) == ("Toko Yasuda plays piano.", "Toko Yasuda")
    wiki = read_set(data / "knowedit/wiki_recent_train.json", split="dev")
    assert len(wiki.cases) == len(wiki.rows) == 172
    alone = read_set(data / "pitfalls/composite_edit.json", limit=100, skip_bad=True, together=False)
    assert (alone.rows[-1], len(alone.refused), len(alone.contradicting)) == (103, 4, 0)
