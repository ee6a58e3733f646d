"""Train the editor of `mend`: a network that turns the gradient of one edit into the edit, for one base.

    python -m train.mend --base DIR --out DIR        # about half an hour on one core for the shipped base; resumes after a kill
    python -m train.mend --edits dev.jsonl           # facts kept apart, for `memedit bench methods`: to choose settings by

What a step reads is a pure function of (seed, step): a killed run goes on with the same edits, to the same result. The
equations are in memedit/methods/_hypernetwork.py; the loss is c_e (-log P(target | wordings)) + KL on texts that must stay.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import random
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
import checkpoint
from base_corpus import FACTS, ROOT
from mend_data import Example, Sources, write_edits

from memedit.errors import MemeditError
from memedit.layout import Layout
from memedit.lm import HFModel
from memedit.methods._hypernetwork import Editor, Factors, gradient_factors, weights_digest
from memedit.methods._locate import right_padded
from memedit.methods._watch import Hook, watched
from memedit.methods.mend import edited_modules


@dataclass
class Settings:
    """All settings of a run; each is a flag. The paper's, where they differ, are named."""

    base: str = "base"  # shipped name or folder
    out: str = ""  # where the finished editor goes, besides run/export
    data: str = os.environ.get("MEMEDIT_DATA", str(ROOT.parent / "shared" / "data"))
    run: str = str(ROOT / "runs" / "mend")
    seed: int = 0
    steps: int = 240
    edits: int = 8  # of a step; the paper: 10
    asked: int = 2  # wordings in which each target must come, its own first
    stay: int = 2  # texts that must stay
    layers: int = 3  # so many of the last layers
    first: int = 0  # 1: of the first layers instead
    rank: int = 128  # the paper: 1920
    c_e: float = 0.1  # weight of the edit's loss
    rate: float = 3e-4  # of Adam, for the networks; the paper: 1e-6, for models of billions
    rate_alpha: float = 1e-4  # for the learned rates
    decay_from: float = 0.4  # share of the steps after which both rates fall, linearly to a fiftieth
    threads: int = 1
    save_every: int = 20
    probe_every: int = 60
    probe: int = 64  # edits of subjects kept apart
    stop_after: int = 0  # stop (as if killed) after so many steps: for the tests


# --- batches -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Texts as ids: rows of (prompt, answer), (rows, longest); `gold` marks the columns that predict what counts."""

    ids: Tensor
    mask: Tensor
    gold: Tensor

    @property
    def next(self) -> Tensor:
        """The ids that each column should predict."""
        return self.ids.roll(-1, 1)


def batch_of(base: HFModel, texts: Sequence[tuple[str, str]]) -> Batch:
    """(prompt, answer) pairs; without an answer every column but the first and last counts."""
    rows, starts = [], []
    for prompt, answer in texts:
        own = list(base.tokenizer(prompt)["input_ids"])
        rows.append(own + (base.target_ids(prompt, answer) if answer else []))
        starts.append(len(own) - 1 if answer else 1)
    ids, mask = right_padded(rows, int(base.tokenizer.pad_token_id))
    column = torch.arange(ids.shape[1])[None]
    ends = mask.sum(1, keepdim=True) - 1
    gold = (column >= torch.tensor(starts)[:, None]) & (column < ends)
    return Batch(ids.to(base.device), mask.to(base.device), gold.to(base.device))


def logits_of(base: HFModel, batch: Batch) -> Tensor:
    """(n, vocabulary) at the n columns that count, row by row; the head reads no others, which is a third of the work."""
    me, rows = threading.get_ident(), batch.gold.nonzero(as_tuple=True)

    def chosen(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if threading.get_ident() != me:
            return None
        return (args[0].reshape(*batch.ids.shape, -1)[rows][None], *args[1:])

    handle = base.model.get_submodule(Layout.of(base.model).head).register_forward_pre_hook(chosen)
    try:
        places = base.positions(batch.mask)
        found = base.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False, **places)
    finally:
        handle.remove()
    return found.logits[0].float()  # type: ignore[no-any-return]


def by_row(values: Tensor, batch: Batch) -> Tensor:
    """(rows,) means of values (n,) at the columns that count."""
    counts = batch.gold.sum(1)
    rows = torch.arange(len(counts), device=values.device).repeat_interleave(counts)
    return values.new_zeros(len(counts)).index_add(0, rows, values) / counts


def row_losses(logits: Tensor, batch: Batch) -> Tensor:
    """(rows,) mean -log P of what counts in each row."""
    return by_row(F.cross_entropy(logits, batch.next[batch.gold], reduction="none"), batch)


class Job:
    """One base with its editor: what an edit does, and what it costs."""

    def __init__(self, base: HFModel, editor: Editor) -> None:
        self.base, self.editor = base, editor
        base.model.requires_grad_(False)

    def factors(self, examples: Sequence[Example]) -> dict[str, Factors]:
        """u (edits, tokens, in) and delta (edits, tokens, out) of each edit's own loss, for every module."""
        batch = batch_of(self.base, [(e.prompt, e.target) for e in examples])
        found = gradient_factors(
            lambda: row_losses(logits_of(self.base, batch), batch).sum(),
            list(self.editor.shapes),
            lambda hooks: watched(self.base, hooks),
        )
        n = len(examples)
        return {
            name: Factors(f.u.reshape(n, -1, f.u.shape[-1]), f.delta.reshape(n, -1, f.delta.shape[-1]))
            for name, f in found.items()
        }

    def edited(self, found: dict[str, Factors], batch: Batch) -> Tensor:
        """Logits of equally many rows for each edit, rows of one edit together, on that edit's weights."""

        def put(name: str) -> Hook:
            term = self.editor.edited(name, found[name])
            n = len(term.u)

            def hook(args: tuple[Any, ...], output: Tensor) -> Tensor:
                x = args[0].reshape(n, -1, args[0].shape[-1])
                return output + (x @ term.u.transpose(1, 2) @ term.delta).reshape(output.shape)

            return hook

        with watched(self.base, {name: put(name) for name in self.editor.shapes}):
            return logits_of(self.base, batch)

    def losses(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor, dict[str, float]]:
        """L_e, L_loc, and shares: of targets that come, in the edit's own words and in others; of unchanged next words."""
        found = self.factors(examples)
        asked, stay = len(examples[0].asked), len(examples[0].stay)
        texts: list[tuple[str, str]] = []
        for e in examples:
            texts += [(prompt, e.target) for prompt in e.asked]
            texts += [(text.prompt, text.answer) for text in e.stay]
        batch = batch_of(self.base, texts)
        fresh = (torch.arange(len(texts)) % (asked + stay) < asked).to(
            batch.ids.device
        )  # rows with the target
        new, same = (Batch(batch.ids[some], batch.mask[some], batch.gold[some]) for some in (fresh, ~fresh))
        with torch.no_grad():
            before = logits_of(self.base, same)
        logits = self.edited(found, batch)
        of_new = fresh[batch.gold.nonzero(as_tuple=True)[0]]
        said, kept = logits[of_new], logits[~of_new]
        apart = F.kl_div(
            F.log_softmax(kept, -1), F.log_softmax(before, -1), log_target=True, reduction="none"
        )
        with torch.no_grad():
            right = by_row((said.argmax(-1) == new.next[new.gold]).float(), new).view(-1, asked) == 1
            unchanged = by_row((kept.argmax(-1) == before.argmax(-1)).float(), same) == 1
        shares = {"es": right[:, 0].float().mean().item(), "gen": right[:, 1:].float().mean().item()}
        edit, local = row_losses(said, new).mean(), by_row(apart.sum(-1), same).mean()
        return edit, local, {**shares, "same": unchanged.float().mean().item()}

    def normalise(self, examples: Sequence[Example], at_once: int = 16) -> None:
        """Mean and deviation of every entry of u and delta, over the tokens that have a gradient."""
        sums: dict[str, list[Tensor]] = {name: [] for name in self.editor.shapes}
        for start in range(0, len(examples), at_once):
            for name, f in self.factors(examples[start : start + at_once]).items():
                there = f.delta.abs().amax(-1) > 0
                sums[name].append(torch.cat([f.u, f.delta], -1)[there])
        for name, some in sums.items():
            every = torch.cat(some)
            self.editor.mean[name.replace(".", "/")].data = every.mean(0)
            self.editor.deviation[name.replace(".", "/")].data = every.std(0).clamp(min=1e-8)


# --- the run -------------------------------------------------------------------------------------------------------


class Trainer:
    """The job, its optimiser, and what it takes to go on after a kill."""

    def __init__(self, s: Settings) -> None:
        self.s = s
        base = HFModel.from_pretrained(s.base, dtype="float32")
        shapes = edited_modules(base, s.layers, last=not s.first)
        torch.manual_seed(s.seed)
        editor = Editor(shapes, s.rank, weights_digest(base.model, list(shapes))).to(base.device)
        self.job = Job(base, editor)
        networks = [p for n, p in editor.named_parameters() if p.requires_grad and n != "alpha"]
        groups = [{"params": networks, "lr": s.rate}, {"params": [editor.alpha], "lr": s.rate_alpha}]
        self.optimizer = torch.optim.Adam(groups)
        self.step = 0
        self.log: list[dict[str, float]] = []

    def train_step(self, examples: Sequence[Example]) -> dict[str, float]:
        """One step of Adam on c_e L_e + L_loc.

        Raises:
            FloatingPointError: a loss that is no number; the editor is as it was.
        """
        s = self.s
        edit, local, shares = self.job.losses(examples)
        total = s.c_e * edit + local
        if not math.isfinite(float(total.detach())):
            raise FloatingPointError
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.job.editor.parameters(), 1.0)
        start = int(s.decay_from * s.steps)
        left = 1.0 if self.step < start else 1 - 0.98 * (self.step - start) / max(1, s.steps - start)
        for group, rate in zip(self.optimizer.param_groups, (s.rate, s.rate_alpha), strict=True):
            group["lr"] = rate * left * min(1.0, (self.step + 1) / max(1, min(50, s.steps // 10)))
        self.optimizer.step()
        self.step += 1
        return {"loss edit": float(edit.detach()), "loss local": float(local.detach()), **shares}

    def probe(self, examples: Sequence[Example]) -> dict[str, float]:
        """The same scores over edits kept apart."""
        scores: list[dict[str, float]] = []
        for start in range(0, len(examples), 16):
            some = examples[start : start + 16]
            with torch.no_grad():
                found = self.job.losses(some)[2]
            scores += [found] * len(some)
        return {name: sum(f[name] for f in scores) / len(scores) for name in scores[0]}

    def save(self, run: Path, source: dict[str, Any]) -> None:
        """The checkpoint, and the editor as users load it."""
        tensors = checkpoint.adam_tensors(dict(self.job.editor.named_parameters()), self.optimizer)
        checkpoint.write(run / "checkpoint", tensors, {"step": self.step, "log": self.log, "source": source})
        self.export(run / "export")

    def resume(self, run: Path, source: dict[str, Any]) -> bool:
        """Go on from the last whole checkpoint, where there is one.

        Raises:
            SystemExit: it was trained for another base, or by other settings.
        """
        found = checkpoint.newest(run / "checkpoint")
        if found is None:
            return False
        tensors, state = found
        if state["source"] != source:
            sys.exit(
                f"error: base or settings have changed since the checkpoint of step {state['step']} in {run}: "
                "put them back to go on, or take another --run to start anew"
            )
        checkpoint.put_back(tensors, dict(self.job.editor.named_parameters()), self.optimizer)
        self.step, self.log = state["step"], state["log"]
        return True

    def export(self, folder: Path) -> None:
        """The editor's folder, whole or not at all."""
        shown = {
            k: v for k, v in dataclasses.asdict(self.s).items() if k not in ("data", "run", "out", "base")
        }
        more = {"steps": self.step, "settings": shown, "log": self.log[-1] if self.log else {}}
        checkpoint.placed(folder, lambda part: self.job.editor.save(part, more))


def source_of(s: Settings, editor: Editor) -> dict[str, Any]:
    """What a checkpoint belongs to: the base's weights and the settings that make the result."""
    places = ("data", "run", "out", "base", "threads", "save_every", "stop_after", "probe_every", "probe")
    return {"base": editor.base, **{k: v for k, v in dataclasses.asdict(s).items() if k not in places}}


def train(s: Settings) -> Path:
    """The whole run; the folder of the editor.

    Raises:
        SystemExit: what stops it, in one sentence.
    """
    torch.set_num_threads(s.threads)
    run = Path(s.run)
    try:
        trainer = Trainer(s)
    except MemeditError as error:
        sys.exit(f"error: {error}")
    source = source_of(s, trainer.job.editor)
    sources = Sources(Path(s.data), FACTS)
    resumed = trainer.resume(run, source)
    if not resumed:
        rng = random.Random(f"{s.seed} statistics")
        trainer.job.normalise([sources.example(rng, s.asked, s.stay) for _ in range(256)])
    size = sum(p.numel() for p in trainer.job.editor.parameters()) / 1e6
    what = f"resumed at step {trainer.step}" if resumed else "a new run"
    print(f"editor of {size:.2f} M numbers for {len(trainer.job.editor.shapes)} matrices, {what}", flush=True)
    probes = sources.probes(s.probe) if s.probe_every and s.probe else []
    started, begun, mean = time.time(), trainer.step, dict[str, float]()
    bar = tqdm(total=s.steps, initial=begun, desc="steps", mininterval=5.0)
    while trainer.step < s.steps:
        rng = random.Random(f"{s.seed} {trainer.step}")
        try:
            seen = trainer.train_step([sources.example(rng, s.asked, s.stay) for _ in range(s.edits)])
        except FloatingPointError:
            sys.exit(
                f"error: the loss is no number at step {trainer.step + 1}; the last good editor is in {run / 'export'}: "
                "start anew with a lower --rate in another --run"
            )
        mean = {k: 0.97 * mean.get(k, v) + 0.03 * v for k, v in seen.items()}
        bar.update()
        if trainer.step % 10 == 0:
            shown = " ".join(f"{k} {v:.2f}" for k, v in mean.items())
            rate = (trainer.step - begun) * s.edits / (time.time() - started)
            bar.set_postfix_str(f"{shown}; {rate:.0f} edits/s")
        done = trainer.step == s.steps
        if probes and (trainer.step % s.probe_every == 0 or done):
            scores = trainer.probe(probes)
            trainer.log.append(
                {"step": trainer.step, **scores, **{k: v for k, v in mean.items() if "loss" in k}}
            )
            bar.write(f"{trainer.step}: " + "  ".join(f"{name} {v:.3f}" for name, v in scores.items()))
        if trainer.step % s.save_every == 0 or done:
            trainer.save(run, source)
        if s.stop_after and trainer.step - begun >= s.stop_after:
            break
    bar.close()
    if trainer.step >= s.steps and s.out:
        trainer.export(Path(s.out))
        return Path(s.out)
    return run / "export"


def main(arguments: list[str] | None = None) -> None:
    """Flags are the fields of `Settings`."""
    parser = argparse.ArgumentParser(
        prog="python -m train.mend", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for f in dataclasses.fields(Settings):
        name = "--a-step" if f.name == "edits" else f"--{f.name.replace('_', '-')}"
        parser.add_argument(name, dest=f.name, type=type(f.default), default=f.default)
    parser.add_argument(
        "--edits", dest="file", metavar="FILE", help="write facts kept apart there, and train nothing"
    )
    given = vars(parser.parse_args(arguments))
    file = given.pop("file")
    s = Settings(**given)
    if not Path(s.data).is_dir():
        sys.exit(f"error: no data at {s.data}; give their folder with --data")
    if file:
        write_edits(Sources(Path(s.data), FACTS).edits(120), Path(file))
        return
    print(f"exported to {train(s)}")


if __name__ == "__main__":
    main()
