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
# Twice the same question, twice two questions: how an encoder's cosines are laid on those that the trees know.
ALIKE = (
    ("Who wrote the book?", "Who is the author of the book?"),
    ("Where does X live?", "The home of X is in"),
)
UNLIKE = (("Who wrote the book?", "How tall is the tower?"), ("Where does X live?", "The price of X is"))
FEATURES = (
    "cos_statement", "cos_prompt", "cos_best", "cos_masked", "lens_masked", "lens_whole", "lens_gap", "share",
    "whole", "extended", "object_like", "rank", "lead", "masked_lead", "query_words", "edit_words", "name_words",
    "overlap_query", "overlap_edit", "target_share", "old_share", "strangers", "contains_prompt", "known_subject",
    "has_prompt", "is_question",
)  # fmt: skip


class ScopeClassifier:
    """Encodes texts and judges (query, edit) pairs. Make one with `load`.

    Args:
        encoder: what encodes; None for the shipped one, which is read at the first `encode`.
        settings: scope.json of a trained folder.
        trees: the combiner.
        lenses: linear maps (dim, dim) before a cosine: "masked" for masked texts, "whole" for whole ones.
        folder: where the encoder's files are.
        device: a torch device for the encoder.
    """

    views: tuple[str, ...] = VIEWS

    def __init__(
        self,
        settings: dict[str, Any],
        trees: Trees,
        lenses: dict[str, np.ndarray],
        folder: Path,
        encoder: Encoder | None = None,
        device: str | None = None,
    ) -> None:
        self.settings, self.trees, self.lenses = settings, trees, lenses
        self._folder, self._device = folder, device
        if encoder is not None:
            self.encoder = encoder
        self._scales = dict.fromkeys(("plain", "masked", "whole"), (1.0, 0.0))  # slope and shift of cosines
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
            encoder: another sentence-transformers model, by hub name or folder. Without a combiner trained for
                it, its cosines are stretched to the shipped encoder's scale and the lenses stay out; for better
                verdicts train one with ``train/scope.py --encoder NAME --out FOLDER`` and load that folder.

        Raises:
            ModelError: the folder holds no classifier, or one of another format; or the encoder can't be loaded.
        """
        from safetensors.numpy import load as load_file

        path = Path(folder) if folder else SHIPPED
        try:
            settings = json.loads((path / "scope.json").read_text(encoding="utf-8"))
            arrays = load_file((path / "combiner.safetensors").read_bytes())
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{path} holds no scope classifier: {error}; train one with train/scope.py"
            ) from error
        except Exception as error:
            if type(error).__name__ != "SafetensorError":
                raise
            raise ModelError(f"{path / 'combiner.safetensors'} is damaged: {error}") from error
        if settings.get("format") != FORMAT or tuple(settings.get("features", ())) != FEATURES:
            raise ModelError(
                f"{path} was trained by another version of memedit; train it again with train/scope.py"
            )
        named = Named(encoder, device) if encoder and encoder != settings["encoder"]["name"] else None
        if named is None and not settings["encoder"]["shipped"]:
            named = Named(settings["encoder"]["name"], device)
        lenses = {name: arrays[f"lens_{name}"].astype(np.float32) for name in ("masked", "whole")}
        made = cls(settings, Trees(arrays), lenses, path, named, device)
        if named is not None and named.name != settings["encoder"]["name"]:
            made.lenses = dict.fromkeys(lenses, np.eye(named.dim, dtype=np.float32))
            made._fit_scales()
        return made

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
        memory's size. It is never below the floor at which twice the rate of near queries (the same subject
        or the same relation, and yet not the edit's question) fires falsely.

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
        logit = max(logit, float(np.interp(np.log(rate), rates, table["floors"])))
        return float(1 / (1 + np.exp(-logit)))

    def features(
        self,
        queries: Sequence[str],
        vectors: np.ndarray,
        edits: Sequence[Sequence[Edit]],
        edit_vectors: Sequence[np.ndarray],
    ) -> tuple[np.ndarray, list[int]]:
        """One row of FEATURES for each (query, candidate), and the number of candidates of each query."""
        pairs = [[Pair(query, edit) for edit in some] for query, some in zip(queries, edits, strict=True)]
        hidden: dict[str, int] = {}  # masked texts, each encoded once for the whole batch
        for row in pairs:
            for pair in row:
                for text in (pair.masked_query, pair.masked_edit):
                    if text:
                        hidden.setdefault(text, len(hidden))
        masked = self.encode(list(hidden)) if hidden else np.zeros((0, self.dim), dtype=np.float32)
        seen = self._through("masked", masked)
        whole = self._through("whole", np.asarray(vectors, dtype=np.float32))
        rows: list[np.ndarray] = []
        for row, vector, focus, stored in zip(pairs, vectors, whole, edit_vectors, strict=True):
            if not row:
                continue
            views = np.asarray(stored, dtype=np.float32)
            near = {"statement": self._cosine("plain", views[:, 0], vector)}
            near["prompt"] = self._cosine("plain", views[:, 1], vector)
            near["whole"] = self._cosine("whole", self._through("whole", views[:, 1]), focus)
            near |= {"masked": np.full(len(row), -1.0), "lens": np.full(len(row), -1.0)}
            named = [i for i, pair in enumerate(row) if pair.masked_query]
            there = self._through("masked", views[named, 2])
            for j, i in enumerate(named):
                at = hidden[row[i].masked_query]
                other = hidden.get(row[i].masked_edit, -1)
                near["masked"][i] = self._cosine(
                    "plain", masked[at], masked[other] if other >= 0 else views[i, 2]
                )
                near["lens"][i] = self._cosine("masked", seen[at], seen[other] if other >= 0 else there[j])
            rows.append(_table(row, near))
        found = np.concatenate(rows) if rows else np.zeros((0, len(FEATURES)))
        return found, [len(row) for row in pairs]

    def probes(self) -> dict[str, list[float]]:
        """Mean cosines of ALIKE and UNLIKE, plain and through each lens."""
        texts = [text for pair in (*ALIKE, *UNLIKE) for text in pair]
        plain = self.encode(texts)
        seen = {"plain": plain, **{lens: self._through(lens, plain) for lens in self.lenses}}
        cosines = {kind: (v[0::2] * v[1::2]).sum(axis=1) for kind, v in seen.items()}
        return {
            kind: [float(c[: len(ALIKE)].mean()), float(c[len(ALIKE) :].mean())]
            for kind, c in cosines.items()
        }

    def _fit_scales(self) -> None:
        for kind, (alike, unlike) in self.probes().items():
            to_alike, to_unlike = self.settings["probes"][kind]
            slope = (to_alike - to_unlike) / max(alike - unlike, 0.01)
            self._scales[kind] = (slope, to_unlike - slope * unlike)

    def _cosine(self, kind: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        slope, shift = self._scales[kind]
        return slope * (a @ b) + shift

    def _through(self, lens: str, vectors: np.ndarray) -> np.ndarray:
        """Unit vectors (n, dim) as the lens shows them."""
        shown = vectors @ self.lenses[lens].T
        return shown / np.maximum(np.linalg.norm(shown, axis=-1, keepdims=True), 1e-6)


class Trees:
    """A sum of small regression trees, as arrays of shape (trees, nodes).

    A leaf points at itself, so all trees are walked for the same number of steps without a branch.
    """

    NAMES = ("feature", "cut", "left", "right", "value", "depth", "base")

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = {name: arrays[name] for name in self.NAMES}
        count, nodes = arrays["cut"].shape
        offsets = np.arange(count)[:, None] * nodes
        self._left, self._right = ((arrays[side] + offsets).ravel() for side in ("left", "right"))
        self._feature, self._cut, self._value = (arrays[n].ravel() for n in ("feature", "cut", "value"))
        self._roots = offsets[:, 0]
        self._depth, self._base = int(arrays["depth"][0]), float(arrays["base"][0])

    @classmethod
    def nothing(cls) -> Trees:
        """One leaf of value 0: what training starts from."""
        kinds = {name: np.float64 if name in ("cut", "value", "base") else np.int32 for name in cls.NAMES}
        return cls(
            {
                name: np.zeros((1,) if name in ("depth", "base") else (1, 1), kind)
                for name, kind in kinds.items()
            }
        )

    def __call__(self, table: np.ndarray) -> np.ndarray:
        """Scores (n,) for rows of features (n, features)."""
        at = np.broadcast_to(self._roots, (len(table), len(self._roots)))
        rows = np.arange(len(table))[:, None]
        for _ in range(self._depth):
            smaller = table[rows, self._feature[at]] <= self._cut[at]
            at = np.where(smaller, self._left[at], self._right[at])
        return self._base + self._value[at].sum(axis=1)


def asked_by(edit: Edit) -> str:
    """What the edit is the answer to; where nobody said, the whole statement."""
    return edit.prompt or edit.statement


def names(edit: Edit) -> tuple[str, ...]:
    """The subject and its aliases; where none is given, what the edit's text may be about."""
    return edit.names or guesses(asked_by(edit))


def _same_words(a: str, b: str) -> bool:
    return [w.folded for w in words(a)] == [w.folded for w in words(b)]


class Pair:
    """What the words alone say of a query and an edit."""

    def __init__(self, query: str, edit: Edit) -> None:
        self.query, self.edit, self.asked = query, edit, asked_by(edit)
        self.names = names(edit)
        found = [find(name, query) for name in self.names]
        self.best = best = max(
            range(len(found)), key=lambda i: (found[i].share, found[i].length, -i), default=-1
        )
        self.found: Found = found[best] if best >= 0 else NOWHERE
        self.masked_query = mask(query, self.found.spans) if self.found.share else ""
        self.masked_edit = ""  # encoded anew only where another name was found than the stored view masks
        if self.found.share and not edit.names and best > 0:
            self.masked_edit = mask(self.asked, find(self.names[best], self.asked).spans)

    def _at_end(self) -> bool:
        """Whether the name that was found ends the statement, where the object mostly stands."""
        spans = find(self.names[self.best], self.asked).spans if self.names and self.found.share else ()
        return bool(spans) and not words(self.asked[spans[-1][1] :])

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
            "object_like": float(not edit.names and not edit.prompt and self._at_end()),
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


def _table(row: list[Pair], near: dict[str, np.ndarray]) -> np.ndarray:
    """FEATURES of one query's candidates: (candidates, features), from their cosines by view, (candidates,) each."""
    best = np.maximum(near["statement"], near["prompt"])
    ranks = np.argsort(np.argsort(-best, kind="stable"), kind="stable")
    columns: dict[str, Any] = {
        "cos_statement": near["statement"],
        "cos_prompt": near["prompt"],
        "cos_best": best,
        "cos_masked": near["masked"],
        "lens_masked": near["lens"],
        "lens_whole": near["whole"],
        "lens_gap": np.where(near["lens"] > -1, near["lens"] - near["whole"], 0),
        "rank": ranks,
        "lead": best - _rivals(best),
        "masked_lead": np.where(near["lens"] > -1, near["lens"] - np.maximum(_rivals(near["lens"]), 0), 0),
    }
    spoken = [pair.row() for pair in row]
    columns |= {name: [words[name] for words in spoken] for name in spoken[0]}
    return np.stack([np.asarray(columns[name], dtype=np.float64) for name in FEATURES], axis=1)


def _rivals(values: np.ndarray) -> np.ndarray:
    """For each value the highest of the others; for a lone one, 0."""
    if len(values) == 1:
        return np.zeros(1)
    second, first = np.sort(values)[-2:]
    return np.where(np.arange(len(values)) == int(np.argmax(values)), second, first)
