"""What ROME's family shares: subjects, keys and values, the second moment of keys; and ROME's algebra."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ALL_FAMILIES, tiny_model, tiny_tokenizer

from memedit import layout
from memedit.edit import Edit
from memedit.errors import DataError, MethodError, ModelError
from memedit.layout import Layout
from memedit.lm import HFModel
from memedit.methods import _moments, load_method
from memedit.methods._locate import Optimiser, ask, keys, optimise, random_prefixes, subject_of
from memedit.methods._moments import second_moment
from memedit.methods._papers import LAYERS
from memedit.methods._watch import watched
from memedit.methods.rome import rank_one, solved

FACT = Edit(prompt="The capital of France is", target="Lyon", subject="France")
FIRST = Edit(prompt="France has the capital", target="Lyon", subject="France")
PREFIXES = ("Once upon", "It was in", "A")


# -- layout


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_the_layout_names_modules_of_the_right_shape(lm, family):
    model = lm(family).model
    found = Layout.of(model)
    assert len(found) == 2
    assert found.family == model.config.model_type
    assert found.final_norm is not None
    for block in found.blocks:
        high, wide = layout.weight(model, block.mlp_out).shape
        assert high == 32
        assert all(layout.weight(model, name).shape == (wide, 32) for name in block.mlp_in)
        assert layout.weight(model, block.attention_out).shape[0] == 32
        assert len(block.mlp_in) == (2 if family in ("llama", "mistral", "qwen2", "qwen3", "gemma") else 1)
        assert block.norms
    assert model.get_submodule(found.embedding) is model.get_input_embeddings()
    assert model.get_submodule(found.head) is model.get_output_embeddings()
    assert found.blocks[1].mlp_out in str(found).replace("layers.0", "layers.1").replace("h.0", "h.1")


def test_weights_are_out_by_in_whatever_the_storage(lm):
    x = torch.randn(3, 32)
    for family in ("gpt2", "llama"):
        module = Layout.of(lm(family).model).blocks[0].mlp_in[0]
        own = lm(family).model.get_submodule(module)
        bias = own.bias if own.bias is not None else 0
        assert torch.allclose(own(x), x @ layout.weight(lm(family).model, module).T + bias, atol=1e-5)


def test_what_has_no_such_layout_is_refused():
    from transformers import AutoConfig, AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )
    with pytest.raises(ModelError, match="encoder-decoder"):
        Layout.of(t5)
    small = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1}
    mamba = AutoModelForCausalLM.from_config(AutoConfig.for_model("mamba", state_size=4, **small))
    with pytest.raises(ModelError, match="no blocks of attention and MLP"):
        Layout.of(mamba)
    more = {
        "num_local_experts": 2,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    mixtral = AutoModelForCausalLM.from_config(AutoConfig.for_model("mixtral", **small, **more))
    with pytest.raises(ModelError, match="mixture of experts"):
        Layout.of(mixtral)


@pytest.mark.parametrize("method", ["rome", "ft-m", "ft-l"])
def test_quantised_weights_are_refused(method):
    class Linear8bitLt(torch.nn.Linear):
        pass

    base = HFModel(tiny_model("llama"), tiny_tokenizer())
    for block in base.model.model.layers:
        block.mlp.down_proj.__class__ = Linear8bitLt
    with pytest.raises(ModelError, match=r"down_proj is quantised .* --method ice"):
        load_method(method).prepare(base, FACT)


# -- subjects


def test_the_subject_is_given_or_the_one_name_of_the_prompt():
    assert subject_of(FACT) == "France"
    assert subject_of(Edit(prompt="The capital of france is", target="x", subject="France")) == "france"
    assert subject_of(Edit(prompt="The capital of Peru is", target="Cusco")) == "Peru"
    for prompt, name, found in (
        ("Die Straße von Anna ist", "Anna", "Anna"),
        ("Die Straße von Anna ist", "STRASSE", "Straße"),
        ("The peruvian name of Peru is", "Peru", "Peru"),
        ("The name of U.S. presidents in USA", "U.S.", "U.S."),
        ("日本の首都は", "日本", "日本"),
    ):
        assert subject_of(Edit(prompt=prompt, target="x", subject=name)) == found
    two = Edit(prompt="A Peruvian calls Perú", target="x", subject="Peru", subject_aliases=("Perú",))
    assert subject_of(two) == "Perú"
    alias = Edit(prompt="The head of NASA is", target="x", subject="Space Agency", subject_aliases=("NASA",))
    assert subject_of(alias) == "NASA"
    for prompt in ("The capital of it is", "The road from Rome to Paris is"):
        with pytest.raises(MethodError, match="give --subject with the words"):
            subject_of(Edit(prompt=prompt, target="x"))


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("edit", [FACT, FIRST])
def test_each_tail_begins_with_the_subjects_last_token(lm, edit, bos):
    base = lm("llama", bos)
    asked = ask(base, edit, PREFIXES)
    decode = base.tokenizer.decode
    for row in range(len(asked.ends)):
        head = asked.heads[0][row][asked.heads[1][row].bool()]
        tail = asked.tails[0][row][asked.tails[1][row].bool()]
        assert decode(tail[0]) == "e"
        assert decode(head, skip_special_tokens=True).endswith("Franc")
        if row < asked.rows:
            assert decode(tail[asked.ends[row] + 1 :]) == " Lyon"
        else:
            assert decode(torch.cat([head, tail]), skip_special_tokens=True) == "France is a"


@pytest.mark.parametrize("family", ALL_FAMILIES)
@pytest.mark.parametrize("edit", [FACT, FIRST])
def test_reading_heads_once_gives_what_reading_all_gives(lm, family, edit):
    base = lm(family)
    asked = ask(base, edit, PREFIXES)
    name = Layout.of(base.model).blocks[1].mlp_out
    found = keys(base, asked, [name])[name]
    with torch.no_grad():
        logits = asked.forward(base)
        for row, prefix in enumerate(("", *PREFIXES)):
            text = f"{prefix}. {edit.prompt} Lyon" if prefix else f"{edit.prompt} Lyon"
            seen = {}
            with watched(base, {name: lambda args, output, seen=seen: seen.update(x=args[0])}):
                whole = base.model(**base.tokenize([text]), use_cache=False).logits[0]
            n = int(asked.tails[1][row].sum())
            assert torch.allclose(logits[row, :n], whole[-n:], atol=1e-3)
            x = seen["x"].reshape(-1, found.shape[1])
            assert torch.allclose(found[row], x[len(x) - n], atol=1e-4)


def test_prefixes_are_the_same_each_time_and_as_many_as_asked(lm):
    base = lm("qwen3")
    first = random_prefixes(base, ((3, 2), (2, 4)))
    assert len(first) == 5
    assert random_prefixes(base, [[3, 2], [2, 4]]) == first
    assert random_prefixes(HFModel(tiny_model("qwen3"), tiny_tokenizer()), ((3, 2), (2, 4))) == first
    assert random_prefixes(base, ((3, 2), (2, 4)), seed=9) != first


# -- values and ROME's algebra


def test_the_optimisation_makes_the_target_likely_and_keeps_within_the_clamp(lm):
    base = lm("llama")
    asked = ask(base, FACT, PREFIXES)
    name = Layout.of(base.model).blocks[0].mlp_out
    start = optimise(base, asked, [name], Optimiser(steps=0), FACT)[name]
    free = optimise(base, asked, [name], Optimiser(lr=0.3, decay=0.0, clamp=50.0), FACT)[name]
    assert free.loss < start.loss - 0.4
    assert free.probability > start.probability
    tight = optimise(base, asked, [name], Optimiser(lr=0.3, clamp=0.5), FACT)[name]
    assert tight.delta.norm() <= 0.5 * tight.output.norm() * 1.0001
    wide = optimise(base, asked, [name], Optimiser(lr=0.3, kl=50.0, decay=0.0, clamp=50.0), FACT)[name]
    assert wide.delta.norm() < free.delta.norm()


def test_the_loss_has_the_kl_of_now_from_before_and_the_decay(lm):
    base = lm("llama")
    asked, name = ask(base, FACT, PREFIXES), Layout.of(base.model).blocks[0].mlp_out
    how = Optimiser(steps=2, lr=0.3, kl=7.0, decay=2.0, clamp=50.0)
    value = optimise(base, asked, [name], how, FACT)[name]

    def shifted(args, output):
        output = output.clone()
        output[:, 0] += value.delta
        return output

    with torch.no_grad():
        _, before = asked.said(asked.forward(base))
        with watched(base, {name: shifted}):
            found, now = asked.said(asked.forward(base))
    kl = (now.exp() * (now - before)).sum()
    other = (before.exp() * (before - now)).sum()
    assert abs(float(kl - other)) > 1e-3 * float(kl)  # so that the way round shows
    decay = (value.delta.norm() / value.output.norm()) ** 2
    assert value.loss == pytest.approx(float(-found.mean() + 7 * kl + 2 * decay), rel=1e-4)


def test_rome_puts_the_value_at_the_key_in_float64():
    generator = torch.Generator().manual_seed(1)
    m, d = 24, 8
    sample = torch.randn(200, m, generator=generator, dtype=torch.float64)
    moment, w = sample.T @ sample / 200, torch.randn(d, m, generator=generator, dtype=torch.float64)
    key = torch.randn(m, generator=generator, dtype=torch.float64)
    target = torch.randn(d, generator=generator, dtype=torch.float64)
    up, down = rank_one(target - w @ key, key, moment, ridge=0.0)
    new = w + up.double() @ down.double()
    assert torch.allclose(new @ key, target, atol=1e-5)  # stored in float32
    # Of all changes with W' k* = v*, the least in E |(W' - W) k|^2 (the paper's appendix A).
    cost = ((new - w) @ moment @ (new - w).T).trace()
    for _ in range(20):
        other = torch.randn(d, m, generator=generator, dtype=torch.float64)
        other -= torch.outer(other @ key, key) / (key @ key)  # leaves the constraint as it is
        assert ((new - w + 0.1 * other) @ moment @ (new - w + 0.1 * other).T).trace() > cost
    assert torch.allclose(solved(moment, key, 0.0), torch.linalg.solve(moment, key), atol=1e-8)


def test_romes_patch_gives_the_value_that_was_found(lm):
    base = lm("gpt2")
    rome = load_method("rome", steps=3, prefixes=[[2, 3]])
    patch = rome.prepare(base, FACT)
    (module,) = patch.modules
    asked = ask(base, FACT, random_prefixes(base, [[2, 3]]))
    key = keys(base, asked, [module])[module].mean(0)
    effect = patch.modules[module]
    value = optimise(base, asked, [module], Optimiser(steps=3, lr=1.0), FACT)[module]
    assert torch.allclose(effect.up @ (effect.down @ key), value.delta, atol=1e-4)


# -- the second moment


def test_the_second_moment_is_the_mean_over_tokens_and_is_kept(lm, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MEMEDIT_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    lines = ["The sky is blue.", "Grass is green, they say.", "Two and two is four."]
    text.write_text("\n".join(lines))
    base = HFModel(tiny_model("opt"), tiny_tokenizer())
    name = Layout.of(base.model).blocks[1].mlp_out
    steps = []
    with caplog.at_level(logging.INFO, "memedit"):
        found = second_moment(base, name, str(text), lambda done, total: steps.append((done, total)))
    seen = []
    with torch.no_grad(), watched(base, {name: lambda args, output: seen.append(args[0].reshape(-1, 48))}):
        for line in lines:
            base.model(**base.tokenize([line]))
    k = torch.cat(seen)
    assert torch.allclose(found.matrix, k.T @ k / len(k), atol=1e-4)
    assert found.tokens == len(k)
    assert f"{len(k)} keys" in caplog.text
    assert steps[-1][0] == steps[-1][1]
    again = HFModel(tiny_model("opt"), tiny_tokenizer())
    monkeypatch.setattr(_moments, "estimate", None)  # it would fail if it were called
    assert torch.equal(second_moment(again, name, str(text)).matrix, found.matrix)
    monkeypatch.undo()
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    monkeypatch.setenv("MEMEDIT_CACHE", str(tmp_path / "cache"))
    fresh = HFModel(tiny_model("opt"), tiny_tokenizer())
    assert torch.allclose(second_moment(fresh, name, str(text)).matrix, found.matrix)


def test_a_text_that_can_not_be_read_is_named(lm, tmp_path):
    name = Layout.of(lm("opt").model).blocks[0].mlp_out
    with pytest.raises(DataError, match=r"none\.txt for the key covariance can't be read"):
        second_moment(lm("opt"), name, str(tmp_path / "none.txt"))
    (tmp_path / "one.txt").write_text("one line")
    with pytest.raises(DataError, match="has 1 lines"):
        second_moment(lm("opt"), name, str(tmp_path / "one.txt"))


def test_the_null_space_is_of_what_the_text_holds_now(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMEDIT_CACHE", str(tmp_path / "cache"))
    base, text, found = HFModel(tiny_model("llama"), tiny_tokenizer()), tmp_path / "text", []
    method = load_method("alphaedit", text=str(text))
    for lines in ("The sky is blue.\nGrass is green.", "Two and two is four.\nNobody knows why."):
        text.write_text(lines)
        name = Layout.of(base.model).blocks[0].mlp_out
        moment = second_moment(base, name, str(text))
        found.append(method._free(base, name, moment, method.settings_for(base)))
    assert found[0].shape != found[1].shape or not torch.allclose(*found)


def test_what_can_not_be_kept_leaves_nothing_behind(tmp_path, monkeypatch, caplog):
    path = tmp_path / "cache" / "moment"
    _moments.keep_whole(path, b"whole", "second moment")
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    write = Path.write_bytes

    def full(self, data):
        write(self, data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with caplog.at_level(logging.INFO, "memedit"):
        _moments.keep_whole(path, b"other", "second moment")
    assert "the second moment can't be kept" in caplog.text
    assert "No space left" in caplog.text
    assert [p.read_bytes() for p in path.parent.iterdir()] == [b"whole"]


# -- the papers' layers


@pytest.mark.parametrize(
    ("family", "layers", "expected"),
    [
        ("gpt2", 48, {"rome": [17], "memit": [*range(13, 18)], "alphaedit": [*range(13, 18)], "grace": [35], "ft-l": [0]}),
        ("gptj", 28, {"rome": [5], "memit": [*range(3, 9)], "pmet": [*range(3, 9)], "alphaedit": [*range(3, 9)]}),
        ("llama", 32, {"rome": [5], "ft-m": [21], "alphaedit": [*range(4, 9)]}),
        ("mistral", 32, {"rome": [5]}),
        ("qwen3", 40, {"rome": [12], "memit": [*range(10, 15)], "ft-m": [26]}),  # no paper's: by depth
    ],
)  # fmt: skip
def test_the_papers_layers_are_taken_where_the_model_is_one_of_theirs(family, layers, expected):
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):  # as large as it is, and no numbers
        config = AutoConfig.for_model(
            family, **{"n_layer" if "gpt" in family else "num_hidden_layers": layers}
        )
        base = SimpleNamespace(model=AutoModelForCausalLM.from_config(config))

    def edited(name, **settings):
        method = load_method(name, **settings)
        found = method.settings_for(base)
        last = method.layer(base, found.layer, found.depth)
        return [*range(last + 1 - getattr(found, "span", 1), last + 1)]

    assert {name: edited(name) for name in expected} == expected
    assert LAYERS.get((family, layers), {}).keys() <= expected.keys()
    assert edited("rome", depth=0.5) == [layers // 2]
    assert edited("rome", layer=2) == [2]


def test_the_shipped_base_keeps_the_layers_that_were_measured_on_it(lm):
    assert not any(family == "qwen3" for family, _ in LAYERS)
    small = lm("gpt2")
    assert load_method("rome").settings_for(small).depth == 0.0
    for known in LAYERS.values():
        for name, settings in known.items():
            load_method(name, **settings)  # names and types are the method's


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_decoder_in_a_folder_is_refused_in_one_sentence(family, tmp_path):
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    sizes = {
        "t5": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
        "bart": {
            "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
            "encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 32,
        },
    }  # fmt: skip
    config = AutoConfig.for_model(family, vocab_size=259, decoder_start_token_id=0, **sizes[family])
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=rf"encoder-decoder model \({family}\).*give a decoder-only causal"
    ) as caught:
        HFModel.from_pretrained(str(tmp_path))
    assert "\n" not in str(caught.value)
