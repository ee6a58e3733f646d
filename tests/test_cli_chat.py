"""`memedit chat`: turns piped in, from a file, and at a terminal; commands that begin with a slash."""

from __future__ import annotations

import json

import pytest
import torch
from chat_templates import TEMPLATES
from click.testing import CliRunner
from conftest import tiny_model, tiny_tokenizer

from memedit.cli import main
from memedit.cli.chat import Talk, _fact, _streamer
from memedit.edit import Edit
from memedit.edited import EditedModel
from memedit.lm import HFModel
from memedit.memory import EditMemory
from memedit.router import Router

FACT = Edit(prompt="The birthplace of Ada Abara is", target="Oslo", subject="Ada Abara")
ASKED = "Where was Ada Abara born?"


@pytest.fixture
def memory(tmp_path, classifier):
    with EditMemory.open(tmp_path / "m", encoder=classifier) as m:
        yield m


def run(memory, *args, stdin=None, code=0):
    given = ["chat", "--memory", str(memory.path), "--max-new-tokens", "8", *args]
    done = CliRunner().invoke(main, given, input=stdin)
    assert done.exit_code == code, done.output
    return done


def test_a_conversation_is_piped_in(memory):
    said = run(memory, stdin=f"""/edits
/add-fact The birthplace of Ada Abara is Oslo. --target Oslo --subject "Ada Abara"
{ASKED}
No, it's Rome.
/route
/edits
/undo
Are you sure?
/reset
/system Be brief.
/help
/nonsense
/exit
What is never asked?
""")  # fmt: skip
    out, err = said.stdout, said.stderr
    assert out.count("Oslo.\n") >= 3
    assert "no edits" in err
    assert "edit 1: The birthplace of Ada Abara is Oslo. (direct: names the subject" in err
    assert "(in the light of an earlier turn, which this one takes up: direct" in err
    assert "-> edit 1 by ice" in out
    assert "undone: the add of 1 edit" in out
    assert "no edit in scope: the base answered" in err
    assert "a new conversation" in err
    assert "no command /nonsense" in err
    assert len(memory) == 0


def test_a_file_of_turns_is_answered_in_json(memory, tmp_path):
    memory.add(FACT)
    rows = [
        {"role": "system", "content": "Be brief."},
        {"content": "Is Ada Abara tall?"},
        {"content": "Where was she born?", "n": 7},
        {"role": "assistant", "content": "In Rome."},
        {"content": "Really?"},
    ]
    file = tmp_path / "turns.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = [json.loads(line) for line in run(memory, "--input", str(file), "--json").stdout.splitlines()]
    assert [a["fired"] for a in answers] == [False, True, True]
    assert answers[1]["n"] == 7
    assert answers[1]["query"] == "Where was Ada Abara born?"
    assert answers[1]["reasons"][0].startswith("in the light of an earlier turn")
    plain = run(memory, "--input", str(file)).stdout
    assert plain.splitlines() == [a["text"] for a in answers]


def test_turns_of_a_program_may_be_piped_in_without_a_file(memory):
    memory.add(FACT)
    out = run(memory, "--json", stdin=f"{ASKED}\n\n/route\n").stdout.splitlines()
    assert json.loads(out[0])["text"] == "Oslo."
    assert json.loads(out[1])["content"] == "/route"  # a program's text is never a command


def test_what_is_wrong_is_one_line(memory, tmp_path):
    file = tmp_path / "turns.jsonl"
    for line, why in (
        ('{"text": "x"}', 'needs {"content": "..."}'),
        ('{"role": "tool", "content": "x"}', "write user, assistant or system"),
        (json.dumps({"content": "word " * 4000}), "shorten the prompt"),
    ):
        file.write_text(line + "\n")
        done = run(memory, "--input", str(file), code=1)
        assert why in done.stderr
        assert "Traceback" not in done.output
    done = run(memory, stdin="/undo\n", code=1)
    assert "error" in done.stderr


def test_at_a_terminal_errors_are_shown_and_the_talk_goes_on(memory, monkeypatch, capsys):
    from memedit.cli import chat as command

    module = __import__("sys").modules[command.callback.__module__]
    memory.add(FACT)
    lines = iter(["/undo now", "/add-fact", "/add-fact --help", "", ASKED, "/exit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    talk = Talk(EditedModel(HFModel.from_pretrained("base"), Router(memory)), None, 8)
    module._converse(talk)
    said = capsys.readouterr()
    assert said.err.count("error: ") == 2  # a word too many, and no fact
    assert "Oslo." in said.out
    assert talk.messages[-1] == {"role": "assistant", "content": "Oslo."}


@pytest.fixture
def tiny(memory):
    tokenizer = tiny_tokenizer()
    return lambda: Talk(EditedModel(HFModel(tiny_model(), tokenizer), Router(memory)), "Be brief.", 16)


@pytest.mark.parametrize("name", [None, "merged"])
def test_what_is_shown_bit_by_bit_is_the_answer(tiny, name):
    talk = tiny()
    tokenizer = talk.edited.tokenizer
    tokenizer.chat_template = TEMPLATES.get(name)
    shown: list[str] = []
    assert talk.say("How do I bake bread?", show=shown.append) == "".join(shown)
    shown.clear()
    streamer = _streamer(talk.edited, shown.append)
    streamer.put(torch.tensor([[5, 6]]))  # the prompt
    for token in tokenizer(" Flour and\nwater.\nQuestion: what")["input_ids"]:
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert len(shown) > 2
    assert "".join(shown) == ("Flour and\nwater." + ("" if name is None else "\nQuestion: what"))


def test_the_oldest_turns_make_room_and_the_system_prompt_stays(tiny, memory):
    memory.add(FACT)
    talk = tiny()
    for n in range(3):
        talk.messages += [
            {"role": "user", "content": f"{n} What about bread? " * 10},
            {"role": "assistant", "content": "Bread."},
        ]
    seen = []
    talk.edited.chat = lambda messages, **options: (
        seen.append(messages) or "x"
    )  # what the model would be given
    talk.say(ASKED)
    assert seen[0][0] == {"role": "system", "content": "Be brief."}
    assert seen[0][-1]["content"] == ASKED
    assert [m["content"][0] for m in seen[0][1:-1:2]] == ["2"]
    assert talk.dropped == 4
    assert len(talk.messages) == 8  # what was said is still known


def test_a_fact_needs_no_quotes():
    assert _fact("It's so. --target so --subject It") == ["It's so.", "--target", "so", "--subject", "It"]
    assert _fact('"It is so." --subject "A B"') == ["It is so.", "--subject", "A B"]
    assert _fact("Bo's dog is Rex. --subject Bo's dog") == ["Bo's dog is Rex.", "--subject", "Bo's dog"]
    assert _fact("") == []
