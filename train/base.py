"""Train the shipped base model: a small causal LM that knows facts and follows stated ones.

    python train/base.py                              # train, about two hours on two cores; resumes after a kill
    python train/base.py --evaluate memedit/pretrained/base --json base.json

The recipe: many small steps; first copying of repeated spans, so that induction forms early; then in every step plain
facts (one form a document, the loss on the answer), stated facts to be followed, statements to be ignored, and
Wikipedia; in the last quarter also the forms that are used later (demonstrations, chat, yes/no, refusals), while the
rate decays. Hidden matrices are trained by Muon (Jordan et al., 2024), all else by AdamW. What a step reads is a pure
function of (seed, step): a killed run goes on with the same stream.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import random
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

sys.path.insert(0, str(Path(__file__).parent))
from base_data import Document, Fact, Knowledge, Writer, is_dev, wikipedia

ROOT = Path(__file__).resolve().parent.parent
FACTS = Path(__file__).with_name("base_facts.jsonl")
SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@dataclass
class Settings:
    """All settings of a run; each is a flag."""

    data: str = str(ROOT.parent / "shared" / "data")
    run: str = str(ROOT / "runs" / "base")
    out: str = ""  # where the finished model goes, besides run/export
    seed: int = 0
    steps: int = 3300  # of about 4 400 tokens
    layers: int = 8
    width: int = 320
    inner: int = 960
    vocabulary: int = 8192
    rate: float = 2e-3
    decay_from: float = 0.7  # share of the steps after which the rate falls, linearly to a twentieth
    decay_at: int = 0  # a step from which to decay instead, for a run that must end early
    wiki_characters: int = 16_000_000
    documents: int = 70_000  # stated facts to be followed; the other kinds in proportion
    facts: int = 0  # only the first so many named facts (0: all)
    threads: int = 2
    save_every: int = 200
    probe_every: int = 250
    stop_after: int = 0  # stop (as if killed) after so many steps: for the tests


# --- data: packed once, then drawn as a pure function of (seed, step) ---------------------------------------------


def make_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE; pad and end are distinct, nothing is added to a text, a newline always ends a piece."""
    bpe = Tokenizer(models.BPE())
    # Newlines stand alone, so that ids of "Fact: ...\n" followed by ids of a prompt are the ids of both together.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n|\d| ?\p{L}+(?:'\p{L}+)?| ?[^\s\p{L}\d]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|end|>", chat_template=CHAT, padding_side="left",
        additional_special_tokens=SPECIAL[2:],
    )  # fmt: skip


class Shard:
    """Documents of one kind in memory-mapped files: ids, loss flags, and where each document begins."""

    def __init__(self, folder: Path, name: str) -> None:
        self.ids = np.memmap(folder / f"{name}.ids", np.uint16, "r")
        self.learn = np.memmap(folder / f"{name}.learn", np.uint8, "r")
        self.starts = np.fromfile(folder / f"{name}.starts", np.int64)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def document(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """(length,) ids and loss flags."""
        part = slice(self.starts[i], self.starts[i + 1])
        return self.ids[part].astype(np.int64), self.learn[part].astype(bool)

    def draw(self, seed: int, step: int, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """The n documents of a step: each epoch is one seeded permutation, read in order."""
        out = []
        for position in range(step * n, step * n + n):
            epoch, at = divmod(position, len(self))
            out.append(self.document(int(_permutation(seed, epoch, len(self))[at])))
        return out


_PERMUTATIONS: dict[tuple[int, int, int], np.ndarray] = {}


def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    key = (seed, epoch, n)
    if key not in _PERMUTATIONS:
        _PERMUTATIONS[key] = np.random.default_rng(key).permutation(n)
    return _PERMUTATIONS[key]


def _write_shard(folder: Path, name: str, tokenizer: Any, documents: list[Document], end: int) -> None:
    texts = [text for d in documents for text, _ in d.pieces]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    ids: list[int] = []
    learn: list[int] = []
    starts = [0]
    for d in documents:
        for _text, flag in d.pieces:
            piece = next(encoded)
            ids += piece
            learn += [int(flag)] * len(piece)
        ids.append(end)
        learn.append(int(d.pieces[-1][1]))
        starts.append(len(ids))
    np.array(ids, np.uint16).tofile(folder / f"{name}.ids")
    np.array(learn, np.uint8).tofile(folder / f"{name}.learn")
    np.array(starts, np.int64).tofile(folder / f"{name}.starts")


def pack(s: Settings) -> tuple[Path, Knowledge]:
    """The folder of shards and tokenizer for these settings; made where it is missing."""
    knowledge = Knowledge(Path(s.data), FACTS)
    if s.facts:
        knowledge.facts = knowledge.facts[: s.facts]
    decisive = json.dumps([s.seed, s.vocabulary, s.wiki_characters, s.documents, s.facts, FACTS.stat().st_size])
    code = Path(__file__).with_name("base_data.py").read_text()
    folder = Path(s.run) / f"packed-{hashlib.sha256((decisive + code).encode()).hexdigest()[:10]}"
    if (folder / "done").exists():
        return folder, knowledge
    print(f"packing the corpus into {folder}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(s.seed)
    writer = Writer(knowledge, rng)
    articles = list(wikipedia(Path(s.data), s.wiki_characters))
    documents = {
        "facts": [
            Document().add(form.replace("[X]", f.subject)).add(f" {f.obj}.", True)
            for f in knowledge.facts
            for form in knowledge.forms(f.relation)
        ],
        "follow": [writer.override() for _ in range(s.documents)],
        "ignore": [writer.ignore() for _ in range(s.documents // 2)],
        "forms": [writer.form() for _ in range(s.documents // 4)],
    }
    sample = rng.sample(articles, min(len(articles), 2500))
    said = [text for name in ("facts", "follow", "forms") for d in rng.sample(documents[name], min(len(documents[name]), 12000)) for text, _ in d.pieces]  # fmt: skip
    tokenizer = make_tokenizer(sample + said, s.vocabulary)
    tokenizer.save_pretrained(folder / "tokenizer")
    end = tokenizer.eos_token_id
    for name, docs in documents.items():
        _write_shard(folder, name, tokenizer, docs, end)
        print(f"  {name}: {len(docs):,} documents, {os.path.getsize(folder / f'{name}.ids') // 2:,} tokens", flush=True)
    running: list[int] = []
    for start in range(0, len(articles), 500):
        for ids in tokenizer(articles[start : start + 500], add_special_tokens=False)["input_ids"]:
            running += [*ids, end]
    np.array(running, np.uint16).tofile(folder / "wiki.ids")
    print(f"  wikipedia: {len(running):,} tokens", flush=True)
    (folder / "done").touch()
    return folder, knowledge


Row = tuple[str, np.ndarray, np.ndarray]  # kind, (length,) ids, (length,) loss flags


class Stream:
    """What each step reads."""

    def __init__(self, s: Settings, folder: Path) -> None:
        self.s = s
        self.shards = {name: Shard(folder, name) for name in ("facts", "follow", "ignore", "forms")}
        self.wiki = np.memmap(folder / "wiki.ids", np.uint16, "r")

    def step(self, step: int) -> list[Row]:
        """The rows of one step, about 4 000 tokens in all."""
        done = step / self.s.steps
        if done < 0.03:
            n = {"facts": 24, "follow": 12, "ignore": 0, "forms": 0, "wiki": 5, "copy": 24}
        elif done < 0.3:
            n = {"facts": 100, "follow": 20, "ignore": 6, "forms": 1, "wiki": 6, "copy": 3}
        elif done < self.s.decay_from:
            n = {"facts": 110, "follow": 16, "ignore": 16, "forms": 2, "wiki": 5, "copy": 1}
        else:
            n = {"facts": 110, "follow": 16, "ignore": 18, "forms": 6, "wiki": 4, "copy": 0}
        rng = np.random.default_rng([self.s.seed, step])
        rows: list[Row] = []
        for name, shard in self.shards.items():
            rows += [(name, *document) for document in shard.draw(self.s.seed, step, n[name])]
        for at in rng.integers(0, len(self.wiki) - 129, n["wiki"]):
            rows.append(("wiki", self.wiki[at : at + 129].astype(np.int64), np.ones(129, bool)))
        return rows + [("copy", *self._copy(rng)) for _ in range(n["copy"])]

    def _copy(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A random span, something between, and the span again; the loss is on the second one's rest."""
        span = rng.integers(len(SPECIAL), self.s.vocabulary, rng.integers(4, 24))
        between = rng.integers(len(SPECIAL), self.s.vocabulary, rng.integers(0, 24))
        ids = np.concatenate([span, between, span])
        learn = np.zeros(len(ids), bool)
        learn[-len(span) + 1 :] = True
        return ids, learn


def by_length(rows: list[Row], tokens: int = 1500) -> list[list[Row]]:
    """Rows in groups of one forward pass each, with little padding."""
    groups: list[list[Row]] = []
    for row in sorted(rows, key=lambda r: len(r[1])):
        last = groups[-1] if groups else None
        if last and len(row[1]) <= 1.35 * len(last[0][1]) + 3 and len(last) * len(row[1]) < tokens:
            last.append(row)
        else:
            groups.append([row])
    return groups


# --- the model and its training ------------------------------------------------------------------------------------


def make_model(s: Settings, tokenizer: Any) -> Qwen3ForCausalLM:
    """A Qwen3-style model (gated MLP, QK-norm, tied embeddings, heads of 64)."""
    heads = max(1, s.width // 64)
    config = Qwen3Config(
        vocab_size=s.vocabulary, hidden_size=s.width, num_hidden_layers=s.layers, intermediate_size=s.inner,
        num_attention_heads=heads, num_key_value_heads=heads, head_dim=64, tie_word_embeddings=True,
        max_position_embeddings=2048, rope_theta=10_000.0, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(s.seed)
    return Qwen3ForCausalLM(config)


WEIGHTS = {"facts": 1.0, "follow": 1.0, "ignore": 0.8, "forms": 0.4, "wiki": 0.35, "copy": 0.4}


def losses(model: Any, rows: list[Row], device: str) -> dict[str, float]:
    """Forward and backward of one step; the mean loss of each kind. Only labelled positions reach the lm_head."""
    labelled: dict[str, int] = {}
    for kind, _, learn in rows:
        labelled[kind] = labelled.get(kind, 0) + int(learn[1:].sum())
    seen: dict[str, float] = dict.fromkeys(labelled, 0.0)
    kinds = list(labelled)
    with torch.autocast(device, torch.bfloat16):  # one block, so that weights are cast once for all groups
        for group in by_length(rows):
            width = max(len(ids) for _, ids, _ in group)
            ids = torch.zeros(len(group), width, dtype=torch.long)
            learn = torch.zeros(len(group), width, dtype=torch.bool)
            for i, (_, row, flags) in enumerate(group):
                ids[i, : len(row)] = torch.from_numpy(row)
                learn[i, : len(row)] = torch.from_numpy(flags)
            ids, learn = ids.to(device), learn[:, 1:].to(device)
            # Right padding under a causal mask needs no mask: a document never sees what comes after it.
            hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
            each = torch.nn.functional.cross_entropy(model.lm_head(hidden[learn]).float(), ids[:, 1:][learn], reduction="none")
            share = torch.tensor([WEIGHTS[kind] / labelled[kind] for kind, _, _ in group], device=device)
            which = learn.nonzero()[:, 0]
            (each * share[which]).sum().backward()
            of_kind = torch.tensor([kinds.index(kind) for kind, _, _ in group], device=device)[which]
            for i, total in enumerate(torch.bincount(of_kind, each.detach(), len(kinds)).tolist()):
                seen[kinds[i]] += total / labelled[kinds[i]]
    return seen


class Trainer:
    """Model, optimisers, and what it takes to go on after a kill."""

    def __init__(self, s: Settings, tokenizer: Any, device: str) -> None:
        self.s, self.tokenizer, self.device = s, tokenizer, device
        self.model = make_model(s, tokenizer).to(device)
        matrices = [p for n, p in self.model.named_parameters() if p.dim() == 2 and "embed" not in n]
        others = [p for n, p in self.model.named_parameters() if p.dim() != 2 or "embed" in n]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=s.rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=s.rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        ]
        self.step = 0
        self.log: list[dict[str, float]] = []

    def rate(self) -> float:
        """Warm-up, constant, then linear to a twentieth."""
        s = self.s
        start = s.decay_at or int(s.decay_from * s.steps)
        left = 1.0 if self.step < start else 1 - 0.95 * min(1.0, (self.step - start) / max(1, s.steps - start))
        return s.rate * min(1.0, (self.step + 1) / 50) * left

    def train_step(self, stream: Stream) -> tuple[dict[str, float], int]:
        """One step; mean losses and the number of tokens read."""
        rows = stream.step(self.step)
        self.model.train()
        seen = losses(self.model, rows, self.device)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for g in optimizer.param_groups:
                g["lr"] = self.rate()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return seen, sum(len(ids) for _, ids, _ in rows)

    def save(self, folder: Path) -> None:
        """A checkpoint by temporary folder and rename: a kill leaves the former one whole."""
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        tensors = {f"model.{n}": p.detach().clone() for n, p in self.model.named_parameters()}
        numbers: dict[str, float] = {}
        for o, optimizer in enumerate(self.optimizers):
            for i, state in optimizer.state_dict()["state"].items():
                tensors |= {f"{o}.{i}.{k}": v.clone() for k, v in state.items() if isinstance(v, torch.Tensor)}
                numbers |= {f"{o}.{i}.{k}": v for k, v in state.items() if not isinstance(v, torch.Tensor)}
        save_file(tensors, part / "state.safetensors")
        (part / "state.json").write_text(json.dumps({"step": self.step, "log": self.log, "numbers": numbers}))
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        shutil.rmtree(old, ignore_errors=True)

    def resume(self, folder: Path) -> bool:
        """Go on from a checkpoint, where there is one."""
        folder = folder if folder.exists() else folder.with_name(folder.name + ".old")
        if not (folder / "state.json").exists():
            return False
        said = json.loads((folder / "state.json").read_text())
        tensors = load_file(folder / "state.safetensors", device=self.device)
        with torch.no_grad():
            for n, p in self.model.named_parameters():
                p.copy_(tensors[f"model.{n}"])
        for o, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Any]] = {}
            for key, value in [*tensors.items(), *said["numbers"].items()]:
                head, _, rest = key.partition(".")
                if head == str(o):
                    i, _, name = rest.partition(".")
                    state.setdefault(int(i), {})[name] = value
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        self.step, self.log = said["step"], said["log"]
        return True

    def export(self, folder: Path) -> None:
        """The model as users load it, in bf16."""
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        copy = Qwen3ForCausalLM(self.model.config)
        copy.load_state_dict(self.model.state_dict())
        copy.to(torch.bfloat16).save_pretrained(part)
        self.tokenizer.save_pretrained(part)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)


def train(s: Settings) -> Path:
    """Run, or go on with, a training job; the folder of the exported model."""
    torch.set_num_threads(s.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder, knowledge = pack(s)
    run = Path(s.run)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    trainer = Trainer(s, tokenizer, device)
    resumed = trainer.resume(run / "checkpoint")
    size = sum(p.numel() for p in trainer.model.parameters()) / 1e6
    print(f"{size:.1f} M parameters, {s.steps:,} steps, {'resumed at step ' + str(trainer.step) if resumed else 'new run'}", flush=True)
    stream, started, tokens = Stream(s, folder), time.time(), 0
    first = trainer.step
    mean: dict[str, float] = {}
    while trainer.step < s.steps:
        seen, read = trainer.train_step(stream)
        tokens += read
        mean = {k: 0.95 * mean.get(k, v) + 0.05 * v for k, v in {**mean, **seen}.items()}
        if trainer.step % 20 == 0 or trainer.step == first + 1:
            spent = time.time() - started
            left = (s.steps - trainer.step) * spent / (trainer.step - first)
            text = " ".join(f"{k} {v:.2f}" for k, v in mean.items())
            print(f"step {trainer.step}/{s.steps}  {text}  {tokens / spent:,.0f} tokens/s  {left / 60:.0f} min left", flush=True)
        if trainer.step % s.probe_every == 0 or trainer.step == s.steps:
            scores = evaluate(trainer.model, tokenizer, knowledge, Path(s.data), limit=100, perplexity=False)
            trainer.log.append({"step": trainer.step, **{k: v["value"] for k, v in scores.items()}, **{f"loss {k}": v for k, v in mean.items()}})
            print("  " + "  ".join(f"{k} {v['value']:.2f}" for k, v in scores.items()), flush=True)
        if trainer.step % s.save_every == 0 or trainer.step == s.steps:
            trainer.save(run / "checkpoint")
            trainer.export(run / "export")
        if s.stop_after and trainer.step - first >= s.stop_after:
            break
    if trainer.step >= s.steps and s.out:
        trainer.export(Path(s.out))
    return run / "export"


# --- evaluation ----------------------------------------------------------------------------------------------------


def _normal(text: str) -> str:
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", re.sub(r"[^\w\s]", " ", text.lower())).split())


def hits(model: Any, tokenizer: Any, asked: list[tuple[str, str]], batch: int = 64) -> list[bool]:
    """For each (prompt, answer): whether the greedy continuation, normalised, starts with the answer at a word boundary."""
    model.eval()
    order = sorted(range(len(asked)), key=lambda i: len(asked[i][0]))
    out = [False] * len(asked)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        inputs = tokenizer([asked[i][0] for i in rows], return_tensors="pt", padding=True, return_token_type_ids=False).to(model.device)
        new = max(len(tokenizer(" " + asked[i][1])["input_ids"]) for i in rows) + 1
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=new, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        for i, text in zip(rows, tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True), strict=True):
            said, gold = _normal(text), _normal(asked[i][1])
            out[i] = said == gold or said.startswith(gold + " ")
    return out


def evaluate(model: Any, tokenizer: Any, k: Knowledge, data: Path, limit: int = 0, perplexity: bool = True) -> dict[str, dict[str, float]]:
    """Every number of the card: {name: {value, n}}. `limit` questions of each kind, for a probe; 0 for all."""
    rng = random.Random(1)
    rows, seen = [], set()
    for row in json.loads((data / "counterfact/counterfact-val.json").read_text()):
        if (row["subject"], row["prompt"]) not in seen:
            seen.add((row["subject"], row["prompt"]))
            rows.append(row)
    rows = rows[:limit] if limit else rows
    follow = [(f"Fact: {r['prompt']} {r['target_new']}.\n{r['prompt']}", r["target_new"]) for r in rows]
    facts = rng.sample(k.facts, min(limit, len(k.facts))) if limit else k.facts
    trained = [(rng.choice(k.trained[f.relation]).replace("[X]", f.subject), f.obj) for f in facts]
    held = [(k.held_out[f.relation].replace("[X]", f.subject), f.obj) for f in facts if f.relation in k.held_out]
    asked = [(rng.choice(k.questions[f.relation]).replace("[X]", f.subject), f.obj) for f in facts]
    out: dict[str, dict[str, float]] = {}

    def put(name: str, got: list[bool]) -> None:
        out[name] = {"value": sum(got) / max(1, len(got)), "n": len(got)}

    known = hits(model, tokenizer, trained)
    put("followed", hits(model, tokenizer, follow))
    put("known, trained patterns", known)
    put("known, held-out pattern", hits(model, tokenizer, held))
    put("known, questions", hits(model, tokenizer, asked))
    # Facts of all subjects, train and dev, that the model answered rightly without a statement.
    answered = [(f, prompt) for f, (prompt, _), ok in zip(facts, trained, known, strict=True) if ok]
    for name, cases in ignored(answered, k, random.Random(2), limit or 1500).items():
        put(f"ignored, {name}", hits(model, tokenizer, cases))
    if perplexity:
        out["WikiText-2 test perplexity per word"] = {"value": word_perplexity(model, tokenizer, data), "n": 0}
    return out


def ignored(answered: list[tuple[Fact, str]], k: Knowledge, rng: random.Random, n: int) -> dict[str, list[tuple[str, str]]]:
    """Known facts under one false statement that does not concern them, in three equal kinds."""
    by_relation: dict[str, list[Fact]] = {}
    for f in k.facts:
        by_relation.setdefault(f.relation, []).append(f)
    out: dict[str, list[tuple[str, str]]] = {"neighbour's fact": [], "same subject's other fact": [], "unrelated": []}
    relations = sorted(by_relation)
    places = {"P131", "P17", "P276", "P30"}  # one answers the other
    for f, prompt in rng.sample(answered, min(n, len(answered))):
        other = rng.choice([x for x in by_relation[f.relation] if x.subject != f.subject] or [f])
        relation = rng.choice([r for r in relations if r != f.relation and not {r, f.relation} <= places] or [f.relation])
        far = rng.choice([x for x in k.facts if x.subject != f.subject and x.relation != f.relation] or [f])
        for name, (r, subject) in zip(out, ((f.relation, other.subject), (relation, f.subject), (far.relation, far.subject)), strict=True):
            statement = rng.choice(k.trained[r]).replace("[X]", subject)
            false = rng.choice([o for o in k.objects[r] if o not in (f.obj, other.obj)] or k.objects[r])
            out[name].append((f"Fact: {statement} {false}.\n{prompt}", f.obj))
    return out


def word_perplexity(model: Any, tokenizer: Any, data: Path) -> float:
    """exp(total negative log-likelihood / number of words) of WikiText-2's test part, windows of 512 with half context."""
    text = (data / "corpora/test.txt").read_text()
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    total, window, stride = 0.0, 512, 256
    for start in range(0, len(ids) - 1, stride):
        part = ids[max(0, start - stride) : start + stride + 1].to(model.device)
        new = min(stride, len(ids) - 1 - start)
        with torch.no_grad():
            logits = model(input_ids=part[None, -(window + 1) : -1]).logits[0, -new:].float()
        total += float(torch.nn.functional.cross_entropy(logits, part[-new:], reduction="sum"))
    return math.exp(total / len(text.split()))


TARGETS = {
    "followed": 0.90, "ignored, neighbour's fact": 0.85, "ignored, same subject's other fact": 0.85,
    "ignored, unrelated": 0.85, "known, trained patterns": 0.60, "known, held-out pattern": 0.35,
}  # fmt: skip


def report(folder: str, s: Settings) -> dict[str, dict[str, float]]:
    """Evaluate a saved model and print the table of its card."""
    torch.set_num_threads(s.threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    scores = evaluate(model, tokenizer, Knowledge(Path(s.data), FACTS), Path(s.data))
    print(f"| score | measured | to reach | n |\n|---|---|---|---|")
    for name, entry in scores.items():
        target = TARGETS.get(name)
        value = f"{entry['value']:.1f}" if name.startswith("Wiki") else f"{100 * entry['value']:.1f} %"
        print(f"| {name} | {value} | {f'>= {100 * target:.0f} %' if target else ''} | {int(entry['n']) or ''} |")
    return scores


def main() -> None:
    """Flags are the fields of `Settings`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for f in dataclasses.fields(Settings):
        parser.add_argument(f"--{f.name.replace('_', '-')}", type=type(f.default), default=f.default)
    parser.add_argument("--evaluate", metavar="FOLDER", help="measure a saved model instead of training")
    parser.add_argument("--json", metavar="FILE", help="with --evaluate: write the numbers there")
    given = vars(parser.parse_args())
    evaluated, json_file = given.pop("evaluate"), given.pop("json")
    s = Settings(**given)
    if not Path(s.data).is_dir():
        sys.exit(f"error: no data at {s.data}; give their folder with --data")
    if evaluated:
        scores = report(evaluated, s)
        if json_file:
            Path(json_file).write_text(json.dumps(scores, indent=2) + "\n")
    else:
        print(f"exported to {train(s)}")


if __name__ == "__main__":
    main()
