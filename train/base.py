"""Train the shipped base model: a small causal LM that knows facts and follows stated ones.

    python train/base.py                              # train, about two hours on two cores; resumes after a kill
    accelerate launch train/base.py                   # on several GPUs
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
import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
from base_corpus import FACTS, Settings, Stream, checkpoint_of, pack
from base_data import Knowledge
from base_eval import curve, evaluate, report
from base_training import Trainer
from processes import started_by_accelerate


def train(s: Settings) -> Path:
    """Run, or go on with, a training job; the folder of the exported model.

    Raises:
        SystemExit: the loss is no number any more; the last checkpoint is whole.
    """
    torch.set_num_threads(s.threads)
    accelerator = started_by_accelerate()
    leads = accelerator is None or accelerator.is_main_process
    device = str(accelerator.device) if accelerator else "cuda" if torch.cuda.is_available() else "cpu"
    with accelerator.main_process_first() if accelerator else nullcontext():  # packs; the others read
        packed, knowledge = pack(s)
    run = Path(s.run)
    trainer = Trainer(s, packed, device)
    resumed = trainer.resume(checkpoint_of(run))
    if leads:
        size = sum(p.numel() for p in trainer.model.parameters()) / 1e6
        print(
            f"{size:.1f} M parameters",
            f"resumed at step {trainer.step}" if resumed else "a new run",
            sep=", ",
        )
    stream, started, tokens, first = Stream(s, packed), time.time(), 0, trainer.step
    mean: dict[str, float] = {}
    # its rate and time left are the run's
    bar = tqdm(total=s.steps, initial=first, desc="steps", mininterval=5.0, disable=not leads)
    while trainer.step < s.steps:
        try:
            seen, read = trainer.train_step(stream, accelerator)
        except FloatingPointError:
            sys.exit(
                f"error: the loss is no number at step {trainer.step + 1}; the last good checkpoint is in {run}: go on "
                "from there with a lower --rate"
            )
        tokens += read
        mean = {k: 0.95 * mean.get(k, v) + 0.05 * v for k, v in {**mean, **seen}.items()}
        bar.update()
        if trainer.step % 20 == 0:
            spent = time.time() - started
            shown = " ".join(f"{k} {v:.2f}" for k, v in mean.items())
            bar.set_postfix_str(f"loss: {shown}; {tokens / spent:,.0f} tokens/s")
        if leads:
            _look_and_save(trainer, knowledge, mean, bar)
        if accelerator:
            accelerator.wait_for_everyone()
        if s.stop_after and trainer.step - first >= s.stop_after:
            break
    bar.close()
    if leads and trainer.step >= s.steps and s.out:
        trainer.export(Path(s.out))
    return run / "export"


def _look_and_save(trainer: Trainer, knowledge: Knowledge, mean: dict[str, float], bar: tqdm) -> None:
    """Where it is due: a probe of what the model knows by now, and a checkpoint."""
    s, run, done = trainer.s, Path(trainer.s.run), trainer.step == trainer.s.steps
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
