"""What makes a probability of a pair's vectors and words: cosines, lenses, ranks, trees; on any torch device.

A batch's pairs (query, candidate) are laid out flat, query after query, so that each step is one operation
for all of them. Nothing here waits for the device: what is needed on the host is known there already
(which pair is whose), and what is made on the device stays there until the caller fetches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from memedit.subjects import fold

if TYPE_CHECKING:
    import torch

    from memedit.wording import Pair


class Trees:
    """A sum of small regression trees, as arrays of shape (trees, nodes).

    A leaf points at itself, so all trees are walked for the same number of steps without a branch.

    Args:
        arrays: by NAMES. prefix: before each name, where several ensembles share a file.
    """

    NAMES = ("feature", "cut", "left", "right", "value", "depth", "base")

    def __init__(self, arrays: dict[str, np.ndarray], prefix: str = "") -> None:
        self.arrays = {name: arrays[prefix + name] for name in self.NAMES}
        self._depth, self._base = int(self.arrays["depth"][0]), float(self.arrays["base"][0])
        self._placed: dict[torch.device, tuple[torch.Tensor, ...]] = {}

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
        """Scores (n,) for rows of features (n, features), on the host."""
        import torch

        return self.scores(torch.from_numpy(np.ascontiguousarray(table, np.float64))).numpy()

    def scores(self, table: torch.Tensor) -> torch.Tensor:
        """Scores (n,) for rows of features (n, features), where they are and in their precision."""
        import torch

        feature, cut, left, right, value, roots = self._on(table.device)
        count, width = table.shape
        flat = table.reshape(-1)
        at = roots.repeat(count)
        row = torch.arange(0, count * width, width, device=table.device).repeat_interleave(
            len(roots), output_size=count * len(roots)
        )
        for _ in range(self._depth):
            seen = flat.index_select(0, row + feature.index_select(0, at))
            smaller = seen <= cut.index_select(0, at)
            at = torch.where(smaller, left.index_select(0, at), right.index_select(0, at))
        return self._base + value.index_select(0, at).view(count, len(roots)).sum(dim=1)

    def _on(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """The trees as flat tensors on a device; sent there once."""
        import torch

        if device not in self._placed:
            arrays = self.arrays
            count, nodes = arrays["cut"].shape
            offsets = np.arange(count)[:, None] * nodes
            flat = (
                arrays["feature"].astype(np.int64),
                single_if_needed(arrays["cut"], device),
                (arrays["left"] + offsets).astype(np.int64),
                (arrays["right"] + offsets).astype(np.int64),
                single_if_needed(arrays["value"], device),
                offsets.astype(np.int64),
            )
            self._placed[device] = tuple(torch.from_numpy(a.ravel()).to(device) for a in flat)
        return self._placed[device]


def single_if_needed(array: np.ndarray, device: torch.device) -> np.ndarray:
    """float64, or float32 for a device that has no float64 (Apple's)."""
    return array.astype(np.float32 if device.type == "mps" else np.float64)


@dataclass(frozen=True)
class Layout:
    """Which pair is whose, known on the host.

    Attributes:
        sizes: candidates of each query; the pairs lie flat, query after query.
        named: the pairs whose query names the subject, in order.
        query_rows: for each of `named`, the row of its masked query among the masked vectors.
        edit_rows: for each of `named`, the row of its edit's text masked anew; -1 for the stored view.
    """

    sizes: list[int]
    named: list[int]
    query_rows: list[int]
    edit_rows: list[int]


class Lenses:
    """Linear maps (dim, dim) before a cosine, and how each kind of cosine is laid on the trees' scale.

    Args:
        maps: by name, "masked" for masked texts, "whole" for whole ones.
        scales: slope and shift of cosines, by "plain", "masked", "whole".
    """

    def __init__(self, maps: dict[str, np.ndarray], scales: dict[str, tuple[float, float]]) -> None:
        self.maps, self.scales = maps, scales
        self._placed: dict[tuple[str, torch.device], torch.Tensor] = {}

    def through(self, name: str, vectors: torch.Tensor) -> torch.Tensor:
        """Unit vectors (n, dim) as a lens shows them, of unit length again."""
        import torch

        key = (name, vectors.device)
        if key not in self._placed:
            self._placed[key] = torch.from_numpy(self.maps[name].astype(np.float32)).to(vectors.device)
        shown = vectors @ self._placed[key].T
        return shown / torch.linalg.vector_norm(shown, dim=-1, keepdim=True).clamp(min=1e-6)

    def cosine(self, kind: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Row by row: (n,) from two times (n, dim)."""
        slope, shift = self.scales[kind]
        return slope * (a * b).sum(dim=-1) + shift


def factors(
    lenses: Lenses, layout: Layout, asked: torch.Tensor, stored: torch.Tensor, masked: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The features that come of vectors, (pairs,) each, on the device of `stored`.

    Args:
        asked: (queries, dim), the queries' vectors. stored: (pairs, views, dim), the candidates'.
        masked: (texts, dim), of masked texts.
    """
    import torch

    device = stored.device
    owner = sent(np.repeat(np.arange(len(layout.sizes)), layout.sizes), device)
    query = asked.index_select(0, owner)
    whole = lenses.through("whole", torch.cat([asked, stored[:, 1]]))
    near = {
        "statement": lenses.cosine("plain", stored[:, 0], query),
        "prompt": lenses.cosine("plain", stored[:, 1], query),
        "whole": lenses.cosine("whole", whole[len(asked) :], whole.index_select(0, owner)),
        "masked": stored.new_full((len(stored),), -1.0),
        "lens": stored.new_full((len(stored),), -1.0),
    }
    if layout.named:
        at = sent(np.array(layout.named), device)
        mine = masked.index_select(0, sent(np.array(layout.query_rows), device))
        theirs = stored[:, 2].index_select(0, at)
        anew = np.array(layout.edit_rows)
        if (anew >= 0).any():
            other = masked.index_select(0, sent(anew.clip(min=0), device))
            theirs = torch.where(sent(anew >= 0, device)[:, None], other, theirs)
        near["masked"].index_copy_(0, at, lenses.cosine("plain", mine, theirs))
        seen, there = lenses.through("masked", torch.cat([mine, theirs])).tensor_split(2)
        near["lens"].index_copy_(0, at, lenses.cosine("masked", seen, there))
    return _weighed(near, _Grid(layout.sizes, owner, device))


def _weighed(near: dict[str, torch.Tensor], grid: _Grid) -> dict[str, torch.Tensor]:
    """The features of five kinds of cosines: themselves, and what they are beside the other candidates'."""
    import torch

    best = torch.maximum(near["statement"], near["prompt"])
    found = near["lens"] > -1
    nothing = torch.zeros_like(best)
    return {
        "cos_statement": near["statement"],
        "cos_prompt": near["prompt"],
        "cos_best": best,
        "cos_masked": near["masked"],
        "lens_masked": near["lens"],
        "lens_whole": near["whole"],
        "lens_gap": torch.where(found, near["lens"] - near["whole"], nothing),
        "rank": grid.ranks(best),
        "lead": best - grid.rivals(best),
        "masked_lead": torch.where(found, near["lens"] - grid.rivals(near["lens"]).clamp(min=0), nothing),
    }


class _Grid:
    """Flat pairs as a rectangle, a row for each query, and back."""

    def __init__(self, sizes: Sequence[int], owner: torch.Tensor, device: torch.device) -> None:
        starts = np.cumsum([0, *sizes])[:-1]
        place = np.arange(sum(sizes)) - np.repeat(starts, sizes)
        self._shape = (len(sizes), max(sizes))
        self._at = owner * self._shape[1] + sent(place, device)

    def _laid(self, values: torch.Tensor) -> torch.Tensor:
        blank = values.new_full((self._shape[0] * self._shape[1],), float("-inf"))
        return blank.index_copy(0, self._at, values).view(self._shape)

    def ranks(self, values: torch.Tensor) -> torch.Tensor:
        """Of each value among its query's, from 0 for the highest; of equals the first comes first."""
        order = self._laid(values).argsort(dim=1, descending=True, stable=True)
        return order.argsort(dim=1).take(self._at)

    def rivals(self, values: torch.Tensor) -> torch.Tensor:
        """For each value the highest of its query's others; for a lone one, 0."""
        import torch

        if self._shape[1] == 1:
            return torch.zeros_like(values)
        laid = self._laid(values)
        top = laid.topk(2, dim=1)
        places = torch.arange(self._shape[1], device=values.device)
        others = torch.where(places == top.indices[:, :1], top.values[:, 1:], top.values[:, :1])
        return others.masked_fill(others == float("-inf"), 0.0).take(self._at)


READ = 8  # at most so many candidates of a query are read by the pair model


def to_read(near: np.ndarray, sizes: Sequence[int], gate: Sequence[float]) -> np.ndarray:
    """Places of the pairs to be read: of each query at most READ, from the gate upwards.

    Args:
        near: scores (pairs,), query after query. sizes: candidates of each query.
        gate: the least score, and how far behind its query's best a pair may be.
    """
    owner = np.repeat(np.arange(len(sizes)), sizes)
    best = np.full(len(sizes), -np.inf)
    np.maximum.at(best, owner, near)
    over = np.flatnonzero((near >= gate[0]) & (near >= best[owner] - gate[1]))
    owner = owner[over]
    order = np.lexsort((-near[over], owner))
    over, owner = over[order], owner[order]
    first = np.searchsorted(owner, owner)  # where each query's run begins
    return np.sort(over[np.arange(len(over)) - first < READ])


def pair_features(
    pairs: Sequence[Pair], odds: np.ndarray, places: np.ndarray, sizes: Sequence[int]
) -> np.ndarray:
    """What the pair model's log-odds (pairs, 2) add to a row, (pairs, 4): themselves, the lead over the best rival, rivals.

    Edits of one subject are no rivals: they may state the same fact twice, or contradict each other, and then the
    router decides.

    Args:
        places: where the pairs stand among all, query after query. sizes: candidates of each query.
    """
    owner = np.repeat(np.arange(len(sizes)), sizes)[places]
    lead, rivals = np.full(len(odds), 12.0), np.zeros(len(odds))
    about = [frozenset(map(fold, pair.names)) for pair in pairs]
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(owner)], strict=True):
        for i in range(start, end):
            others = [odds[j, 0] for j in range(start, end) if not about[i] & about[j]]
            rivals[i] = len(others)
            if others:
                lead[i] = odds[i, 0] - max(others)
    return np.column_stack([odds, np.clip(lead, -12, 12), rivals])


def sent(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """An array on a device, without waiting for it."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
