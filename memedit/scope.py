"""The scope classifier: does this query concern that edit?

Two questions are kept apart, because each carries over to data that neither saw: is it the same subject
(names, words), and is it the same relation, once the subject is out of sight (cosine of the two texts with the
subject masked in both)? A small ensemble of trees weighs them together with plain cosines, ranks and lengths,
and a calibrated threshold decides. `train/scope.py` makes it; its card is pretrained/scope/README.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from memedit.edit import Edit
from memedit.encoder import Encoder, MiniLM, Named
from memedit.errors import ModelError
from memedit.subjects import COMMON, MASK, NOWHERE, QUESTION, Found, content, find, guesses, mask, words

SHIPPED = Path(__file__).parent / "pretrained" / "scope"
FORMAT = 1
VIEWS = ("statement", "prompt", "masked")
DEFAULT_RATE = 0.005
FEATURES = (
    "cos_statement", "cos_prompt", "cos_best", "cos_masked", "masked_gain", "share", "whole", "extended", "rank",
    "lead", "masked_lead", "query_words", "edit_words", "name_words", "overlap_query", "overlap_edit", "target_share",
    "old_share", "strangers", "contains_prompt", "known_subject", "has_prompt", "is_question",
)  # fmt: skip


class ScopeClassifier:
    """Encodes texts and judges (query, edit) pairs. Make one with `load`.

    Args:
        encoder: what encodes; None for the shipped one, which is read at the first `encode`.
        settings: scope.json of a trained folder.
        trees: the combiner.
        folder: where the encoder's files are.
        device: a torch device for the encoder.
    """

    views: tuple[str, ...] = VIEWS

    def __init__(
        self, settings: dict[str, Any], trees: Trees, folder: Path, encoder: Encoder | None = None, device: str | None = None
    ) -> None:
        self.settings, self.trees = settings, trees
        self._folder, self._device = folder, device
        if encoder is not None:
            self.encoder = encoder
        made_by = settings["encoder"]
        self.name: str = encoder.name if encoder else made_by["name"]
        self.dim: int = encoder.dim if encoder else made_by["dim"]
        digest = encoder.digest if encoder else made_by["digest"]
        self.fingerprint = hashlib.sha256(f"{digest} {VIEWS} {MASK} {FORMAT}".encode()).hexdigest()[:16]

    @classmethod
    def load(
        cls, folder: str | Path | None = None, *, encoder: str | None = None, device: str | None = None
    ) -> ScopeClassifier:
        """Read a trained classifier; without a folder, the shipped one.

        Args:
            encoder: another sentence-transformers model, by hub name or folder. The shipped combiner was
                trained on all-MiniLM-L6-v2's cosines: train one for the encoder with ``train/scope.py --encoder``.

        Raises:
            ModelError: the folder holds no classifier, or one of another format; or the encoder can't be loaded.
        """
        path = Path(folder) if folder else SHIPPED
        try:
            settings = json.loads((path / "scope.json").read_text(encoding="utf-8"))
            trees = Trees.load(path / "combiner.safetensors")
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} holds no scope classifier: {error}; train one with train/scope.py") from error
        except Exception as error:
            if type(error).__name__ != "SafetensorError":
                raise
            raise ModelError(f"{path / 'combiner.safetensors'} is damaged: {error}") from error
        if settings.get("format") != FORMAT or tuple(settings.get("features", ())) != FEATURES:
            raise ModelError(f"{path} was trained by another version of memedit; train it again with train/scope.py")
        named = Named(encoder, device) if encoder and encoder != settings["encoder"]["name"] else None
        if named is None and not settings["encoder"]["shipped"]:
            named = Named(settings["encoder"]["name"], device)
        return cls(settings, trees, path, named, device)

    @cached_property
    def encoder(self) -> Encoder:
        made_by = self.settings["encoder"]
        folder = self._folder if (self._folder / "model.safetensors").exists() else SHIPPED
        return MiniLM(folder, made_by["name"], made_by["digest"], self._device)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (n, dim), float32."""
        return self.encoder.encode(texts) if len(texts) else np.zeros((0, self.dim), dtype=np.float32)

    def texts(self, edit: Edit) -> tuple[str, ...]:
        """What is encoded and stored for an edit, one text for each of `views`; none is empty.

        The fact as a sentence; what is asked; what is asked with the subject masked (a guess of it, where
        the edit names none).
        """
        asked = asked_by(edit)
        name = next((n for n in names(edit) if find(n, asked).share == 1), None)
        return edit.statement, asked, mask(asked, find(name, asked).spans) if name else asked

    def judge(
        self,
        queries: Sequence[str],
        vectors: np.ndarray,
        edits: Sequence[Sequence[Edit]],
        edit_vectors: Sequence[np.ndarray],
    ) -> list[np.ndarray]:
        """Probabilities that each query concerns each of its candidate edits.

        Args:
            queries: n texts. vectors: (n, dim), their `encode`.
            edits: for each query its candidates, the nearest first.
            edit_vectors: for each query (candidates, views, dim), the stored vectors of these edits.

        Returns:
            For each query (candidates, 2): direct and ripple. This version knows no ripple: always 0.
        """
        table, sizes = self.features(queries, vectors, edits, edit_vectors)
        direct = self.calibrated(self.trees(table)) if len(table) else np.zeros(0)
        out = []
        start = 0
        for query, some, size in zip(queries, edits, sizes, strict=True):
            pairs = np.zeros((size, 2))
            pairs[:, 0] = direct[start : start + size]
            for i, edit in enumerate(some):
                if _same_words(query, asked_by(edit)) or _same_words(query, edit.statement):
                    pairs[i, 0] = 1.0  # its own words: nothing is left to judge
            out.append(pairs)
            start += size
        return out

    def calibrated(self, scores: np.ndarray) -> np.ndarray:
        """Platt's sigmoid, fitted on a part of train that the trees did not see."""
        slope, shift = self.settings["platt"]
        return 1.0 / (1.0 + np.exp(-np.clip(slope * scores + shift, -30, 30)))

    def threshold(self, memory_size: int, false_fire_rate: float | None = None) -> float:
        """The probability from which an edit fires.

        A general question meets the more near edits, the more there are: so the threshold follows the
        memory's size. It is never below the floor at which hits and false fires balance on pairs that share a
        subject or a relation, unless the caller asks for a higher rate than the default.

        Args:
            memory_size: live edits in memory.
            false_fire_rate: share of general queries that may fire falsely; default .005.

        Raises:
            ValueError: the rate is not between 0 and 1.
        """
        rate = DEFAULT_RATE if false_fire_rate is None else float(false_fire_rate)
        if not 0 < rate < 1:
            raise ValueError(f"the false-fire rate is {rate}; it must lie between 0 and 1")
        table = self.settings["thresholds"]
        rates = np.log(table["rates"])
        at_rate = [np.interp(np.log(rate), rates, row) for row in table["logits"]]  # one for each size
        logit = float(np.interp(np.log10(max(memory_size, 1)), np.log10(table["sizes"]), at_rate))
        if rate <= DEFAULT_RATE:
            logit = max(logit, table["floor"])
        return float(1 / (1 + np.exp(-logit)))

    def features(
        self,
        queries: Sequence[str],
        vectors: np.ndarray,
        edits: Sequence[Sequence[Edit]],
        edit_vectors: Sequence[np.ndarray],
    ) -> tuple[np.ndarray, list[int]]:
        """One row of FEATURES for each (query, candidate), and the number of candidates of each query."""
        pairs = [[_Pair(query, edit) for edit in some] for query, some in zip(queries, edits, strict=True)]
        hidden: dict[str, int] = {}  # masked texts, each encoded once for the whole batch
        for row in pairs:
            for pair in row:
                for text in (pair.masked_query, pair.masked_edit):
                    if text:
                        hidden.setdefault(text, len(hidden))
        masked = self.encode(list(hidden)) if hidden else np.zeros((0, self.dim), dtype=np.float32)
        rows: list[np.ndarray] = []
        for row, vector, stored in zip(pairs, vectors, edit_vectors, strict=True):
            if not row:
                continue
            views = np.asarray(stored, dtype=np.float32)
            cosines = views[:, :2] @ vector
            alike = np.full(len(row), -1.0)
            for i, pair in enumerate(row):
                if pair.masked_query:
                    other = masked[hidden[pair.masked_edit]] if pair.masked_edit else views[i, 2]
                    alike[i] = masked[hidden[pair.masked_query]] @ other
            rows.append(_table(row, cosines, alike))
        found = np.concatenate(rows) if rows else np.zeros((0, len(FEATURES)))
        return found, [len(row) for row in pairs]


class Trees:
    """A sum of small regression trees, as arrays of shape (trees, nodes).

    A leaf points at itself, so all trees are walked for the same number of steps without a branch.
    """

    NAMES = ("feature", "cut", "left", "right", "value")

    def __init__(self, arrays: dict[str, np.ndarray], depth: int, base: float) -> None:
        self.arrays = {name: arrays[name] for name in self.NAMES}
        self.depth, self.base = depth, base
        count, nodes = arrays["cut"].shape
        offsets = np.arange(count)[:, None] * nodes
        self._left, self._right = ((arrays[side] + offsets).ravel() for side in ("left", "right"))
        self._feature, self._cut, self._value = (arrays[n].ravel() for n in ("feature", "cut", "value"))
        self._roots = offsets[:, 0]

    @classmethod
    def load(cls, path: Path) -> Trees:
        from safetensors.numpy import load

        arrays = load(path.read_bytes())
        return cls(arrays, int(arrays["depth"][0]), float(arrays["base"][0]))

    @classmethod
    def nothing(cls) -> Trees:
        """One leaf of value 0: what training starts from."""
        kinds = {name: np.float64 if name in ("cut", "value") else np.int32 for name in cls.NAMES}
        return cls({name: np.zeros((1, 1), dtype=kind) for name, kind in kinds.items()}, 0, 0.0)

    def save(self, path: Path) -> None:
        from safetensors.numpy import save_file

        extra = {"depth": np.array([self.depth]), "base": np.array([self.base])}
        save_file({**self.arrays, **extra}, path)

    def __call__(self, table: np.ndarray) -> np.ndarray:
        """Scores (n,) for rows of features (n, features)."""
        at = np.broadcast_to(self._roots, (len(table), len(self._roots)))
        rows = np.arange(len(table))[:, None]
        for _ in range(self.depth):
            smaller = table[rows, self._feature[at]] <= self._cut[at]
            at = np.where(smaller, self._left[at], self._right[at])
        return self.base + self._value[at].sum(axis=1)


def asked_by(edit: Edit) -> str:
    """What the edit is the answer to; where nobody said, the whole statement."""
    return edit.prompt or edit.statement


def names(edit: Edit) -> tuple[str, ...]:
    """The subject and its aliases; where none is given, what the edit's text may be about."""
    return edit.names or guesses(asked_by(edit))


def _same_words(a: str, b: str) -> bool:
    return [w.folded for w in words(a)] == [w.folded for w in words(b)]


class _Pair:
    """What the words alone say of a query and an edit."""

    def __init__(self, query: str, edit: Edit) -> None:
        self.query, self.edit, self.asked = query, edit, asked_by(edit)
        self.names = names(edit)
        found = [find(name, query) for name in self.names]
        best = max(range(len(found)), key=lambda i: (found[i].share, -i), default=-1)
        self.found: Found = found[best] if best >= 0 else NOWHERE
        self.masked_query = mask(query, self.found.spans) if self.found.share else ""
        self.masked_edit = ""  # encoded anew only where another name was found than the stored view masks
        if self.found.share and not edit.names and best > 0:
            self.masked_edit = mask(self.asked, find(self.names[best], self.asked).spans)

    def row(self) -> dict[str, float]:
        edit, query = self.edit, self.query
        subject = frozenset().union(*(content(name) for name in self.names))
        said, asks = content(self.masked_query or query), content(self.asked) - subject
        said = said - {MASK.casefold()}
        whole_edit = content(edit.statement) | content(self.asked)
        known = whole_edit | subject | content(edit.target or "") | content(edit.old or "")
        there = words(query)
        strangers = sum(w.capital and w.folded not in known for w in there[1:] if w.folded not in COMMON)
        first = there[0].folded if there else ""
        return {
            "share": self.found.share,
            "whole": float(self.found.share == 1),
            "extended": float(self.found.extended),
            "query_words": len(there),
            "edit_words": len(words(self.asked)),
            "name_words": len(content(self.names[0])) if self.names else 0,
            "overlap_query": len(said & whole_edit) / max(len(said), 1),
            "overlap_edit": len(asks & said) / max(len(asks), 1),
            "target_share": find(edit.target, query).share if edit.target else -1.0,
            "old_share": find(edit.old, query).share if edit.old else -1.0,
            "strangers": strangers,
            "contains_prompt": float(_within(self.asked, query)),
            "known_subject": float(bool(edit.names)),
            "has_prompt": float(bool(edit.prompt)),
            "is_question": float(query.rstrip().endswith("?") or first in QUESTION),
        }


def _within(part: str, text: str) -> bool:
    inner = " ".join(w.folded for w in words(part))
    return f" {inner} " in f" {' '.join(w.folded for w in words(text))} "


def _table(row: list[_Pair], cosines: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """FEATURES of one query's candidates: (candidates, features). cosines (candidates, 2); alike (candidates,)."""
    best = cosines.max(axis=1)
    ranks = np.argsort(np.argsort(-best, kind="stable"), kind="stable")
    out = np.zeros((len(row), len(FEATURES)))
    for i, pair in enumerate(row):
        others = np.delete(best, i)
        rivals = np.delete(alike, i)
        values = pair.row()
        values |= {
            "cos_statement": float(cosines[i, 0]),
            "cos_prompt": float(cosines[i, 1]),
            "cos_best": float(best[i]),
            "cos_masked": float(alike[i]),
            "masked_gain": float(alike[i] - best[i]) if alike[i] > -1 else 0.0,
            "rank": float(ranks[i]),
            "lead": float(best[i] - others.max()) if len(others) else 1.0,
            "masked_lead": float(alike[i] - max(rivals.max(), 0)) if len(rivals) and alike[i] > -1 else 0.0,
        }
        out[i] = [values[name] for name in FEATURES]
    return out
