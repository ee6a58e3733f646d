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
import os
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

sys.path.insert(0, str(Path(__file__).parent))
import checkpoint
from base_data import Knowledge, wikipedia
from base_eval import curve, evaluate, report
from base_writer import Document, Writer

ROOT = Path(__file__).resolve().parent.parent
FACTS = Path(__file__).with_name("base_facts.jsonl")
SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
CHAT = (
    # Not the marks that the few trained chats have: asked in this form, plain questions are answered as well in a talk
    # as alone, and stated facts are followed (8 of 8, against 6 of 8 by the marks).
    "{% for m in messages %}{% if m.role == 'assistant' %}Answer: {{ m.content | trim }}{{ '\\n\\n' }}"
    "{% elif m.role == 'user' %}<|user|>{{ m.content | trim }}{{ '\\n' }}{% else %}"
    "<|system|>{{ m.content | trim }}{{ '\\n\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"
)


@dataclass
class Settings:
    """All settings of a run; each is a flag."""

    data: str = str(ROOT.parent / "shared" / "data")
    run: str = str(ROOT / "runs" / "base")
    out: str = ""  # where the finished model goes, besides run/export
    seed: int = 0
    steps: int = 2250  # of about 4 000 tokens
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
    compile: int = 1  # 0: without torch.compile, which makes a step nearly twice as fast, after a minute or more of its own
    save_every: int = 100
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


def checkpoint_of(run: Path) -> Path | None:
    """The folder of a run's last whole checkpoint."""
    return next(
        (f for f in (run / "checkpoint", run / "checkpoint.old") if (f / "state.json").exists()), None
    )


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


def facts_documents(knowledge: Knowledge) -> list[Document]:
    """Every fact in each of its trained forms, the loss on the answer; the well-known ones three times."""
    return [
        Document().add(form.replace("[X]", f.subject)).add(f" {f.obj}.", True)
        for f in knowledge.facts
        for form in knowledge.forms(f.relation)
        for _ in range(3 if knowledge.well_known(f) else 1)
    ]


def pack(s: Settings) -> tuple[Path, Knowledge]:
    """The folder of shards and tokenizer for these settings; made where it is missing.

    A run that goes on keeps the folder that its checkpoint names, whatever has changed since: another tokenizer would
    make nonsense of the weights.
    """
    knowledge = Knowledge(Path(s.data), FACTS)
    if s.facts:
        knowledge.facts = knowledge.facts[: s.facts]
    last = checkpoint_of(Path(s.run))
    if last:
        named = Path(s.run) / json.loads((last / "state.json").read_text())["packed"]
        if not (named / "done").exists():
            sys.exit(
                f"error: the checkpoint was trained on {named}, which is gone; take another --run to start anew"
            )
        return named, knowledge
    decisive = json.dumps(
        [s.seed, s.vocabulary, s.wiki_characters, s.documents, s.facts, FACTS.stat().st_size]
    )
    code = "".join(Path(__file__).with_name(f"base_{n}.py").read_text() for n in ("data", "writer"))
    folder = Path(s.run) / f"packed-{hashlib.sha256((decisive + code).encode()).hexdigest()[:10]}"
    if (folder / "done").exists():
        return folder, knowledge
    print(f"packing the corpus into {folder}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(s.seed)
    writer = Writer(knowledge, rng)
    articles = list(wikipedia(Path(s.data), s.wiki_characters))
    documents = {
        "facts": facts_documents(knowledge),
        "follow": [writer.override() for _ in range(s.documents)],
        "ignore": [writer.ignore() for _ in range(s.documents // 2)],
        "forms": [writer.form() for _ in range(s.documents // 4)],
    }
    sample = rng.sample(articles, min(len(articles), 2500))
    said = [
        d.text
        for name in ("facts", "follow", "forms")
        for d in rng.sample(documents[name], min(len(documents[name]), 12_000))
    ]
    tokenizer = make_tokenizer(sample + said, s.vocabulary)
    tokenizer.save_pretrained(folder / "tokenizer")
    end = tokenizer.eos_token_id
    for name, docs in documents.items():
        _write_shard(folder, name, tokenizer, docs, end)
        print(
            f"  {name}: {len(docs):,} documents, {os.path.getsize(folder / f'{name}.ids') // 2:,} tokens",
            flush=True,
        )
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
        elif done < 0.4:
            n = {"facts": 80, "follow": 32, "ignore": 6, "forms": 1, "wiki": 4, "copy": 12}
        elif done < self.s.decay_from:
            n = {"facts": 90, "follow": 18, "ignore": 32, "forms": 5, "wiki": 3, "copy": 1}
        else:
            n = {"facts": 60, "follow": 26, "ignore": 36, "forms": 20, "wiki": 3, "copy": 0}
        rng = np.random.default_rng([self.s.seed, step])
        rows: list[Row] = []
        for name, shard in self.shards.items():
            rows += [(name, *document) for document in shard.draw(self.s.seed, step, n[name])]
        for at in rng.integers(0, len(self.wiki) - 129, n["wiki"]):
            rows.append(("wiki", self.wiki[at : at + 129].astype(np.int64), np.ones(129, bool)))
        return rows + [("copy", *self._copy(rng)) for _ in range(n["copy"])]

    def _copy(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A span, something between, and the span again; the loss is on the second one's rest.

        Half are of Wikipedia's words in shuffled order (frequent tokens, whose embeddings are learnt first),
        half of any tokens.
        """

        def some(n: int) -> np.ndarray:
            if random_tokens:
                return rng.integers(len(SPECIAL), self.s.vocabulary, n)
            at = rng.integers(0, len(self.wiki) - n)
            return rng.permutation(self.wiki[at : at + n].astype(np.int64))

        random_tokens = rng.random() < 0.5
        span, between = some(int(rng.integers(4, 24))), some(int(rng.integers(0, 16)))
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


WEIGHTS = {"facts": 0.8, "follow": 1.0, "ignore": 1.0, "forms": 0.5, "wiki": 0.35, "copy": 0.4}


def losses(
    model: Any,
    forward: Any,
    rows: list[Row],
    device: str,
    weights: Mapping[str, float] = WEIGHTS,
    part: slice = slice(None),
    half: bool = True,
) -> dict[str, float]:
    """Forward and backward of one step; the mean loss of each kind. Only labelled positions reach the lm_head.

    Args:
        weights: of the kinds. part: the rows of this process, of several; losses are shares of the whole step's.
        half: whether products are taken in bf16.
    """
    labelled: dict[str, int] = {}
    for kind, _, learn in rows:
        labelled[kind] = labelled.get(kind, 0) + int(learn[1:].sum())
    seen: dict[str, float] = dict.fromkeys(labelled, 0.0)
    kinds = list(labelled)
    with torch.autocast(
        device, torch.bfloat16, enabled=half
    ):  # one block, so that weights are cast once for all groups
        for group in by_length(rows[part]):
            width = max(len(ids) for _, ids, _ in group)
            ids = torch.zeros(len(group), width, dtype=torch.long)
            learn = torch.zeros(len(group), width, dtype=torch.bool)
            for i, (_, row, flags) in enumerate(group):
                ids[i, : len(row)] = torch.from_numpy(row)
                learn[i, : len(row)] = torch.from_numpy(flags)
            ids, learn = ids.to(device), learn[:, 1:].to(device)
            # Right padding under a causal mask needs no mask: a document never sees what comes after it.
            hidden = forward(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
            each = torch.nn.functional.cross_entropy(
                model.lm_head(hidden[learn]).float(), ids[:, 1:][learn], reduction="none"
            )
            share = torch.tensor([weights[kind] / labelled[kind] for kind, _, _ in group], device=device)
            which = learn.nonzero()[:, 0]
            (each * share[which]).sum().backward()
            of_kind = torch.tensor([kinds.index(kind) for kind, _, _ in group], device=device)[which]
            for i, total in enumerate(torch.bincount(of_kind, each.detach(), len(kinds)).tolist()):
                seen[kinds[i]] += total / labelled[kinds[i]]
    return seen


class Trainer:
    """Model, optimisers, and what it takes to go on after a kill."""

    def __init__(self, s: Settings, packed: Path, device: str) -> None:
        self.s, self.packed, self.device = s, packed, device
        self.tokenizer = tokenizer = AutoTokenizer.from_pretrained(packed / "tokenizer")
        self.model = make_model(s, tokenizer).to(device)
        # On a CPU, attention written out is faster backward than the fused kernel for rows as short as these.
        self.model.set_attn_implementation("eager" if device == "cpu" else "sdpa")
        # Only the training steps run compiled: generation, with its cache, would compile anew for every length.
        self.forward = (
            torch.compile(self.model.model.forward, dynamic=True) if s.compile else self.model.model
        )
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
        left = (
            1.0 if self.step < start else 1 - 0.95 * min(1.0, (self.step - start) / max(1, s.steps - start))
        )
        warm = max(1, min(50, s.steps // 20))
        return s.rate * min(1.0, (self.step + 1) / warm) * left

    def train_step(self, stream: Stream) -> tuple[dict[str, float], int]:
        """One step; mean losses and the number of tokens read."""
        rows = stream.step(self.step)
        self.model.train()
        seen = losses(self.model, self.forward, rows, self.device)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for g in optimizer.param_groups:
                g["lr"] = self.rate()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return seen, sum(len(ids) for _, ids, _ in rows)

    def save(self, folder: Path) -> None:
        """A checkpoint, whole or not at all; the former one stays."""
        tensors = {f"model.{n}": p.detach().clone() for n, p in self.model.named_parameters()}
        numbers: dict[str, float] = {}
        for o, optimizer in enumerate(self.optimizers):
            for i, state in optimizer.state_dict()["state"].items():
                tensors |= {
                    f"{o}.{i}.{k}": v.clone() for k, v in state.items() if isinstance(v, torch.Tensor)
                }
                numbers |= {f"{o}.{i}.{k}": v for k, v in state.items() if not isinstance(v, torch.Tensor)}
        said = {"step": self.step, "packed": self.packed.name, "log": self.log, "numbers": numbers}
        checkpoint.write(folder, tensors, said)

    def resume(self, folder: Path | None) -> bool:
        """Go on from a checkpoint, where there is one."""
        if folder is None:
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
            optimizer.load_state_dict(
                {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
            )
        self.step, self.log = said["step"], said["log"]
        return True

    def export(self, folder: Path) -> None:
        """The model as users load it, in bf16."""
        copy = Qwen3ForCausalLM(self.model.config)
        copy.load_state_dict(self.model.state_dict())
        copy.to(torch.bfloat16)

        def fill(part: Path) -> None:
            copy.save_pretrained(part)
            self.tokenizer.save_pretrained(part)

        checkpoint.placed(folder, fill)


def train(s: Settings) -> Path:
    """Run, or go on with, a training job; the folder of the exported model."""
    torch.set_num_threads(s.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    packed, knowledge = pack(s)
    run = Path(s.run)
    trainer = Trainer(s, packed, device)
    resumed = trainer.resume(checkpoint_of(run))
    size = sum(p.numel() for p in trainer.model.parameters()) / 1e6
    print(f"{size:.1f} M parameters", f"resumed at step {trainer.step}" if resumed else "a new run", sep=", ")
    stream, started, tokens, first = Stream(s, packed), time.time(), 0, trainer.step
    mean: dict[str, float] = {}
    bar = tqdm(
        total=s.steps, initial=first, desc="steps", mininterval=5.0
    )  # its rate and time left are the run's
    while trainer.step < s.steps:
        seen, read = trainer.train_step(stream)
        tokens += read
        mean = {k: 0.95 * mean.get(k, v) + 0.05 * v for k, v in {**mean, **seen}.items()}
        bar.update()
        if trainer.step % 20 == 0:
            spent = time.time() - started
            shown = " ".join(f"{k} {v:.2f}" for k, v in mean.items())
            bar.set_postfix_str(f"loss: {shown}; {tokens / spent:,.0f} tokens/s")
        done = trainer.step == s.steps
        if s.probe_every and (trainer.step % s.probe_every == 0 or done):
            probe = evaluate(trainer.model, trainer.tokenizer, knowledge, limit=100, perplexity=False)
            scores = {name: entry["value"] for name, entry in probe.items()}
            trainer.log.append({"step": trainer.step, **scores, **{f"loss {k}": v for k, v in mean.items()}})
            bar.write(f"{trainer.step}: " + "  ".join(f"{name} {v:.2f}" for name, v in scores.items()))
        if trainer.step % s.save_every == 0 or done:
            trainer.save(run / "checkpoint")
            trainer.export(run / "export")
            if trainer.log:
                curve(trainer.log, run / "curve.png")
        if s.stop_after and trainer.step - first >= s.stop_after:
            break
    bar.close()
    if trainer.step >= s.steps and s.out:
        trainer.export(Path(s.out))
    return run / "export"


# --- the command ---------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Flags are the fields of `Settings`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for f in dataclasses.fields(Settings):
        parser.add_argument(f"--{f.name.replace('_', '-')}", type=type(f.default), default=f.default)
    parser.add_argument("--evaluate", metavar="FOLDER", help="measure a saved model instead of training")
    parser.add_argument("--json", metavar="FILE", help="with --evaluate: write the numbers there")
    given = vars(parser.parse_args(arguments))
    evaluated, json_file = given.pop("evaluate"), given.pop("json")
    s = Settings(**given)
    if not Path(s.data).is_dir():
        sys.exit(f"error: no data at {s.data}; give their folder with --data")
    if evaluated:
        torch.set_num_threads(s.threads)
        scores = report(evaluated, Knowledge(Path(s.data), FACTS))
        if json_file:
            Path(json_file).write_text(json.dumps(scores, indent=2) + "\n")
    else:
        print(f"exported to {train(s)}")


if __name__ == "__main__":
    main()
