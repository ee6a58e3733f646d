"""Patches between methods and memory: stored once, found again, gone with their edit, never of another base."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from conftest import tiny_model, tiny_tokenizer
from test_memory import TrigramEncoder

from memedit import kept
from memedit.cli import main
from memedit.cli._group import Bar
from memedit.edit import Edit
from memedit.edited import EditedModel
from memedit.errors import MemoryError_
from memedit.kept import MemoryPatches, bound, described, prepare
from memedit.lm import HFModel
from memedit.memory import EditMemory
from memedit.methods import load_method

FACT = Edit(prompt="The capital of France is", target="Lyon", subject="France")
OTHER = Edit(prompt="The capital of Peru is", target="Cusco", subject="Peru")
BARE = Edit(statement="Two and two is five.")
QUICK = {"steps": 2, "prefixes": [[2, 3]]}


@pytest.fixture
def memory(tmp_path):
    with EditMemory.open(tmp_path / "memory", encoder=TrigramEncoder()) as memory:
        memory.add([FACT, OTHER, BARE])
        yield memory


def rome(memory, **settings):
    return bound(load_method("rome", **{**QUICK, **settings}), MemoryPatches(memory))


def test_what_was_prepared_is_stored_and_not_solved_again(memory, lm, monkeypatch):
    base, method = lm("qwen3"), rome(memory)
    done = list(prepare(method.kept, base, memory.list(), lambda edit: method))
    assert [(one.new, one.error is None) for one in done] == [(True, True), (True, True), (False, False)]
    assert "needs the edit's prompt" in done[2].error
    (row,) = described(memory, 1)
    assert (row["method"], row["size"]) == ("rome", len(memory.get_patch(done[0].key)))
    assert row["seconds"] > 0
    assert row["base"] == base.fingerprint[:12]
    assert row["notes"]["module"].endswith("down_proj")
    fresh = rome(memory)
    monkeypatch.setattr(fresh, "solve", None)  # it would fail if it were called
    assert [one.new for one in prepare(fresh.kept, base, memory.list()[:2], lambda edit: fresh)] == [
        False
    ] * 2
    with fresh.applied(base, [[FACT], [OTHER]]) as model:
        model.generate(["a", "b"], max_new_tokens=2)


def test_a_patch_of_another_base_or_of_other_settings_is_never_used(memory, lm):
    first = rome(memory)
    list(prepare(first.kept, lm("qwen3"), memory.list()[:1], lambda edit: first))
    (one,) = prepare(first.kept, lm("llama"), memory.list()[:1], lambda edit: first)
    assert (one.new, one.others) == (True, 1)
    other = rome(memory, lr=0.1)
    (one,) = prepare(other.kept, lm("llama"), memory.list()[:1], lambda edit: other)
    assert (one.new, one.others) == (True, 2)
    assert len({row["key"] for row in described(memory, 1)}) == 3


def test_a_kept_patch_that_is_passed_over_is_named_once(memory, lm, caplog):
    def said(base, **settings):
        caplog.clear()
        rome(memory, **settings).patch(lm(base), FACT)
        return [r.getMessage() for r in caplog.records if "prepared" in r.getMessage()]

    with caplog.at_level("INFO", logger="memedit"):
        (first,) = said("qwen3")
        assert "anew" not in first
        (other,) = said("llama")
        assert "anew in" in other
        assert other.endswith(f": the kept one is for another base, {lm('qwen3').fingerprint[:8]}")
        assert said("llama") == []
        (settings,) = said("llama", lr=0.1)
        assert settings.endswith(": the kept one is for other settings")


def test_a_cut_off_run_keeps_what_it_finished(memory, lm, monkeypatch):
    base, method = lm("qwen3"), rome(memory)
    solve = method.solve

    def stopped(base, edit, settings):
        if edit == OTHER:
            raise KeyboardInterrupt
        return solve(base, edit, settings)

    monkeypatch.setattr(method, "solve", stopped)
    with pytest.raises(KeyboardInterrupt):
        list(prepare(method.kept, base, memory.list(), lambda edit: method))
    assert [len(memory.patches(i)) for i in (1, 2)] == [1, 0]
    assert len(list((memory.path / "patches").iterdir())) == 1
    fresh = rome(memory)
    done = list(prepare(fresh.kept, base, memory.list()[:2], lambda edit: fresh))
    assert [one.new for one in done] == [False, True]
    assert [one.new for one in prepare(fresh.kept, base, memory.list()[:2], lambda e: fresh, anew=True)] == [
        True
    ] * 2


def test_edits_that_say_the_same_share_a_patch_and_a_purge_takes_it(memory, lm):
    method = rome(memory)
    method.patch(lm("qwen3"), FACT)
    key = method.key(lm("qwen3"), FACT)
    assert memory.get_patch(key) is not None
    assert memory.about_patch(key)["content"] == FACT.content_hash
    memory.purge([1])
    assert memory.get_patch(key) is None
    assert not list((memory.path / "patches").iterdir())
    method.kept.put(
        key, FACT, method.prepare(lm("qwen3"), FACT)
    )  # of an edit that is gone nothing is written
    assert not list((memory.path / "patches").iterdir())
    assert memory.about_patch(key) == {}


def test_a_damaged_patch_is_prepared_anew(memory, lm):
    method = rome(memory)
    method.patch(lm("qwen3"), FACT)
    (file,) = (memory.path / "patches").iterdir()
    file.write_bytes(file.read_bytes()[:-4])
    fresh = rome(memory)
    (one,) = prepare(fresh.kept, lm("qwen3"), memory.list()[:1], lambda edit: fresh)
    assert one.new
    assert memory.get_patch(one.key) is not None


def test_what_can_not_be_stored_is_not_called_prepared(memory, lm, monkeypatch):
    base, method = lm("qwen3"), rome(memory)

    def full(*given):
        raise MemoryError_("the patch can't be written: no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(memory, "keep_patch", full)
        for _ in range(2):
            (one,) = prepare(method.kept, base, memory.list()[:1], lambda edit: method)
            assert (one.key, one.error) == (None, "the patch can't be written: no space left on device")
        held = method.patch(base, FACT)  # a call goes on with what is known in this process alone
    assert memory.patches() == []
    (one,) = prepare(method.kept, base, memory.list()[:1], lambda edit: method)
    assert (one.new, one.error, len(memory.patches(1))) == (False, None, 1)
    assert method.patch(base, FACT) is held
    dead = memory.get(2)
    memory.forget(2)
    (one,) = prepare(method.kept, base, [dead], lambda edit: method)
    assert "no live edit says so" in one.error
    assert memory.patches(2) == []


def test_a_memory_for_reading_is_written_only_where_that_was_said(memory, lm, tmp_path):
    with EditMemory.open(tmp_path / "memory", encoder=TrigramEncoder(), readonly=True) as reader:
        quiet = bound(load_method("rome", **QUICK), MemoryPatches(reader))
        assert quiet.patch(lm("qwen3"), FACT) is quiet.patch(lm("qwen3"), FACT)
        assert memory.patches() == []
        open_ = bound(load_method("rome", **QUICK), MemoryPatches(reader, writes=True))
        open_.patch(lm("qwen3"), FACT)
        assert len(memory.patches()) == 1


def test_no_more_patches_are_held_ready_than_there_is_room_for(memory, lm, monkeypatch):
    monkeypatch.setattr(kept, "BUDGET", 400)
    method = rome(memory)
    for edit in (FACT, OTHER):
        method.patch(lm("qwen3"), edit)
    assert len(method.kept._ready) == 1
    assert method.kept._bytes == method.patch(lm("qwen3"), OTHER).size


def test_an_edited_model_mixes_methods_in_one_batch(tmp_path, classifier):
    base = HFModel(tiny_model("qwen3"), tiny_tokenizer())
    with EditMemory.open(tmp_path / "m", encoder=classifier) as memory:
        memory.add([FACT.updated(method="rome"), OTHER.updated(method="ft-m")])
        memory.add(Edit(prompt="The capital of Chad is", target="Moundou", subject="Chad", method="ice"))
        model = EditedModel.from_pretrained(
            base.model,
            tokenizer=base.tokenizer,
            memory=memory,
            settings={"rome": QUICK, "ft-m": {"steps": 2}},
        )
        prompts = [*(f"The capital of {name} is" for name in ("France", "Peru", "Chad")), "Two and two is"]
        options = {"max_new_tokens": 6, "do_sample": False}
        routes = model.route(prompts)
        assert [r.method for r in routes] == ["rome", "ft-m", "ice", None]
        texts = model.generate(prompts, **options)
        assert sorted(p["method"] for p in memory.patches()) == ["ft-m", "rome"]
        assert texts == [model.generate([p], **options)[0] for p in prompts]
        assert texts[3] == model.base.generate([prompts[3]], **options)[0]
        inputs = model.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
        out = model.generate(**inputs, **options)
        width = inputs["input_ids"].shape[1]
        assert (out[:, :width] == inputs["input_ids"]).all()
        assert model.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True) == texts


@pytest.mark.parametrize(
    ("first", "then"), [("rome", "ft-m"), ("ft-m", "ice"), ("ice", "rome"), ("ice", "ice")]
)
def test_of_two_edits_of_one_prompt_the_newest_counts_alone_whatever_their_methods(memory, lm, first, then):
    older = FACT.updated(method=first)
    newer = FACT.updated(target="Nice", statement="The capital of France is Nice.", method=then)
    settings = {"rome": QUICK, "ft-m": {"steps": 1}}
    model = EditedModel.from_pretrained(
        lm("qwen3").model, tokenizer=lm("qwen3").tokenizer, memory=memory, settings=settings
    )
    with model.knowing([[older, newer], [newer]]) as applied:
        both, alone = applied.rows
    assert (both == alone) == (
        (first, then) != ("ice", "ice")
    )  # what is only read is all read, the last one last
    assert "Nice" in str(both.context) or both.patch
    other = OTHER.updated(method=then)
    with model.knowing([[older, other], [other]]) as applied:  # of another prompt: both count
        assert applied.rows[0] != applied.rows[1]


def test_the_commands_prepare_and_show(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_model("qwen3").save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    quick = ["--model", "model", "--set", "rome.steps=2", "--set", "rome.prefixes=[[2,3]]"]

    def run(*args, code=0):
        done = CliRunner().invoke(main, [*args, "-m", "mine"])
        assert done.exit_code == code, done.output
        return done

    run("add-fact", "--prompt", FACT.prompt, "--target", "Lyon", "--subject", "France")
    said = run(
        "add-fact", "--prompt", OTHER.prompt, "--target", "Cusco", "--method", "rome", "--prepare", *quick
    )
    assert "prepared 1 patch for base" in said.output
    said = run("prepare", "--json", *quick)
    first, second = json.loads(said.stdout)
    assert (first["method"], first["key"], second["new"]) == ("ice", None, False)
    said = run("prepare", "1", *quick).output
    assert "1 edit by ice with nothing to prepare; take a method that has patches by --method" in said
    assert json.loads(run("prepare", "--tag", "none", "--json", *quick).stdout) == []
    said = run("prepare", "--method", "ft-m", "--set", "ft-m.steps=2", "--model", "model")
    assert "prepared 2 patches" in said.output
    assert CliRunner().invoke(main, ["forget", "1", "-m", "mine"]).exit_code == 0
    assert "edit 1 was forgotten" in run("prepare", "1", *quick, code=1).output
    assert CliRunner().invoke(main, ["undo", "-m", "mine"]).exit_code == 0
    run("add-fact", "--prompt", "The capital of it is", "--target", "Oslo")
    said = run("prepare", "--method", "rome", *quick, code=1)
    assert "edit 3: which words of 'The capital of it is' are its subject can't be told" in said.output
    assert "prepared 1 patch for base" in said.output
    shown = run("show", "2")
    assert "rome for base" in shown.output
    assert "module model.layers.0.mlp.down_proj" in shown.output
    assert {p["method"] for p in json.loads(run("show", "2", "--json").stdout)["patches"]} == {"rome", "ft-m"}


def test_only_the_edits_own_patches_are_opened_to_say_what_was_passed_over(memory, lm, monkeypatch):
    base, method, opened = lm("qwen3"), rome(memory), []
    list(prepare(method.kept, base, memory.list()[:2], lambda edit: method))
    about = memory.about_patch
    monkeypatch.setattr(memory, "about_patch", lambda key: opened.append(key) or about(key))
    other = rome(memory, lr=0.1)
    other.patch(base, FACT)
    assert opened == [method.key(base, FACT)]


def test_a_patch_tells_its_settings_and_whether_the_edit_was_changed_since(memory, lm):
    base, kn = lm("qwen3"), load_method("kn", steps=2, prefixes=[[1, 2]])
    bound(kn, MemoryPatches(memory))
    method = rome(memory)
    for one in (method, kn):
        list(prepare(one.kept, base, [memory.get(1)], lambda edit, one=one: one))
    rows = {row["method"]: row for row in described(memory, 1)}
    assert rows["rome"]["given"] == QUICK
    assert rows["rome"]["settings"]["clamp"] == 4.0
    assert [row["earlier"] for row in rows.values()] == [False, False]
    memory.update(1, old="Paris")
    assert {row["method"]: row["earlier"] for row in described(memory, 1)} == {"rome": False, "kn": True}
    memory.update(1, target="Nice")
    assert {row["earlier"] for row in described(memory, 1)} == {True}


def test_what_can_not_be_prepared_is_not_added_and_a_bar_tells_of_the_covariance(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMEDIT_CACHE", str(tmp_path / "cache"))
    tiny_model("qwen3").save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    told = []

    class Told(Bar):
        def __init__(self, shown, text, passing=False):
            super().__init__(shown, text, passing)
            self.text = text

        def __call__(self, done, total):
            super().__call__(done, total)
            told.append((self.text, done, total))

        def beside(self, text):
            return Told(self._shown, text, passing=True)

    monkeypatch.setattr("memedit.cli._group.Bar", Told)
    how = [
        "--method",
        "rome",
        "--prepare",
        "--model",
        "model",
        "--set",
        "rome.steps=2",
        "--set",
        "rome.prefixes=[[2,3]]",
    ]

    def run(*args, code=0):
        done = CliRunner().invoke(main, [*args, "-m", "mine"])
        assert done.exit_code == code, done.output
        return done.output

    run("add-fact", "--prompt", "The capital of it is", "--target", "Rome")
    said = run("add-fact", "--prompt", "The capital of it is", "--target", "Oslo", *how, code=1)
    assert "nothing was added: which words of 'The capital of it is' are its subject can't be told" in said
    assert "give --subject" in said
    assert [edit["target"] for edit in json.loads(run("list", "--json"))] == ["Rome"]
    said = run("add-fact", "--prompt", FACT.prompt, "--target", "Lyon", "--subject", "France", *how)
    assert "prepared 1 patch for base" in said
    parts = [one for one in told if one[0] == "key covariance"]
    assert parts[-1][1] == parts[-1][2] > 1
    assert "set prefixes=[[2, 3]], steps=2" in run("show", "2")
    run("update", "2", "--target", "Nice")
    assert "for an earlier version of the edit" in run("show", "2")
