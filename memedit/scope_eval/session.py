"""One run of the scope scores from the files on disk: data, classifier, baselines, vectors kept between runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import memedit
from memedit.scope import SHIPPED, ScopeClassifier
from memedit.scope_eval import sets as development
from memedit.scope_eval.crowd import Bar, Remembered, RememberedPairs, Vectors
from memedit.scope_eval.judges import Classifier, Judge, baselines
from memedit.scope_eval.public import Public
from memedit.scope_eval.run import Scored, evaluate

JUDGING = ("scope.py", "exclusion.py", "combiner.py", "wording.py", "pairs.py")
Progress = Callable[[str], AbstractContextManager[Bar]]  # a bar with a title


class Session:
    """A classifier and its baselines, ready to be scored.

    Args:
        data: the folder with splits.json. classifier: a trained folder; None for the shipped one.
        baselines: names of `judges.BASELINES`. cache: where vectors are kept; None keeps none.
        minilm: folder of all-MiniLM-L6-v2, for `cosine`, where the classifier's encoder is another.

    Raises:
        DataError, ModelError: what was named is not there.
    """

    def __init__(
        self,
        data: Path,
        classifier: str | None,
        beside: Sequence[str],
        cache: Path | None,
        *,
        device: str | None = None,
        minilm: str | None = None,
    ) -> None:
        self.data = Public(data)
        _ = self.data.split  # read first: a wrong folder is said before a model is loaded
        self.classifier = ScopeClassifier.load(classifier, device=device)
        self.fingerprint = _digest(Path(classifier) if classifier else SHIPPED)
        encoder = self.classifier.encoder
        self.queries = Remembered(encoder, cache)
        self.stored = Remembered(encoder, cache, precision="float16")
        self.classifier.encoder = self.queries
        self.classifier.__dict__["pairs"] = RememberedPairs(self.classifier.pairs)
        self.vectors = Vectors(self.stored.encode, self.classifier.texts)
        self.judges: list[Judge] = [
            Classifier(self.classifier),
            *baselines(beside, self.classifier, minilm, cache),
        ]

    def run(
        self, names: Sequence[str], sizes: Sequence[int], limit: int | None, seed: int, progress: Progress
    ) -> list[Scored]:
        """Every set at every size by every judge. What was encoded is kept, also when the run is stopped."""
        with progress("reading") as bar:
            sets = development.chosen(self.data, names, limit, seed)
            general = development.general(self.data, limit, seed)
            fillers = development.Fillers.of(self.data, seed, bar, many=max(sizes) > 20_000)
        try:
            with progress("encoding") as bar:
                self._encode(sets, general, bar)
            with progress("judging") as bar:
                return list(evaluate(sets, self.judges, general, fillers, sizes, self.vectors, seed, bar))
        finally:
            self.queries.save()
            self.stored.save()

    def _encode(
        self, sets: dict[str, list[development.ScopeCase]], general: Sequence[tuple[str, str]], bar: Bar
    ) -> None:
        """Queries first, with a bar: judging needs them all, whatever is resumed."""
        self.queries.bar = bar
        self.queries.encode(
            [text for cases in sets.values() for case in cases for text, _ in case.queries]
            + [t for t, _ in general]
        )
        self.queries.bar = None


def code_digest() -> str:
    """Of the code that judges, so that a table says which it was taken with: tables of other code are stale."""
    digest = hashlib.sha256()
    for name in JUDGING:
        digest.update(Path(memedit.__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:12]


def _digest(folder: Path) -> str:
    """Of the classifier's files, so that a table says which weights it was taken with."""
    digest = hashlib.sha256()
    for name in ("scope.json", "combiner.safetensors", "pair.safetensors"):
        path = folder / name
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()[:12]
