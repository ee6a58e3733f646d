"""`memedit train scope`: a trained scope classifier goes on learning, from a user's own examples.

The pair model's weights move, at a small rate; encoder, lenses and trees stay. Whole edits are held apart by a hash of
their statement: some to choose the best round by, with the weights at the start as round 0; others only for the table of
before and after. Where the former are many, the calibration is made anew on them.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memedit.devices import best
from memedit.errors import ModelError
from memedit.memory.snapshot import write_durably
from memedit.scope import SHIPPED, ScopeClassifier
from memedit.scope_eval.crowd import Remembered
from memedit.training.cases import Case, chance
from memedit.training.combining import put_pair_model
from memedit.training.examples import Examples, general_of, read_examples, sha256, unchanged
from memedit.training.folder import check_out, put_folder
from memedit.training.measure import Scores, Trial, table
from memedit.training.pair_examples import Pool
from memedit.training.pair_training import PairSettings, PairTraining, processes
from memedit.training.progress import Progress
from memedit.training.recalibrating import recalibrated
from memedit.training.worlds import strangers

if TYPE_CHECKING:
    import torch

PARTS = ("scope.json", "combiner.safetensors", "pair.safetensors")
CHOOSING = 0.15  # share of the edits that the best round is chosen by
ENOUGH = 200  # queries in scope, and near ones, from which a calibration is made anew


@dataclass(frozen=True)
class FineTuning:
    """What is to be done. What `same` leaves out may differ when a training goes on.

    Attributes:
        data: files of examples. out: folder for the classifier. start: folder of the one to begin with. format: of the
            files, see `memedit.data.NAMES`. skip_bad: leave out contradictory records.
        general: a file of general questions. pairs: of each round; 0 for as many as
            the examples are worth. held_out: share of the edits for before and after. work: folder for checkpoints.
    """

    data: tuple[str, ...]
    out: Path
    start: Path = SHIPPED
    format: str | None = None
    general: str | None = None
    rounds: int = 4
    pairs: int = 0
    batch: int = 32
    rate: float = 5e-5
    held_out: float = 0.2
    seed: int = 1
    work: Path | None = None
    device: str | None = None
    skip_bad: bool = False

    @property
    def folder(self) -> Path:
        """For checkpoints."""
        return self.work or self.out.resolve().with_name(f"{self.out.resolve().name}.work")

    def same(self) -> dict[str, Any]:
        """What makes it this training and no other."""
        free = ("out", "start", "work", "rate", "device", "data", "general")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in free}


@dataclass
class Result:
    """What a training made, as it is written to training.json beside the classifier.

    Attributes:
        best: the round whose weights were kept; 0 for those of the start. epochs: the mark of each round on the part
            that it was chosen by, the start's first. table: see `measure.table`.
    """

    job: str
    files: dict[str, str]
    settings: dict[str, Any]
    start: dict[str, str]
    edits: dict[str, int]
    best: int
    epochs: list[float]
    calibrated: bool
    table: list[dict[str, Any]]
    threshold: dict[str, float]
    losses: list[float]
    notes: list[str] = field(default_factory=list)


def fine_tune(settings: FineTuning, fresh: bool = False) -> Result | None:
    """The whole job, from the last checkpoint where there is one; None in all processes but the first.

    Raises:
        DataError: the examples can't be used. ModelError: a folder can't, or the loss is no number.
    """
    number, count = processes()
    if number:
        try:
            _together(count)
            examples = read_examples(settings.data, settings.format, settings.skip_bad)
            _Job(settings, examples).train(Progress(quiet=True), None)
        except RuntimeError:  # the first process has stopped, and says why
            sys.exit(1)
        return None
    check_out(settings.out, settings.start, settings.folder)
    with _alone(settings.folder):
        examples = read_examples(settings.data, settings.format, settings.skip_bad)
        job = _Job(settings, examples)
        done = _finished(settings, job.digest)
        if done and not fresh and count == 1:
            return done
        state = _State.begun(settings, job, fresh)
        _together(count)
        with Progress() as bar:
            result = _run(job, state, bar)
        unchanged(job.files)
        put_folder(job.classifier, settings.out, settings.start, job.kept(state), asdict(result))
        _State.cleared(settings.folder)
    return result


def _run(job: _Job, state: _State, bar: Progress) -> Result:
    def measured(trial: Trial, what: str) -> Scores:
        done = 0

        def step(count: int) -> None:
            nonlocal done
            done += count
            bar.step(what, min(done, trial.size), trial.size)

        return trial.scores(step)

    learnt, choosing, apart = job.parts
    general = job.general[1]
    trial = Trial(job.classifier, [*learnt, *choosing], apart, general)
    before = measured(trial, "before")
    chosen_by = Trial(job.classifier, learnt, choosing)
    if not state.epochs:
        state.epochs = [chosen_by.scores().mark]
        state.save()

    def after(round: int) -> None:
        put_pair_model(job.classifier, job.training.now(), job.encoder)
        mark = measured(chosen_by, f"round {round}").mark
        state.add(round, mark, job.training.now())

    job.train(bar, after)
    round = int(np.argmax(state.epochs))
    put_pair_model(job.classifier, job.kept(state), job.encoder)
    calibrated = False
    if choosing:
        calibrated = recalibrated(
            job.classifier,
            choosing,
            job.general[0],
            ENOUGH,
            job.settings.seed,
            lambda: chosen_by.scores().mark,
        )
    late = measured(trial, "after")
    notes = [*job.examples.notes]
    if not round:
        notes.append("no round was better than the start, whose weights were kept")
    return Result(
        job.digest, job.files, _plain(job.settings) | {"pairs": job.training.settings.pairs}, job.origin,
        {"learnt": len(learnt), "choosing": len(choosing), "before and after": len(apart)},
        round, state.epochs, calibrated, table(before, late),
        {"before": before.threshold, "after": late.threshold}, job.training.losses, notes,
    )  # fmt: skip


class _Job:
    """The examples in parts, the classifier, and the pair model's training."""

    def __init__(self, settings: FineTuning, examples: Examples) -> None:
        self.settings, self.examples = settings, examples
        self.general = general_of(settings.general, examples.cases)
        self.files = dict(examples.files)
        if settings.general:
            self.files[settings.general] = sha256(settings.general)
        self.parts = parts(examples.cases, settings.held_out, settings.seed)
        self.classifier = ScopeClassifier.load(settings.start, device=settings.device or _device())
        self.origin = {name: sha256(settings.start / name) for name in PARTS}
        self.encoder = self.classifier.pairs.encoder
        self.start = {name: value.float().cpu() for name, value in self.classifier.pairs.weights.items()}
        self.classifier.encoder = Remembered(self.classifier.encoder, None)
        self.training: PairTraining
        about = [settings.same(), sorted(self.files.values()), self.origin]
        self.digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]

    def train(self, bar: Progress, after: Any) -> None:
        """Rounds of pairs, each with what the model as it is takes most for something else."""
        learnt, s = self.parts[0], self.settings
        general = [q.text for case in learnt for q in case.queries if q.kind == "general"]
        general = [*self.general[0], *dict.fromkeys(general)]
        near = strangers(self.classifier, learnt, general, random.Random(s.seed))
        pool = Pool(learnt, near)
        pairs = s.pairs or min(20_000, max(1_600, 3 * len(learnt)))
        lower = int(self.classifier.settings["pair"]["lower"])
        layers = self.classifier.pairs.layers
        how = PairSettings(lower, layers, s.rounds, pairs, s.batch, s.rate, seed=s.seed, every=20)
        self.training = PairTraining(self.encoder, pool, s.folder, how, self.start, mine_first=True)
        self.training.run(bar.loss, after)

    def kept(self, state: _State) -> dict[str, torch.Tensor]:
        """The best round's weights."""
        from safetensors.torch import load_file

        if not int(np.argmax(state.epochs)):
            return self.start
        return {k: v.float() for k, v in load_file(state.folder / "best.safetensors").items()}


def parts(cases: Sequence[Case], held_out: float, seed: int) -> tuple[list[Case], list[Case], list[Case]]:
    """Edits to learn from; to choose by; for before and after. By a hash of the statement: what is added to a file moves
    no edit from one part to another, but where a part would hold less than two."""
    drawn = sorted((chance(f"{seed} {case.edit.statement}"), i) for i, case in enumerate(cases))
    most = max(1, len(cases) // 4)
    apart = [i for at, i in drawn if at < held_out]
    apart = apart if len(apart) >= 2 else [i for _, i in drawn[: min(2, most)]]
    rest = [(at, i) for at, i in drawn if i not in set(apart)]
    choosing = [i for at, i in rest if at < held_out + CHOOSING]
    choosing = choosing if len(choosing) >= 2 else [i for _, i in rest[: min(2, most)]]
    learnt = [i for _, i in rest if i not in set(choosing)]
    if not learnt:
        raise ModelError(
            f"with {held_out:.0%} of the edits held out none is left to learn from; give a smaller --held-out"
        )
    return tuple([cases[i] for i in sorted(some)] for some in (learnt, choosing, apart))  # type: ignore[return-value]


def _plain(settings: FineTuning) -> dict[str, Any]:
    kept = {k: v for k, v in asdict(settings).items() if k not in ("work", "device")}
    return {k: str(v) if isinstance(v, Path) else v for k, v in kept.items()}


def _device() -> str:
    """A GPU where there is one: of several processes, each takes its own."""
    device = best()
    return f"{device}:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device


def _together(count: int) -> None:
    """Wait until all processes are here."""
    if count > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


# ---------------------------------------------------------------- what is kept between two runs


@dataclass
class _State:
    """Beside the checkpoint: which training this is, and what its rounds were worth so far."""

    folder: Path
    job: str
    settings: dict[str, Any]
    files: dict[str, str]
    origin: dict[str, str]
    epochs: list[float] = field(default_factory=list)

    @classmethod
    def begun(cls, settings: FineTuning, job: _Job, fresh: bool) -> _State:
        """The state of this training, new or from its folder.

        Raises:
            ModelError: the folder holds another training, or is damaged. DataError: a file has changed since.
        """
        if fresh:
            cls.cleared(settings.folder)
        new = cls(settings.folder, job.digest, settings.same(), job.files, job.origin)
        path = settings.folder / "state.json"
        if not path.exists():
            cls.cleared(settings.folder)
            new.save()
            return new
        try:
            old = cls(settings.folder, **json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, OSError) as error:
            raise ModelError(f"{path} is damaged ({error}); start anew with --fresh") from None
        if old.job == new.job:
            return old
        unchanged({name: digest for name, digest in old.files.items() if name in new.files})
        other = [k for k, v in new.settings.items() if old.settings.get(k) != v]
        if sorted(old.files) != sorted(new.files):
            other.append("data")
        what = ", ".join(other) or "the classifier that it began with"
        raise ModelError(
            f"{settings.folder} holds a training with other settings ({what}); "
            "give the same again to go on, another --work, or --fresh to start anew"
        )

    def add(self, round: int, mark: float, weights: dict[str, torch.Tensor]) -> None:
        """A round's mark; its weights are kept if none before it was as good."""
        import torch
        from safetensors.torch import save

        self.epochs = self.epochs[:round]
        if mark > max(self.epochs):
            rounded = {name: value.to(torch.bfloat16).contiguous() for name, value in weights.items()}
            _put(self.folder / "best.safetensors", save(rounded))
        self.epochs.append(mark)
        self.save()

    def save(self) -> None:
        about = {k: v for k, v in asdict(self).items() if k != "folder"}
        _put(self.folder / "state.json", json.dumps(about).encode())

    @staticmethod
    def cleared(folder: Path) -> None:
        """Take away what a training leaves in its folder."""
        for name in ("checkpoint.safetensors", "best.safetensors", "state.json"):
            (folder / name).unlink(missing_ok=True)


def _put(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, data)
    except OSError as error:
        raise ModelError(
            f"{path} can't be written: {error.strerror}; the last checkpoint there is whole: "
            "make room, and the same command goes on from it"
        ) from error


def _finished(settings: FineTuning, job: str) -> Result | None:
    """The result of this very training, where the folder holds it."""
    try:
        result = Result(**json.loads((settings.out / "training.json").read_text(encoding="utf-8")))
        same = (result.job, result.settings["rate"]) == (job, settings.rate)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return result if same and (settings.out / "scope.json").exists() else None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; a folder that holds nothing else in the end is taken away.

    Raises:
        ModelError: another training has it, or the folder can't be written.
    """
    try:
        import fcntl
    except ImportError:  # Windows: two at a time would be the user's own doing
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        raise ModelError(f"the folder {folder} can't be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ModelError(
                f"another training works in {folder}; wait for it, or give another --work"
            ) from None
        try:
            yield
        finally:
            if [path.name for path in folder.iterdir()] == ["lock"]:
                (folder / "lock").unlink()
                folder.rmdir()
