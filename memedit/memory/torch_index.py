"""The vectors of all edits on a torch device, searched exactly; imported when one is asked for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from memedit.memory import torch_search
from memedit.memory.index import VectorIndex
from memedit.memory.torch_search import Shelf

if TYPE_CHECKING:
    import torch

_UPLOAD = 1 << 16  # vectors that are sent at a time


class TorchIndex(VectorIndex):
    """All views of all edits on a torch device: 2.3 GB for a million edits with three views of 384 numbers.

    float16 is kept, which is what SQLite keeps, bit by bit: nothing is rounded twice, and what is searched
    and what is judged are the same numbers. Search is exact (see `memedit.memory.torch_search`), by FAISS's
    GPU kernel where FAISS was built for GPUs. Adding and removing send only what changes.

    Args:
        dim: of the vectors. device: a torch device. half: keep float16; None for all devices but the CPU.
    """

    file = "vectors.safetensors"
    keeps_views = True

    def __init__(self, dim: int, device: str = "cuda", half: bool | None = None) -> None:
        import torch

        self.dim, self.device = dim, torch.device(device)
        if half is None:
            half = self.device.type != "cpu"
        self._dtype = torch.float16 if half else torch.float32
        self.width = self._dtype.itemsize
        # Both grow by doubling; the first view lies apart, so that a search reads nothing else.
        self._rows = torch.zeros((0, dim), dtype=self._dtype, device=self.device)
        self._rest = torch.zeros((0, 0, dim), dtype=self._dtype, device=self.device)  # the other views
        self._of_row = torch.zeros(0, dtype=torch.int64, device=self.device)
        self._ids = np.zeros(0, np.int64)  # the same on the host
        self._row: dict[int, int] = {}
        self.kernel = torch_search.gpu_kernel(self.device)

    def __len__(self) -> int:
        return len(self._row)

    # -- changing

    def put(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        if len(ids) == 0:
            return
        views = np.asarray(vectors).reshape(len(ids), -1, self.dim)
        if not len(self._row):
            self._rest = self._rows.new_zeros((len(self._rows), views.shape[1] - 1, self.dim))
        if views.shape[1] != self._rest.shape[1] + 1:
            raise ValueError(f"vectors of {views.shape[1]} views, not of {self._rest.shape[1] + 1}")
        given = ids.tolist()
        for id in given:
            self._row.setdefault(id, len(self._row))
        self._grow(len(self._row))
        places = np.array([self._row[id] for id in given], np.int64)
        self._ids[places] = ids
        for start in range(0, len(ids), _UPLOAD):
            part = slice(start, start + _UPLOAD)
            at = self._sent(places[part])
            some = self._sent(views[part]).to(self._dtype)
            self._rows.index_copy_(0, at, some[:, 0])
            self._rest.index_copy_(0, at, some[:, 1:])
            self._of_row.index_copy_(0, at, self._sent(ids[part].astype(np.int64)))

    def _grow(self, wanted: int) -> None:
        import torch

        if wanted <= len(self._rows):
            return
        more = max(wanted, 2 * len(self._rows), 1024) - len(self._rows)
        self._rows = torch.cat([self._rows, self._rows.new_zeros((more, self.dim))])
        self._rest = torch.cat([self._rest, self._rest.new_zeros((more, *self._rest.shape[1:]))])
        self._of_row = torch.cat([self._of_row, self._of_row.new_full((more,), -1)])
        self._ids = np.concatenate([self._ids, np.full(more, -1, np.int64)])

    def remove(self, ids: Collection[int]) -> None:
        gone = [self._row.pop(id) for id in set(ids) if id in self._row]
        if not gone:
            return
        # Rows in use stay together: those behind the new end move into the holes before it, all at once.
        left = len(self._row)
        holes = np.array(sorted(row for row in gone if row < left), np.int64)
        behind = np.setdiff1d(np.arange(left, left + len(gone)), gone)
        if len(holes):
            to, source = self._sent(holes), self._sent(behind)
            for tensor in (self._rows, self._rest, self._of_row):
                tensor.index_copy_(0, to, tensor.index_select(0, source))
            self._ids[holes] = self._ids[behind]
            self._row.update(zip(self._ids[holes].tolist(), holes.tolist(), strict=True))
        self._ids[left : left + len(gone)] = -1

    # -- searching

    def search(
        self, queries: np.ndarray | torch.Tensor, k: int, without: Collection[int] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        asked = self.taken(queries)
        return self.candidates(asked, k, without)

    def taken(self, vectors: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Vectors (n, dim) as float32 on this device."""
        import torch

        if not isinstance(vectors, torch.Tensor):
            return self._sent(np.asarray(vectors, np.float32))
        return vectors.to(self.device, torch.float32, non_blocking=True)

    def candidates(
        self,
        asked: torch.Tensor,
        k: int,
        without: Collection[int] = (),
        named: Sequence[Collection[int]] = (),
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest, and the k nearest of those that each query names; they come over in one copy.

        Args:
            asked: (n, dim) float32 on this device. without: ids that are not to be found.
            named: for each query ids of its own; nothing for none at all.

        Returns:
            products (n, m) float32 and ids (n, m), -1 where there are fewer: first the k nearest, best first,
            then those that are named, best first; one may be in both.
        """
        import torch

        if not len(self) or not len(asked):
            return np.full((len(asked), 1), -np.inf, np.float32), np.full((len(asked), 1), -1, np.int64)
        k = max(1, min(k, len(self)))
        with torch.inference_mode():
            shelf = self._shelf(without)
            found = torch_search.nearest(shelf, asked, k)
            products, places = found.products, found.places
            known = [[id for id in some if id in self._row] for some in named]
            if any(known):
                theirs = self._named(asked, known, k)
                products = torch.cat([products, theirs[0]], dim=1)
                places = torch.cat([places, theirs[1]], dim=1)
            values, ids, proven = self._fetched(products, places, found.proven)
            unsure = np.flatnonzero(~proven)
            if len(unsure):
                again = self._settled(shelf, asked.index_select(0, self._sent(unsure)), k)
                values[unsure, :k], ids[unsure, :k] = again
        return values, ids

    def _shelf(self, without: Collection[int]) -> Shelf:
        count = len(self)
        hidden = [self._row[id] for id in without if id in self._row]
        mask = None
        if hidden:
            outside = np.zeros(count, np.bool_)
            outside[hidden] = True
            mask = self._sent(outside)
        return Shelf(self._rows[:count], self._of_row[:count], mask, len(hidden), self.kernel)

    def _named(self, asked: torch.Tensor, ids: list[list[int]], k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """For each query the k nearest of its own ids: products and places (n, at most k), -inf for none."""
        import torch

        sizes = [len(some) for some in ids]
        flat = self._sent(np.array([self._row[id] for some in ids for id in some], np.int64))
        owner = np.repeat(np.arange(len(ids)), sizes)
        place = np.arange(len(owner)) - np.repeat(np.cumsum([0, *sizes])[:-1], sizes)
        products = [
            (self._rows[rows].float() * asked[queries]).sum(dim=1)
            for rows, queries in zip(
                flat.split(torch_search.PAIRS), self._sent(owner).split(torch_search.PAIRS), strict=True
            )
        ]
        shape = (len(ids), max(sizes))
        at = self._sent(owner * shape[1] + place)
        laid = asked.new_full((shape[0] * shape[1],), float("-inf")).index_copy(0, at, torch.cat(products))
        places = flat.new_zeros(shape[0] * shape[1]).index_copy(0, at, flat)
        return torch_search.best_first(laid.view(shape), places.view(shape), self._of_row, k)

    def _settled(self, shelf: Shelf, asked: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Products and ids (n, k) for queries with which a short list proved nothing."""
        found = torch_search.nearest(shelf, asked, k, torch_search.LONG)
        products, ids, proven = self._fetched(found.products, found.places, found.proven)
        for at in np.flatnonzero(~proven).tolist():
            best, places = torch_search.row_by_row(shelf, asked[at], k)
            products[at], ids[at], _ = (some[0] for some in self._fetched(best[None], places[None]))
        return products, ids

    def _fetched(
        self, products: torch.Tensor, places: torch.Tensor, proven: torch.Tensor | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Products, ids and whether they are proven, on the host: packed, so that it is one copy."""
        import torch

        width = products.shape[1]
        ids = self._of_row[places].masked_fill(products == float("-inf"), -1)
        sure = torch.ones_like(places[:, 0]) if proven is None else proven.long()
        bits = products.contiguous().view(torch.int32).long()
        packed = torch.cat([ids, bits, sure[:, None]], dim=1).cpu().numpy()
        values = np.ascontiguousarray(packed[:, width:-1].astype(np.int32)).view(np.float32)
        return values, packed[:, :width].copy(), packed[:, -1] > 0

    # -- handing out

    def vectors(self, ids: Collection[int]) -> np.ndarray:
        at = self._sent(np.array([self._row[id] for id in ids], np.int64))
        out: np.ndarray = self._rows.index_select(0, at).float().cpu().numpy()
        return out

    def views(self, ids: Sequence[int]) -> torch.Tensor:
        """All that is kept for these ids, which must be there: (n, views, dim) float32, on the device."""
        import torch

        at = self._sent(np.array([self._row[id] for id in ids], np.int64))
        first, rest = self._rows.index_select(0, at), self._rest.index_select(0, at)
        return torch.cat([first[:, None], rest], dim=1).float()

    def _sent(self, array: np.ndarray) -> torch.Tensor:
        """An array on the device, without waiting for it."""
        import torch

        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)

    def dumps(self) -> bytes:
        import torch
        from safetensors.torch import save

        count = len(self)
        views = torch.cat([self._rows[:count, None], self._rest[:count]], dim=1)
        return save({"ids": self._of_row[:count].cpu(), "views": views.cpu()})

    @classmethod
    def loads(cls, data: bytes, dim: int, **options: Any) -> TorchIndex:
        from safetensors import SafetensorError
        from safetensors.torch import load

        self = cls(dim, **options)
        try:
            tensors = load(data)
            ids, views = tensors["ids"].numpy(), tensors["views"].numpy()
        except (SafetensorError, KeyError) as error:
            raise ValueError("no saved vectors") from error
        if views.ndim != 3 or views.shape[0] != len(ids) or views.shape[2] != dim:
            raise ValueError("vectors of another shape")
        self.put(ids, views)
        return self
