"""Train the counterfactual model of `serac`: a LoRA on the shipped base, then a pointer, that answers from (statement, query).

    python train/counterfactual.py                          # train, an hour and a half on one core; resumes after a kill
    python train/counterfactual.py --evaluate --json t.json # the table of the card: serac, ice, ike on the scored sets
    accelerate launch train/counterfactual.py               # the same on several GPUs

What a step reads is a pure function of (seed, step): a killed run goes on with the same documents, to the same result.
Subjects and forms that are scored are never trained; the probes of a run ask a part of the train data that is kept apart.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent))
import checkpoint
from base_corpus import FACTS, ROOT, Row
from base_eval import curve
from base_training import losses
from base_writer import Document
from counterfactual_data import Sources, own_rows
from counterfactual_eval import Question, compared, measured, questions, table
from counterfactual_writer import Texts
from low_rank import adapted
from processes import part_of, started_by_accelerate, summed, summed_gradients
from relation_bank import FILES
from written import FORMS, QUESTIONS

from memedit.adapter import CONFIG, FORMAT, POINTER, WEIGHTS, weights_hash
from memedit.loading import find_model
from memedit.methods.ice import ICE
from memedit.pointer import Pointer, attach

SHIPPED = ROOT / "memedit" / "pretrained" / "counterfactual"
# Of the kinds of documents: asked for the object, asked for a verdict, withheld, needed on the way.
SHARES = {"asked": 1.0, "judged": 2.0, "erased": 0.4, "steps": 0.4}
DATA_FILES = (
    "splits.json", "pararel/triples_scope_train.jsonl", "pararel/patterns.jsonl", "counterfact/counterfact-train.json",
    "zsre/zsre_mend_train-1k.json", "general_qa/nq_open_dev_clean.jsonl", "general_qa/webquestions.json",
    "knowedit/wiki_counterfact_train.json", "knowedit/wiki_recent_train.json",
    "mquake/pokemqa-cls-filtered.json", "corpora/world-cities.csv", "corpora/countries.json",
)  # fmt: skip


@dataclass
class Settings:
    """All settings of a run; each is a flag."""

    data: str = os.environ.get("MEMEDIT_DATA", str(ROOT.parent / "shared" / "data"))
    run: str = str(ROOT / "runs" / "counterfactual")
    out: str = ""  # where the finished model goes, besides run/export
    base: str = "base"  # shipped name or folder
    more: str = ""  # your own JSON lines {"statement", "query", "answer"}, a fifth of what is read
    seed: int = 0
    steps: int = 1000
    documents: int = 64  # of a step, about 47 tokens each
    rank: int = 32
    rate: float = 3e-3
    focus_from: int = 300  # from this step on mostly verdicts, which are learnt last
    pointer_steps: int = 700  # after these: the pointer, and the factors along with it
    pointer_rate: float = 3e-3  # of the pointer, falling linearly; of the factors a third at most
    strange: float = 0.4  # of these steps' objects, how many can't be guessed, but only copied
    verdicts: float = 0.4  # of these steps' documents, how many are drawn mostly of verdicts
    decay_from: float = 0.3  # share of the steps after which the rate falls, linearly to a fiftieth
    threads: int = 1
    compile: int = 0  # 1: torch.compile; faster steps, after a minute or more of its own
    save_every: int = 50
    probe_every: int = 250
    probe: int = 150  # questions of each kind
    stop_after: int = 0  # stop (as if killed) after so many steps: for the tests


# --- the model -----------------------------------------------------------------------------------------------------


class Trainer:
    """Model, factors, optimiser, and what it takes to go on after a kill."""

    def __init__(self, s: Settings, device: str) -> None:
        self.s, self.device = s, device
        self.folder = Path(find_model(s.base))
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        self.modules = adapted(self.model, s.rank, s.seed)
        self.model.to(device)
        self.model.set_attn_implementation("sdpa")
        self.forward = (
            torch.compile(self.model.model.forward, dynamic=True) if s.compile else self.model.model
        )
        self.factors = {f"{n}.{k}": getattr(m, k) for n, m in self.modules.items() for k in ("down", "up")}
        self.pointer = Pointer(self.model.config.hidden_size).to(device)
        own = {f"{POINTER}{n}": p for n, p in self.pointer.named_parameters()}
        groups = [{"params": list(some.values())} for some in (self.factors, own)]
        self.optimizer = torch.optim.AdamW(groups, lr=s.rate, betas=(0.9, 0.99), weight_decay=0.0)
        self.factors |= own
        self.step = 0
        self.log: list[dict[str, float]] = []

    @property
    def pointing(self) -> bool:
        """Whether the pointer is trained by now."""
        return self.step >= self.s.steps

    def rates(self) -> tuple[float, float]:
        """Of the factors and of the pointer: warm-up over 30 steps, constant, linear to a fiftieth; then the pointer's."""
        s = self.s
        if self.pointing:
            x = (self.step - s.steps) / s.pointer_steps
            return s.pointer_rate / 3 * 4 * x * (1 - x), s.pointer_rate * (1 - 0.98 * x)
        start = int(s.decay_from * s.steps)
        left = 1.0 if self.step < start else 1 - 0.98 * (self.step - start) / max(1, s.steps - start)
        return s.rate * min(1.0, (self.step + 1) / max(1, min(30, s.steps // 10))) * left, 0.0

    def head(self, hidden: torch.Tensor, ids: torch.Tensor, learn: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the mixture, (labelled, vocabulary); documents are padded behind their ends."""
        row, column = learn.nonzero().T
        states, keys = hidden[learn], self.pointer.keys(hidden)
        return self.pointer(self.model.lm_head(states), states, row, column, keys, ids, torch.ones_like(ids))

    def train_step(self, rows: list[Row], accelerator: Any = None) -> dict[str, float]:
        """One step; the mean loss of each kind.

        Raises:
            FloatingPointError: a loss or a gradient that is no number; the factors are as they were.
        """
        self.model.train()
        # Frozen weights would be cast anew for every product; and a CPU may well be faster without.
        seen = losses(
            self.model,
            self.forward,
            rows,
            self.device,
            SHARES,
            part_of(accelerator),
            half=self.device != "cpu",
            head=self.head if self.pointing else None,
        )
        seen = summed(seen, accelerator, self.device)
        summed_gradients(self.factors.values(), accelerator)
        steep = torch.nn.utils.clip_grad_norm_(self.factors.values(), 1.0)
        if not all(
            map(math.isfinite, (*seen.values(), float(steep)))
        ):  # an infinite norm would make NaN of all
            raise FloatingPointError
        for group, rate in zip(self.optimizer.param_groups, self.rates(), strict=True):
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return seen

    def save(self, run: Path, source: str) -> None:
        """The checkpoint, and the model as users load it."""
        tensors = checkpoint.adam_tensors(self.factors, self.optimizer)
        state = {"step": self.step, "log": self.log, "source": source}
        checkpoint.write(run / "checkpoint", tensors, state)
        self.export(run / "export", source)

    def resume(self, run: Path, source: str) -> bool:
        """Go on from the last whole checkpoint, where there is one.

        Raises:
            SystemExit: it was trained on other data, or by other settings.
        """
        found = checkpoint.newest(run / "checkpoint")
        if found is None:
            return False
        tensors, state = found
        if state["source"] != source:
            sys.exit(
                f"error: data or settings have changed since the checkpoint of step {state['step']} in {run}: "
                "put them back to go on, or take another --run to start anew"
            )
        # A checkpoint from before there was a pointer has none of its tensors.
        kept = {name: p for name, p in self.factors.items() if name in tensors}
        checkpoint.put_back(tensors, kept, self.optimizer)
        self.step, self.log = state["step"], state["log"]
        return True

    def export(self, folder: Path, source: str) -> None:
        """The factors in bf16, with what they fit."""
        about = {
            "format": FORMAT, "base": self.s.base, "base_sha256": weights_hash(self.folder), "scale": 1.0, "rank": self.s.rank,
            "steps": self.step, "seed": self.s.seed, "source": source,
        }  # fmt: skip

        def fill(part: Path) -> None:
            tensors = {
                name: p.detach().to("cpu", torch.bfloat16).contiguous()
                for name, p in self.factors.items()
                if self.step > self.s.steps or not name.startswith(POINTER)
            }
            save_file(tensors, part / WEIGHTS)
            (part / CONFIG).write_text(json.dumps(about, indent=2) + "\n")

        checkpoint.placed(folder, fill)

    def answer(self, asked: list[Question], batch: int = 64) -> list[str]:
        """Greedy answers of the model as it stands, each under its edit."""
        self.model.eval()
        handles = attach(self.model, self.pointer) if self.step > self.s.steps else ()
        out: list[str] = []
        prompts = [ICE().rewrite(q.query, [q.edit]) for q in asked]
        for start in range(0, len(prompts), batch):
            inputs = self.tokenizer(prompts[start : start + batch], return_tensors="pt", padding=True).to(
                self.device
            )
            inputs.pop("token_type_ids", None)
            with torch.no_grad():
                ids = self.model.generate(**inputs, max_new_tokens=16, min_new_tokens=1, do_sample=False)
            out += self.tokenizer.batch_decode(
                ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
        for handle in handles:
            handle.remove()
        return out


# --- the run -------------------------------------------------------------------------------------------------------


def rows_of_step(
    s: Settings, sources: Sources, own: list[tuple[str, str, str]], tokenizer: Any, step: int
) -> list[Row]:
    """What a step reads: documents as ids, with the loss on answers."""
    pointing = step >= s.steps
    texts = Texts(sources, random.Random(f"{s.seed} {step}"), own, s.strange if pointing else 0.0)
    documents: list[tuple[str, Document]] = []
    while len(documents) < s.documents:
        verdicts = len(documents) < s.documents * s.verdicts if pointing else step >= s.focus_from
        documents += texts.documents(focus=verdicts)
    encoded = iter(
        tokenizer([t for _, d in documents for t, _ in d.pieces], add_special_tokens=False)["input_ids"]
    )
    rows: list[Row] = []
    for kind, document in documents:
        ids: list[int] = []
        learn: list[bool] = []
        for _, flag in document.pieces:
            piece = next(encoded)
            ids += piece
            learn += [flag] * len(piece)
        rows.append((kind, np.array([*ids, tokenizer.eos_token_id]), np.array([*learn, learn[-1]])))
    return rows


def source_hash(s: Settings) -> str:
    """What decides a run: its settings and every file that it reads.

    The rates are no part of it: after a loss that is no number a run goes on with a lower one.
    """
    fields = (
        "seed", "steps", "documents", "rank", "focus_from", "decay_from", "pointer_steps", "strange", "verdicts",
    )  # fmt: skip
    decisive = {f: getattr(s, f) for f in fields}
    digest = hashlib.sha256(json.dumps(decisive).encode())
    files = [
        *(Path(s.data) / name for name in DATA_FILES),
        *(*FILES, FORMS, QUESTIONS),
        FACTS,
        *([Path(s.more)] if s.more else []),
    ]
    for file in files:
        if not file.is_file():
            sys.exit(
                f"error: {file} is missing; give the folder of public data with --data, your own rows with --more"
            )
        digest.update(file.read_bytes())
    digest.update(weights_hash(Path(find_model(s.base))).encode())
    return digest.hexdigest()[:16]


def train(s: Settings) -> Path:
    """Run, or go on with, a training job; the folder of the exported model."""
    torch.set_num_threads(s.threads)
    own = own_rows(Path(s.more)) if s.more else []
    source, run = source_hash(s), Path(s.run)
    accelerator = started_by_accelerate()
    device = str(accelerator.device) if accelerator else "cuda" if torch.cuda.is_available() else "cpu"
    first = accelerator is None or accelerator.is_main_process
    trainer = Trainer(s, device.partition(":")[0] if accelerator is None else device)
    resumed = trainer.resume(run, source)
    sources = Sources(Path(s.data), FACTS)
    probes = questions(sources, "apart", s.probe) if s.probe_every else []
    size = sum(p.numel() for p in trainer.factors.values()) / 1e6
    if first:
        print(
            f"{size:.2f} M parameters",
            f"resumed at step {trainer.step}" if resumed else "a new run",
            sep=", ",
        )
    started, tokens, begun = time.time(), 0, trainer.step
    mean: dict[str, float] = {}
    last = s.steps + s.pointer_steps
    bar = tqdm(total=last, initial=begun, desc="steps", mininterval=5.0, disable=not first)
    while trainer.step < last:
        rows = rows_of_step(s, sources, own, trainer.tokenizer, trainer.step)
        try:
            seen = trainer.train_step(rows, accelerator)
        except FloatingPointError:
            rate = "--pointer-rate" if trainer.pointing else "--rate"
            sys.exit(
                f"error: the loss is no number at step {trainer.step + 1}; the last good model is in {run / 'export'}: "
                f"the same command goes on from its checkpoint with a lower {rate}"
            )
        tokens += sum(len(ids) for _, ids, _ in rows)
        mean = {k: 0.95 * mean.get(k, v) + 0.05 * v for k, v in {**mean, **seen}.items()}
        bar.update()
        if trainer.step % 10 == 0:
            shown = " ".join(f"{k} {v:.2f}" for k, v in sorted(mean.items()))
            bar.set_postfix_str(f"loss: {shown}; {tokens / (time.time() - started):,.0f} tokens/s")
            trainer.log.append({"step": trainer.step, **{f"loss {k}": v for k, v in mean.items()}})
        done = trainer.step == last
        if first and probes and (trainer.step % s.probe_every == 0 or done):
            scores, _ = measured(probes, trainer.answer)
            values = {name: of["all"]["value"] for name, of in scores.items()}
            trainer.log.append({"step": trainer.step, **values})
            bar.write(f"{trainer.step}: " + "  ".join(f"{name} {v:.3f}" for name, v in values.items()))
        if first and (trainer.step % s.save_every == 0 or done):
            trainer.save(run, source)
            if trainer.log:
                curve(trainer.log, run / "curve.png", s.probe)
        if s.stop_after and trainer.step - begun >= s.stop_after:
            break
    bar.close()
    if first and trainer.step >= last and s.out:
        trainer.export(Path(s.out), source)
    return run / "export"


# --- the command ---------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Flags are the fields of `Settings`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for f in dataclasses.fields(Settings):
        parser.add_argument(f"--{f.name.replace('_', '-')}", type=type(f.default), default=f.default)
    parser.add_argument(
        "--evaluate", nargs="?", const=str(SHIPPED), metavar="FOLDER", help="measure instead of training"
    )
    parser.add_argument("--part", choices=("scored", "apart"), default="scored", help="of which questions")
    parser.add_argument("--methods", default="serac,ice,ike", help="to compare, by commas")
    parser.add_argument("--limit", type=int, default=0, help="questions of each score and set; 0: all")
    parser.add_argument(
        "--show", type=int, default=0, help="print so many wrong answers of each score and set"
    )
    parser.add_argument("--json", metavar="FILE", help="with --evaluate: write the numbers there")
    given = vars(parser.parse_args(arguments))
    asked = {name: given.pop(name) for name in ("evaluate", "part", "methods", "limit", "show", "json")}
    s = Settings(**given)
    if not Path(s.data).is_dir():
        sys.exit(f"error: no data at {s.data}; give their folder with --data")
    if not asked["evaluate"]:
        print(f"exported to {train(s)}")
        return
    torch.set_num_threads(s.threads)
    methods = asked["methods"].split(",")
    sources = Sources(Path(s.data), FACTS)
    result = compared(sources, asked["part"], methods, asked["evaluate"], asked["limit"], asked["show"])
    print(table(result))
    if asked["json"]:
        Path(asked["json"]).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
