"""SERAC's two scope classifiers as baselines (Mitchell et al., arXiv 2206.06520, section 3), on MiniLM's six layers.

embedding: p = exp(-|f(query) - f(edit)|^2), where f is the encoder's unit vector times a learned scale; it looks through the
whole memory. cross: a sigmoid over the first token of [query; edit] read together; it reads the nearest candidates. An edit
fires from p = .5, as in the paper. `train/serac_scope.py` trains them, on the pairs that the scope classifier learns from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memedit.edit import Edit
from memedit.encoder import MiniLM, bert_layer, padded
from memedit.errors import ModelError
from memedit.memory.snapshot import write_durably
from memedit.pairs import untrained
from memedit.scope_eval.crowd import Remembered
from memedit.scope_eval.judges import BATCH, NEAREST, Judge, Piece, Step, Top

if TYPE_CHECKING:
    import torch

KINDS = ("embedding", "cross")
FORMAT = 1
TOKENS = 96  # of each side
_AT_ONCE = 64  # texts or pairs

Weights = Mapping[str, "torch.Tensor"]


def fresh(kind: str, encoder: MiniLM, seed: int) -> dict[str, torch.Tensor]:
    """Weights to start training from: all layers of the encoder, and what the kind adds, float32."""
    import torch

    made = untrained(encoder, 0, encoder.layers, seed)
    weights = {name: value for name, value in made.items() if name.startswith("layer.")}
    if kind == "embedding":
        weights["scale"] = torch.tensor(1.2)  # from a cosine of .76 an edit fires
    else:
        weights["segments"] = torch.zeros(2, encoder.dim)
        weights["head.weight"], weights["head.bias"] = made["head.weight"][:1].clone(), torch.zeros(1)
    return weights


def embedded(encoder: MiniLM, weights: Weights, texts: Sequence[str]) -> torch.Tensor:
    """f, (texts, dim): unit vectors times the scale."""
    from torch.nn.functional import normalize

    rows = [encoding.ids[:TOKENS] for encoding in encoder.tokenizer.encode_batch(list(texts))]
    x, real = _read(encoder, weights, rows)
    mean = x.mean(1) if real is None else (x * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    return normalize(mean, dim=-1) * weights["scale"]


def crossed(encoder: MiniLM, weights: Weights, pairs: Sequence[tuple[str, str]]) -> torch.Tensor:
    """Logits (pairs,) of query and edit read together; the edit's tokens follow without its [CLS]."""
    from torch.nn.functional import linear

    encode = encoder.tokenizer.encode_batch
    queries = [encoding.ids[:TOKENS] for encoding in encode([query for query, _ in pairs])]
    edits = [encoding.ids[1:TOKENS] for encoding in encode([text for _, text in pairs])]
    rows = [[*a, *b] for a, b in zip(queries, edits, strict=True)]
    segments = [[0] * len(a) + [1] * len(b) for a, b in zip(queries, edits, strict=True)]
    x, _ = _read(encoder, weights, rows, segments)
    return linear(x[:, 0], weights["head.weight"], weights["head.bias"])[:, 0]


def _read(
    encoder: MiniLM,
    weights: Weights,
    rows: Sequence[Sequence[int]],
    segments: Sequence[Sequence[int]] | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """All layers over rows of token ids, (rows, longest, dim), and which tokens are real."""
    ids, real = padded(rows, encoder.device)
    x = encoder.start(ids, ids.shape[1]).float()
    if segments is not None:
        x = x + weights["segments"][padded(segments, encoder.device)[0]]
    for layer in range(encoder.layers):
        x = bert_layer(x, weights, f"layer.{layer}.", encoder.heads, encoder.eps, real)
    return x, real


# ---------------------------------------------------------------- the folder


def put(folder: Path, kind: str, encoder: MiniLM, weights: Weights, about: Mapping[str, Any]) -> None:
    """Write serac.safetensors and serac.json; the latter last: a folder without it is none."""
    import torch
    from safetensors.torch import save

    rounded = {name: value.detach().cpu().to(torch.bfloat16).contiguous() for name, value in weights.items()}
    settings = {"format": FORMAT, "kind": kind, "encoder": encoder.digest, "trained_with": dict(about)}
    for name, data in (
        ("serac.safetensors", save(rounded)),
        ("serac.json", (json.dumps(settings, indent=1, default=str) + "\n").encode()),
    ):
        write_durably(folder / name, data)


def load(kind: str, folder: Path, encoder: MiniLM) -> tuple[dict[str, torch.Tensor], str]:
    """The weights, float32 where the encoder works, and their digest.

    Raises:
        ModelError: the folder holds no such classifier, or one over another encoder.
    """
    from safetensors.torch import load as read

    try:
        settings = json.loads((folder / "serac.json").read_text(encoding="utf-8"))
        data = (folder / "serac.safetensors").read_bytes()
        weights = read(data)
    except Exception as error:  # safetensors has its own
        raise ModelError(
            f"{folder} holds no SERAC classifier ({error}); make one with python -m train.serac_scope --kind {kind}"
        ) from error
    if (settings.get("format"), settings.get("kind")) != (FORMAT, kind):
        raise ModelError(f"{folder} holds SERAC's {settings.get('kind')} classifier, not the {kind} one")
    if settings.get("encoder") != encoder.digest:
        raise ModelError(
            f"the SERAC classifier in {folder} was trained over another encoder than the shipped one"
        )
    found = {name: value.to(encoder.device).float() for name, value in weights.items()}
    return found, hashlib.sha256(data).hexdigest()


# ---------------------------------------------------------------- the judges


class Embeddings:
    """f as an encoder, for `Remembered`: not of unit length."""

    def __init__(self, encoder: MiniLM, weights: Weights, digest: str) -> None:
        self.name, self.dim, self.digest = "serac-embedding", encoder.dim, digest
        self._encoder, self._weights = encoder, weights

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, dim) float32."""
        import torch

        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = np.zeros((len(texts), self.dim), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), _AT_ONCE):
                some = order[start : start + _AT_ONCE]
                out[some] = embedded(self._encoder, self._weights, [texts[i] for i in some]).cpu().numpy()
        return out


class _Half(Judge):
    """Fires from .5."""

    def threshold(self, size: int) -> float:
        return 0.5


class EmbeddingJudge(_Half):
    """exp(-|f(query) - f(edit)|^2), over the whole memory."""

    def score(self, queries: Sequence[str], edits: Sequence[Sequence[Edit]]) -> list[np.ndarray]:
        asked = self.encode(queries)
        return [
            _nearness(asked[i : i + 1], self.encode([edit.statement for edit in some]))[0]
            for i, some in enumerate(edits)
        ]

    def tops(self, pieces: Sequence[Piece], step: Step | None = None) -> list[Top]:
        out: list[Top] = []
        for piece in pieces:
            keys = self.encode([edit.statement for edit in piece.crowd.edits])
            for start in range(0, len(piece.queries), BATCH):
                scores = _nearness(self.encode(piece.queries[start : start + BATCH]), keys)
                best = scores.argmax(axis=1)
                out += [Top(int(b), float(row[b])) for b, row in zip(best, scores, strict=True)]
            if step:
                step(len(piece.queries))
        return out


def _nearness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """exp(-squared distance), (rows of a, rows of b)."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.asarray(np.exp(-np.maximum(squared, 0)))


class CrossJudge(_Half):
    """A sigmoid over [query; edit], for the nearest candidates.

    Args:
        logits: of pairs (query, statement). Each pair is read once: the same ones are asked at every size of memory.
    """

    def __init__(
        self,
        name: str,
        encode: Callable[[Sequence[str]], np.ndarray],
        logits: Callable[[Sequence[tuple[str, str]]], np.ndarray],
    ) -> None:
        super().__init__(name, encode)
        self._logits = logits
        self._known: dict[tuple[str, str], float] = {}

    def score(self, queries: Sequence[str], edits: Sequence[Sequence[Edit]]) -> list[np.ndarray]:
        pairs = [
            [(query, edit.statement) for edit in some[:NEAREST]]
            for query, some in zip(queries, edits, strict=True)
        ]
        new = list(dict.fromkeys(pair for some in pairs for pair in some if pair not in self._known))
        self._known.update(zip(new, self._logits(new).tolist(), strict=True))
        out = []
        for some, mine in zip(edits, pairs, strict=True):
            scores = np.full(len(some), -np.inf)
            scores[: len(mine)] = 1 / (1 + np.exp(-np.array([self._known[pair] for pair in mine])))
            out.append(scores)
        return out


def judge(kind: str, folder: Path, encoder: MiniLM, encode: Any, cache: Path | None) -> Judge:
    """The judge of a trained folder.

    Args:
        encoder: the shipped one. encode: the memory's, by which candidates are found. cache: see `Remembered`.

    Raises:
        ModelError: see `load`.
    """
    import torch

    weights, digest = load(kind, folder, encoder)
    if kind == "embedding":
        return EmbeddingJudge(
            "SERAC embedding", Remembered(Embeddings(encoder, weights, digest), cache).encode
        )

    def logits(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        order = sorted(range(len(pairs)), key=lambda i: sum(map(len, pairs[i])))
        out = np.zeros(len(pairs))
        with torch.inference_mode():
            for start in range(0, len(order), _AT_ONCE):
                some = order[start : start + _AT_ONCE]
                out[some] = crossed(encoder, weights, [pairs[i] for i in some]).cpu().numpy()
        return out

    return CrossJudge("SERAC cross-attend", encode, logits)
