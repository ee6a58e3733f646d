"""What the base model reads: its settings, its tokenizer, the corpus packed once, and the rows of each step."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from base_data import Knowledge, wikipedia
from base_writer import Document, Writer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

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


def checkpoint_of(run: Path) -> Path | None:
    """The folder of a run's last whole checkpoint."""
    return next(
        (f for f in (run / "checkpoint", run / "checkpoint.old") if (f / "state.json").exists()), None
    )


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
