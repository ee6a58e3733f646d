"""The scope classifier: does this query concern that edit?

Two questions are kept apart, because each carries over to data that neither saw: is it the same subject
(names, words), and is it the same relation, once the subject is out of sight (cosine of the two texts with the
subject masked in both)? Small trees weigh them together with plain cosines, ranks and lengths. What they don't
rule out is read once more, query and edit together, by the pair model (`memedit.pairs`), and further trees weigh
its word beside all that: direct, ripple or out. A calibrated threshold decides. `train/scope.py` makes it;
its card is pretrained/scope/README.md.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memedit.combiner import Layout, Lenses, Trees, factors, pair_features, sent, single_if_needed, to_read
from memedit.edit import Edit
from memedit.encoder import Encoder, MiniLM, Named
from memedit.errors import ModelError
from memedit.exclusion import rules_out, turns_round
from memedit.pairs import Marker, PairModel
from memedit.subjects import MASK, find, mask
from memedit.wording import Pair, asked_by, names, same_words

if TYPE_CHECKING:
    import torch

SHIPPED = Path(__file__).parent / "pretrained" / "scope"
FORMAT = 4
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
    "overlap_query", "overlap_edit", "target_share", "strangers", "contains_prompt", "known_subject",
    "has_prompt", "is_question",
)  # fmt: skip
# What the pair model adds: log-odds of direct and of ripple, how much more direct than every rival, pairs read.
PAIR_FEATURES = ("pair_direct", "pair_ripple", "pair_lead", "pair_rivals")
# "untold" is "direct" for edits that don't say what their subject is: names are guesses there, and wordings freer.
TREES = ("near", "direct", "untold", "ripple")  # each with a sigmoid of its own
KNOWN_SUBJECT = FEATURES.index("known_subject")


class ScopeClassifier:
    """Encodes texts and judges (query, edit) pairs. Make one with `load`.

    Args:
        encoder: what encodes; None for the shipped one, which is read at the first `encode`.
        settings: scope.json of a trained folder.
        trees: the combiner, by TREES: "near" knows the FEATURES only, the others also PAIR_FEATURES.
        lenses: linear maps (dim, dim) before a cosine: "masked" for masked texts, "whole" for whole ones.
        folder: where the encoder's files and the pair model's are.
        device: a torch device for the encoder.
    """

    views: tuple[str, ...] = VIEWS

    def __init__(
        self,
        settings: dict[str, Any],
        trees: dict[str, Trees],
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
        self._lenses: Lenses | None = None
        made_by = settings["encoder"]
        self.name: str = encoder.name if encoder else made_by["name"]
        self.dim: int = encoder.dim if encoder else made_by["dim"]
        digest = encoder.digest if encoder else made_by["digest"]
        self.fingerprint = hashlib.sha256(f"{digest} {VIEWS} {MASK} 1".encode()).hexdigest()[:16]

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
        if (
            settings.get("format") != FORMAT
            or tuple(settings.get("features", ())) != FEATURES + PAIR_FEATURES
        ):
            raise ModelError(
                f"{path} was trained by another version of memedit; train it again with train/scope.py"
            )
        named = Named(encoder, device) if encoder and encoder != settings["encoder"]["name"] else None
        if named is None and not settings["encoder"]["shipped"]:
            named = Named(settings["encoder"]["name"], device)
        lenses = {name: arrays[f"lens_{name}"].astype(np.float32) for name in ("masked", "whole")}
        trees = {kind: Trees(arrays, f"{kind}.") for kind in TREES}
        made = cls(settings, trees, lenses, path, named, device)
        if named is not None and named.name != settings["encoder"]["name"]:
            made.lenses = dict.fromkeys(lenses, np.eye(named.dim, dtype=np.float32))
            made._fit_scales()
        return made

    @cached_property
    def encoder(self) -> Encoder:
        return self._minilm()

    @cached_property
    def pairs(self) -> PairModel:
        """The pair model. It reads with the shipped encoder's lower layers, whichever encoder made the vectors.

        Raises:
            ModelError: its file is missing or damaged.
        """
        from safetensors.torch import load_file

        path = self._folder / "pair.safetensors"
        try:
            weights = load_file(path)
        except Exception as error:
            raise ModelError(f"the pair model {path} can't be read: {error}") from error
        encoder = getattr(self.encoder, "encoder", self.encoder)  # of one that remembers
        shared = (
            encoder if isinstance(encoder, MiniLM) and encoder.digest == self._digest() else self._minilm()
        )
        return PairModel(shared, weights, self.settings["pair"]["lower"])

    @cached_property
    def quick(self) -> ScopeClassifier | None:
        """The same by 8-bit integers: two to three times as fast, and a little less exact; None where it would gain nothing.

        Its probabilities serve where they are far from a threshold (see `Router`). Vectors to store are encoded by this one.
        """
        own = getattr(self.encoder, "encoder", self.encoder)
        encoder = own.quick() if isinstance(own, MiniLM) else None
        if encoder is None:
            return None
        twin = copy.copy(self)
        twin.encoder, twin.pairs, twin.marker = encoder, self.pairs.quick(encoder), self.marker
        twin.quick = None
        return twin

    @cached_property
    def marker(self) -> Marker:
        """Makes token ids and marks for the pair model."""
        return Marker(self.pairs.encoder.tokenizer)

    def _digest(self) -> str:
        return str(self.settings["pair"]["digest"])

    def _minilm(self) -> MiniLM:
        folder = self._folder if (self._folder / "model.safetensors").exists() else SHIPPED
        return MiniLM(folder, "all-MiniLM-L6-v2", self._digest(), self._device)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (n, dim), float32."""
        return self.encoder.encode(texts) if len(texts) else np.zeros((0, self.dim), dtype=np.float32)

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """As `encode`, but the vectors stay on the encoder's device, where it works on one."""
        import torch

        embed = getattr(self.encoder, "embed", None)
        return embed(texts) if embed and len(texts) else torch.from_numpy(self.encode(texts))

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
        vectors: np.ndarray | torch.Tensor,
        edits: Sequence[Sequence[Edit]],
        edit_vectors: Sequence[np.ndarray] | np.ndarray | torch.Tensor,
    ) -> list[np.ndarray]:
        """Probabilities that each query concerns each of its candidate edits.

        Cosines, ranks and the trees that rule out are computed where the edits' vectors are, and come to the host in
        one copy; what the pair model says of the rest comes in a second.

        Args:
            queries: n texts. vectors: (n, dim), their `encode` or `embed`.
            edits: for each query its candidates, the nearest first.
            edit_vectors: for each query (candidates, views, dim), the stored vectors of these edits; or one
                array or tensor (pairs, views, dim) for all queries, one after the other.

        Returns:
            For each query (candidates, 2): direct and ripple.
        """
        import torch

        with torch.inference_mode():
            pairs, table = self._table(queries, vectors, edits, edit_vectors)
            near = self.trees["near"].scores(table)
            seen = torch.cat([table, near[:, None].to(table.dtype)], dim=1).cpu().numpy().astype(np.float64)
        sizes = [len(some) for some in edits]
        found = self._judged(pairs, seen[:, :-1], seen[:, -1], sizes)
        for pair, row in zip(pairs, found, strict=True):
            if same_words(pair.query, pair.asked) or same_words(pair.query, pair.edit.statement):
                row[:] = 1.0, 0.0  # its own words: nothing is left to judge
            elif rules_out(pair.query, pair.edit) or turns_round(pair.query, pair.edit):
                row[:] = 0.0, 0.0
        return np.split(found, np.cumsum(sizes)[:-1]) if sizes else []

    def _judged(
        self, pairs: Sequence[Pair], table: np.ndarray, near: np.ndarray, sizes: Sequence[int]
    ) -> np.ndarray:
        """(pairs, 2) of all pairs of some queries: those that stay near are read, the others keep a small probability."""
        settings = self.settings
        out = np.zeros((len(pairs), 2))
        out[:, 0] = _sigmoid(near, settings["platt"]["near"])
        read = to_read(near, sizes, settings["gate"])
        if len(read):
            some = [pairs[i] for i in read]
            whole = np.hstack([table[read], pair_features(some, self.odds(some), read, sizes)])
            direct, untold, ripple = (
                _sigmoid(self.trees[kind](whole), settings["platt"][kind]) for kind in TREES[1:]
            )
            out[read, 0] = np.where(whole[:, KNOWN_SUBJECT] > 0, direct, untold)
            out[read, 1] = ripple
            out[read, 1] *= 1 - out[read, 0]  # the second asks: and if it is not direct?
        return out

    def odds(self, pairs: Sequence[Pair]) -> np.ndarray:
        """The pair model's log-odds of direct and of ripple, (pairs, 2), between -12 and 12."""
        import torch

        with torch.inference_mode():
            logits = self.pairs.logits([pair.sides(self.marker) for pair in pairs])
            direct, ripple, out = logits.unbind(dim=1)
            odds = direct - torch.logaddexp(ripple, out), ripple - torch.logaddexp(direct, out)
            return torch.stack(odds, dim=1).clamp(-12, 12).cpu().numpy().astype(np.float64)

    def threshold(self, memory_size: int, false_fire_rate: float | None = None) -> float:
        """The probability from which an edit fires.

        A general question meets the more near edits, the more there are: so the threshold follows the
        memory's size. It is never below a floor that holds down the near misses (the same subject or relation, and
        yet not the edit's question); the classifier's card says at which share.

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
        vectors: np.ndarray | torch.Tensor,
        edits: Sequence[Sequence[Edit]],
        edit_vectors: Sequence[np.ndarray] | np.ndarray | torch.Tensor,
    ) -> tuple[np.ndarray, list[int]]:
        """One row of FEATURES for each (query, candidate), and the number of candidates of each query."""
        import torch

        with torch.inference_mode():
            _, table = self._table(queries, vectors, edits, edit_vectors)
        return table.cpu().numpy(), [len(some) for some in edits]

    def _table(
        self,
        queries: Sequence[str],
        vectors: np.ndarray | torch.Tensor,
        edits: Sequence[Sequence[Edit]],
        edit_vectors: Sequence[np.ndarray] | np.ndarray | torch.Tensor,
    ) -> tuple[list[Pair], torch.Tensor]:
        """Every (query, candidate), and a row of FEATURES for each, (pairs, features), where the edits' vectors are."""
        import torch

        pairs = [Pair(query, edit) for query, some in zip(queries, edits, strict=True) for edit in some]
        if not pairs:
            return [], torch.zeros((0, len(FEATURES)), dtype=torch.float64)
        stored = _joined(edit_vectors)
        device = stored.device
        hidden: dict[str, int] = {}  # masked texts, each encoded once for the whole batch
        for pair in pairs:
            for text in (pair.masked_query, pair.masked_edit):
                if text:
                    hidden.setdefault(text, len(hidden))
        named = [i for i, pair in enumerate(pairs) if pair.masked_query]
        layout = Layout(
            sizes=[len(some) for some in edits],
            named=named,
            query_rows=[hidden[pairs[i].masked_query] for i in named],
            edit_rows=[hidden.get(pairs[i].masked_edit, -1) for i in named],
        )
        masked = self.embed(list(hidden)).to(device, non_blocking=True)
        asked = vectors if isinstance(vectors, torch.Tensor) else torch.from_numpy(np.asarray(vectors))
        asked = asked.to(device, torch.float32, non_blocking=True)
        columns = factors(self._ground(), layout, asked, stored, masked)
        spoken = single_if_needed(
            np.array([[row.get(name, 0.0) for name in FEATURES] for row in (pair.row() for pair in pairs)]),
            device,
        )
        table = sent(spoken, device)
        seen = torch.stack([columns[name].to(table.dtype) for name in columns], dim=1)
        where = sent(np.array([FEATURES.index(name) for name in columns]), device)
        return pairs, table.index_copy_(1, where, seen)

    def _ground(self) -> Lenses:
        """The lenses as they are now: training grinds them anew."""
        if (
            self._lenses is None
            or self._lenses.maps is not self.lenses
            or self._lenses.scales is not self._scales
        ):
            self._lenses = Lenses(self.lenses, self._scales)
        return self._lenses

    def probes(self) -> dict[str, list[float]]:
        """Mean cosines of ALIKE and UNLIKE, plain and through each lens."""
        import torch

        texts = [text for pair in (*ALIKE, *UNLIKE) for text in pair]
        plain = torch.from_numpy(self.encode(texts))
        seen = {"plain": plain, **{lens: self._ground().through(lens, plain) for lens in self.lenses}}
        cosines = {kind: (v[0::2] * v[1::2]).sum(dim=1) for kind, v in seen.items()}
        return {
            kind: [float(c[: len(ALIKE)].mean()), float(c[len(ALIKE) :].mean())]
            for kind, c in cosines.items()
        }

    def _fit_scales(self) -> None:
        fitted = {}
        for kind, (alike, unlike) in self.probes().items():
            to_alike, to_unlike = self.settings["probes"][kind]
            slope = (to_alike - to_unlike) / max(alike - unlike, 0.01)
            fitted[kind] = (slope, to_unlike - slope * unlike)
        self._scales = fitted


def _joined(parts: Sequence[np.ndarray] | np.ndarray | torch.Tensor) -> torch.Tensor:
    """Candidates' vectors, given query by query or all together, as one float32 tensor (pairs, views, dim)."""
    import torch

    if isinstance(parts, torch.Tensor):
        return parts.float()
    if not isinstance(parts, np.ndarray):
        parts = np.concatenate([np.asarray(part, np.float32) for part in parts if len(part)])
    return torch.from_numpy(np.ascontiguousarray(parts, np.float32))


def _sigmoid(scores: np.ndarray, platt: Sequence[float]) -> np.ndarray:
    slope, shift = platt
    return np.asarray(1 / (1 + np.exp(-np.clip(slope * scores + shift, -30, 30))))
