"""Trains SERAC's two scope classifiers, as baselines of `memedit eval scope`; they don't ship.

    python -m train.serac_scope --kind embedding --pairs 100000 --work runs/serac-embedding
    python -m train.serac_scope --kind cross --pairs 100000 --work runs/serac-cross
    memedit eval scope --baselines bm25,cosine,serac-embedding=runs/serac-embedding,serac-cross=runs/serac-cross

All six layers of the shipped encoder learn, from the same pairs as the scope classifier's pair model: those of the relations
that it learns from, names disguised in part alike. Ripple pairs are left out: SERAC knows in and out of scope only. It goes on
where it was stopped.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))  # `python -m train.serac_scope` finds its neighbours too

import scope as job
from scope_data import Data
from scope_encoder import load_encoder, remembering

from memedit.encoder import MiniLM
from memedit.scope import SHIPPED
from memedit.scope_eval import serac
from memedit.training import combining
from memedit.training.pair_examples import DIRECT, RIPPLE, Example, Pool
from memedit.training.pair_training import PairSettings, PairTraining
from memedit.training.progress import Progress
from memedit.training.worlds import strangers

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Settings:
    """Every field is a flag."""

    kind: str = "embedding"  # or cross
    data: Path = job.Settings.data
    work: Path = job.ROOT / "runs" / "serac"  # checkpoints, and the classifier in the end
    pairs: int = 100_000
    batch: int = 64
    rate: float = 5e-5
    invented: int = job.Settings.invented
    held_out: float = job.Settings.held_out
    limit: int = 0  # cases of each source, for a miniature
    seed: int = 1


class SeracTraining(PairTraining):
    """The loop, the checkpoints and the pairs of the pair model's training, with SERAC's models and losses.

    Args:
        kind: one of `serac.KINDS`; the others as for `PairTraining`.
    """

    def __init__(self, kind: str, encoder: MiniLM, pool: Pool, folder: Path, settings: PairSettings) -> None:
        self.kind = kind
        super().__init__(encoder, pool, folder, settings, serac.fresh(kind, encoder, settings.seed))

    def loss_of(self, examples: Sequence[Example]) -> torch.Tensor:
        """Binary cross entropy; -log p of the embedding classifier is the squared distance itself."""
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits

        inside = torch.tensor([example.label == DIRECT for example in examples], device=self.encoder.device)
        queries, told = [e.query for e in examples], [e.edit.statement for e in examples]
        if self.kind == "cross":
            logits = serac.crossed(self.encoder, self.weights, list(zip(queries, told, strict=True)))
            return binary_cross_entropy_with_logits(logits, inside.float())
        a, b = serac.embedded(self.encoder, self.weights, [*queries, *told]).chunk(2)
        squared = ((a - b) ** 2).sum(-1).clamp(min=1e-4)
        return torch.where(inside, squared, -torch.log(-torch.expm1(-squared))).mean()

    def _draw(self) -> list[int]:
        return [i for i in super()._draw() if self.pool.examples[i].label != RIPPLE]

    def _about(self) -> dict[str, Any]:
        return {**super()._about(), "kind": self.kind}


def train(settings: Settings) -> None:
    """The whole job; writes serac.safetensors and serac.json into --work."""
    gathered = job.Settings(
        data=settings.data, invented=settings.invented, held_out=settings.held_out, limit=settings.limit, seed=settings.seed
    )  # fmt: skip
    cases, general, _ = job.gather(Data(settings.data), gathered)
    encoder = load_encoder("all-MiniLM-L6-v2", SHIPPED)
    assert isinstance(encoder, MiniLM)
    texts = remembering(encoder, settings.work)
    classifier = combining.untrained(texts, SHIPPED, gathered.lower)
    learnt = job.parts(job.trusted(classifier, cases), gathered)[0]
    near = strangers(classifier, learnt, general, random.Random(settings.seed), settings.limit * 4 or 4_000)
    texts.save()
    how = PairSettings(
        0, encoder.layers, 1, settings.pairs, settings.batch, settings.rate, seed=settings.seed
    )
    with Progress() as bar:
        weights = SeracTraining(settings.kind, encoder, Pool(learnt, near), settings.work, how).run(bar.loss)
    about = {k: v for k, v in asdict(settings).items() if k not in ("data", "work")}
    serac.put(settings.work, settings.kind, encoder, weights, about)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for f in fields(Settings):
        choices = serac.KINDS if f.name == "kind" else None
        parser.add_argument(
            f"--{f.name.replace('_', '-')}", type=type(f.default), default=f.default, choices=choices
        )
    given = parser.parse_args(argv)
    train(Settings(**{f.name: getattr(given, f.name) for f in fields(Settings)}))


if __name__ == "__main__":
    main()
