"""The report of a run: what it says, that it is whole, safe and quick, and what it refuses."""

from __future__ import annotations

import copy
import csv
import html.parser
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click.testing import CliRunner
from report_runs import run, run_file

from memedit.cli import main
from memedit.errors import DataError
from memedit.report import content, folder, read_run, write_report
from memedit.report import page as pages
from memedit.report.markdown import markdown, plain_line
from memedit.report.picking import COLUMNS, column, flattering, taken, truest
from memedit.report.published import METHODS, paper_set, published

EVIL = "</script><script>alert(1)</script> & \"q\" 'q' <!-- | `x` \u2028 \x00 \ud800 é"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The sample run with an answer that holds what would break a page, written out once."""
    given = run_file()
    given["runs"][1]["answers"][0] |= {"prompt": EVIL, "text": EVIL}
    folder = tmp_path_factory.mktemp("report") / "out"
    return write_report(given, folder)[0].parent


class Parts(html.parser.HTMLParser):
    """Tags with their attributes, ids, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def test_all_files_are_there_and_the_figures_are_whole(report):
    figures = {f"{name}.{kind}" for name in ("scores", "sizes", "drift", "time") for kind in ("png", "svg")}
    assert {path.name for path in report.iterdir()} == {"report.md", "report.html", "scores.csv", *figures}
    for name in figures:
        data = (report / name).read_bytes()
        if name.endswith("png"):
            assert data.startswith(b"\x89PNG")
        else:
            assert ET.fromstring(data).tag.endswith("svg")


def test_the_page_asks_nobody_for_anything_and_nothing_breaks_out(report):
    text = (report / "report.html").read_text(encoding="utf-8")
    page = Parts(text)
    assert len(page.scripts) == 2
    assert [tag for tag, _ in page.tags].count("script") == 2
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "base", "object")
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href"):
                assert value.startswith("#"), (tag, value)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for target in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text):
        assert (target[0] or target[1]) in ids
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_the_page_holds_every_answer_as_it_was(report):
    data = json.loads(Parts((report / "report.html").read_text(encoding="utf-8")).scripts[0])
    file = read_run(run_file())
    assert len(data["rows"]) == sum(len(one.answers) for one in file.runs)
    said = [data["texts"][row[8]] for row in data["rows"]]
    assert said.count(EVIL) == 1
    assert [t for t in said if t != EVIL][:3] == [a["text"] for a in file.runs[0].answers][:3]


def test_markdown_and_page_say_the_same_numbers(report):
    file = read_run(run_file())
    words = (report / "report.md").read_text(encoding="utf-8")
    page = (report / "report.html").read_text(encoding="utf-8")
    for one in truest(file.runs):
        for what in COLUMNS[:4]:
            score = taken(one, what)
            assert f"{100 * score.value:.1f}" in words
            assert f"{100 * score.value:.1f}" in page
    for text in (words, page):
        assert "98.68" in text  # SERAC on WikiData recent
        assert "Llama-2-7b-chat" in text
        assert "teacher-forced: the gold answer is fed in" in text
        assert "floor 10.0" in text
    assert "MEMIT" in words  # the paper's methods that were not run stand there, too
    assert "<script" not in words


def test_misses_come_first_with_their_examples(report):
    words = (report / "report.md").read_text(encoding="utf-8")
    assert words.index("**missed**") < words.index("**met**")
    file = read_run(run_file())
    miss = file.goals[1]
    assert len(miss["examples"]) == 3
    for place in miss["examples"]:
        owner, answer = file.answer(place)
        assert (owner.method, answer["kind"], answer["success"]) == ("ice", "paraphrase", False)
        assert plain_line(answer["prompt"]) in words


def test_scores_csv_holds_every_score(report):
    rows = list(csv.DictReader((report / "scores.csv").open(encoding="utf-8")))
    runs = run_file()["runs"]
    assert len(rows) == sum(len(one["scores"]) for one in runs)
    assert float(rows[0]["value"]) == runs[0]["scores"][0]["value"]


def test_the_true_run_is_the_hard_one_and_the_kind_ones_stand_beside_it():
    file = read_run(run_file())
    rome = next(r for r in truest(file.runs) if r.key == ("wiki_recent", "rome", "merged"))
    assert (rome.when, rome.edits) == ("after-all", 24)
    hows = {f.how: f for f in flattering(rome, file.runs, column("success"))}
    assert set(hows) == {"teacher-forced", "right after each edit"}
    kind = hows["right after each edit"]
    assert kind.score.value > kind.true.value + 0.3
    ice = next(r for r in truest(file.runs) if r.key == ("wiki_recent", "ice", "routed"))
    assert "handed its own edit" in {f.how for f in flattering(ice, file.runs, column("success"))}


def test_a_figure_is_left_out_where_there_is_nothing_to_draw(tmp_path):
    one = run("counterfact-val", "ice", size=2) | {"drift": None, "seconds": {}}
    write_report({"format": 1, "runs": [one]}, tmp_path)
    assert {p.name for p in tmp_path.glob("*.png")} == {"scores.png"}
    assert "drift.png" not in (tmp_path / "report.md").read_text()


def test_published_numbers_are_of_the_papers_sets_alone():
    assert paper_set("counterfact-val") is None
    assert paper_set("wiki_counterfact") == paper_set("WikiData_counterfact-dev") == "wiki_counterfact"
    assert paper_set("ZsRE-test-all") == "zsre"
    assert published("counterfact-val", "ice", "success") is None
    assert published("zsre", "oracle:ice", "success") is None
    assert published("zsre", "serac", "locality").paper == 30.23
    assert str(published("wiki_recent", "rome", "success")) == "85.08 / 97.18"
    assert str(published("sanitation", "rome", "success")) == "85.00"
    assert published("wikibio", "ice", "portability") is None
    for method in METHODS:
        assert published("wiki_counterfact", method, "fluency").paper > 500


@pytest.mark.parametrize("text", [EVIL, "a|b\nc", "# h", "*x* _y_ [l](u)", "wiki_recent"])
def test_markdown_keeps_a_table_whole(text):
    line = plain_line(text)
    assert "\n" not in line
    assert not re.search(r"(?<!\\)\|", line)
    assert "<" not in line
    assert plain_line("wiki_recent") == "wiki_recent"


def test_large_runs_stay_small_and_quick_in_the_page():
    """Texts that repeat stand once; a row of numbers for each answer."""
    one = run("counterfact-val", "ice", size=400)
    file = read_run({"format": 1, "runs": [copy.deepcopy(one) for _ in range(5)]})
    packed = pages.script_json(pages.answers(file.runs))
    assert len(packed) < 0.25 * len(json.dumps([r.answers for r in file.runs]))


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run the page's script")
def test_the_browsers_filters_find_what_they_should(tmp_path):
    file = read_run(run_file())
    data = pages.answers(file.runs)
    (tmp_path / "data.json").write_text(json.dumps(data))
    script = Path(pages.__file__).with_name("page.js")
    wanted = {
        "data": "wiki_recent",
        "run": "rome, merged",
        "kind": "portability: Reasoning",
        "verdict": "miss",
        "search": "",
    }
    code = (
        f"const page = require({str(script)!r}); const data = require({str(tmp_path / 'data.json')!r});"
        f"const wanted = {json.dumps(wanted)};"
        "const one = page.fitting(data, wanted);"
        "const two = page.fitting(data, {...wanted, search: 'TOWN wiki_recent-7'});"
        "console.log(JSON.stringify([one, two, page.routed(data, data.rows[one[0]])]));"
    )
    out = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True, timeout=60)
    one, two, said = json.loads(out.stdout)
    every = [(r, a) for r in file.runs for a in r.answers]
    right = [
        i for i, (r, a) in enumerate(every)
        if (r.data, r.method, r.way, a["label"], a["success"]) == ("wiki_recent", "rome", "merged", "Reasoning", False)
    ]  # fmt: skip
    assert one == right
    assert two == [i for i in right if "town 7 " in every[i][1]["prompt"]]
    assert two
    assert said.startswith("no router")


# --- what is refused -------------------------------------------------------------------------------------------


def refused(tmp_path, text: str | bytes, *more: str) -> str:
    """The one line that `memedit report` prints of a file; nothing is written."""
    path = tmp_path / "run.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    done = CliRunner().invoke(main, ["report", str(path), "--output", str(tmp_path / "out"), *more])
    assert done.exit_code == 1, done.output
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    return done.stderr


def test_what_is_no_run_file_is_refused_in_one_sentence(tmp_path):
    whole = json.dumps({"format": 1, "runs": [run("d", "ice", size=1)]})
    assert "half-written" in refused(tmp_path, whole[: len(whole) // 2])
    assert "half-written" in refused(tmp_path, whole[:-1])
    assert "is not JSON" in refused(tmp_path, "prompt,target\na,b\n")
    assert 'holds no list "runs"' in refused(tmp_path, '{"setting": {}, "scores": []}')
    assert 'holds no list "runs"' in refused(tmp_path, "[1, 2]")
    assert "not UTF-8" in refused(tmp_path, b"\xff\xfe{}")
    assert "update memedit" in refused(tmp_path, whole.replace('"format": 1', '"format": 2', 1))
    assert "has no answers" in refused(tmp_path, '{"format": 1, "runs": []}')
    empty = {
        "format": 1,
        "runs": [run("d", "ice", size=1) | {"answers": [], "failed": [{"case": "1", "error": "boom"}]}],
    }
    assert "boom" in refused(tmp_path, json.dumps(empty))
    assert "lacks scores" in refused(
        tmp_path,
        json.dumps({"format": 1, "runs": [{**empty["runs"][0], "x": 1}]}).replace('"scores"', '"other"'),
    )
    assert "is 'high' and no number" in refused(tmp_path, whole.replace('"value": 5.4', '"value": "high"'))


def test_a_missing_file_and_a_wrong_folder_are_refused(tmp_path):
    whole = json.dumps({"format": 1, "runs": [run("d", "ice", size=1)]})
    path = tmp_path / "run.json"
    path.write_text(whole)
    call = CliRunner().invoke
    assert (
        "there is no file"
        in call(main, ["report", str(tmp_path / "no.json"), "-o", str(tmp_path / "o")]).stderr
    )
    assert "is a file" in call(main, ["report", str(path), "-o", str(path)]).stderr
    assert "make it first" in call(main, ["report", str(path), "-o", str(tmp_path / "a" / "b")]).stderr
    assert call(main, ["report", str(path)]).exit_code == 2
    assert call(main, ["report", str(path), str(path), str(path)]).exit_code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_folder_that_can_not_be_written_is_left_as_it_was(tmp_path, monkeypatch):
    (tmp_path / "report.md").write_text("mine")
    real = Path.write_bytes

    def full(self, data):
        if self.name == "b":
            raise OSError(28, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="No space left"):
        folder.write_files(tmp_path, {"report.md": "new", "b": "x"})
    with pytest.raises(DataError, match="No space left"):
        folder.write_files(tmp_path / "new", {"a": "x", "b": "x"})
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("report.md", "mine")]


def test_numbers_that_are_none_leave_a_cell_empty():
    one = run("zsre", "ice", size=2)
    for score in one["scores"]:
        score.update(low=float("nan"), floor=None)
    one["scores"][0]["value"] = float("nan")
    text = markdown(content.blocks(read_run({"format": 1, "runs": [one]}), []))
    assert "nan" not in text.lower()


@pytest.mark.parametrize("junk", [None, "x", 0.5, [], {}, True])
@pytest.mark.parametrize(
    "key", ["answers", "old", "base", "text", "fired", "right", "route", "success", "unchanged", "forced"]
)
def test_an_answer_with_a_field_of_another_kind_still_shows(key, junk):
    one = run("zsre", "ice", size=1)
    one["answers"][0][key] = junk
    file = read_run(
        {
            "format": 1,
            "runs": [one],
            "goals": [{"what": "w", "met": False, "examples": [0, 9999, "x", [0, 0]]}],
        }
    )
    assert plain_line(one["answers"][0]["prompt"]) in markdown(content.blocks(file, []))
    assert pages.page(content.blocks(file, []), {}, file.runs).endswith("</html>\n")


def test_a_paper_column_without_ours_says_what_it_is_and_folded_tables_have_a_title():
    one = run("zsre", "ice", size=1)
    one["scores"] = [s for s in one["scores"] if s["kind"] != "portability"]
    words = markdown(content.blocks(read_run({"format": 1, "runs": [one]}), []))
    assert "| Edit success | paper | Paraphrases | Portability, paper | Locality | paper |" in words
    assert "All other scores of zsre:\n\n| kind |" in words
