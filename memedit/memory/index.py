"""Nearest vectors by inner product: FAISS on the CPU, exact search with torch on a GPU; one interface.

An index knows ids and vectors and nothing of edits. It may be lost at any time: SQLite has all of it.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from memedit.errors import MemoryError_

if TYPE_CHECKING:
    import torch

FLAT_LIMIT = (
    200_000  # to here exact search is quick enough on a CPU (about 30 ms per query and 100 000 vectors)
)
_PROBES = 128  # inverted lists that are looked into: recall .95 among 10**6
_FEW = 20  # queries; below this FAISS is at its quickest on one thread and without BLAS
_KERNEL_LIMIT = 1024  # neighbours that FAISS's GPU kernel finds at once
_CHUNK = 1 << 18  # vectors that the torch index compares at a time: bounds what a batch of queries needs


class VectorIndex(ABC):
    """Ids with vectors, searched by inner product.

    Attributes:
        file: the snapshot's name in the memory's folder.
        dim: of the vectors.
        oversampling: how many times k to ask for, before an exact ranking of what comes back.
    """

    file: ClassVar[str]
    dim: int
    oversampling: int = 1

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def put(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Add, or replace, vectors: ids (n,) int64, vectors (n, dim) float32."""

    @abstractmethod
    def remove(self, ids: Collection[int]) -> None:
        """Take ids out; those that aren't there are no error."""

    @abstractmethod
    def search(
        self, queries: np.ndarray | torch.Tensor, k: int, without: Collection[int] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest: products (n, k) float32 and ids (n, k) int64, best first; -1 where there are fewer.

        Args:
            queries: (n, dim) float32. without: ids that are not to be found.
        """

    @abstractmethod
    def vectors(self, ids: Collection[int]) -> np.ndarray:
        """What is kept for these ids, which must be there: (n, dim) float32."""

    @abstractmethod
    def dumps(self) -> bytes:
        """The index as bytes, for `loads`."""

    @classmethod
    @abstractmethod
    def loads(cls, data: bytes, dim: int, **options: Any) -> VectorIndex:
        """An index from `dumps`.

        Raises:
            ValueError: these are no bytes of such an index.
        """


class FaissIndex(VectorIndex):
    """FAISS on the CPU: exact to `limit` vectors, then inverted lists of bytes (IVF, SQ8).

    Args:
        dim: of the vectors. limit: the number of vectors up to which search is exact.

    Raises:
        MemoryError_: no FAISS is installed.
    """

    file = "vectors.faiss"

    def __init__(self, dim: int, limit: int = FLAT_LIMIT) -> None:
        self.faiss = _faiss()
        self.dim, self.limit = dim, limit
        self._use(self.faiss.IndexIDMap2(self.faiss.IndexFlatIP(dim)), set())

    def _use(self, index: Any, ids: set[int]) -> None:
        self._index, self._ids = index, ids
        self.exact = isinstance(index, self.faiss.IndexIDMap2)
        self.oversampling = 1 if self.exact else 4
        self._built_for = len(ids)

    def __len__(self) -> int:
        return len(self._ids)

    def put(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        if len(ids) == 0:
            return
        self.remove(ids.tolist())
        everything = len(self) + len(ids)
        # Lists that were made for a quarter of what they hold are long and badly placed: made anew.
        if everything > self.limit and (self.exact or everything > 4 * max(self._built_for, self.limit)):
            self._build_lists(ids, vectors)
            return
        _use_threads(self.faiss, len(ids))
        self._index.add_with_ids(np.ascontiguousarray(vectors, np.float32), ids.astype(np.int64))
        self._ids.update(ids.tolist())

    def _build_lists(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Change to inverted lists, or to more of them, with what is there and what comes."""
        kept = np.fromiter(self._ids, np.int64, len(self._ids))
        ids = np.concatenate([kept, ids.astype(np.int64)])
        vectors = np.concatenate([self.vectors(kept.tolist()), vectors])
        lists = max(1, min(int(4 * len(ids) ** 0.5), len(ids) // 39))  # k-means wants 39 points a list
        quantizer = self.faiss.IndexFlatIP(self.dim)
        index = self.faiss.IndexIVFScalarQuantizer(
            quantizer, self.dim, lists, self.faiss.ScalarQuantizer.QT_8bit, self.faiss.METRIC_INNER_PRODUCT
        )
        index.own_fields = True
        quantizer.this.disown()
        _use_threads(self.faiss, len(ids))
        sample = np.random.default_rng(0).permutation(len(ids))[: 64 * lists]
        index.train(vectors[sample])
        index.set_direct_map_type(self.faiss.DirectMap.Hashtable)
        index.add_with_ids(vectors, ids)
        index.nprobe = min(_PROBES, lists)
        self._use(index, set(ids.tolist()))

    def remove(self, ids: Collection[int]) -> None:
        gone = self._ids.intersection(ids)
        if gone:
            array = np.fromiter(gone, np.int64, len(gone))
            # A hashtable direct map takes its ids one by one; a flat index is gone through once.
            kind = self.faiss.IDSelectorBatch if self.exact else self.faiss.IDSelectorArray
            self._index.remove_ids(kind(len(array), self.faiss.swig_ptr(array)))
            self._ids -= gone

    def search(
        self, queries: np.ndarray | torch.Tensor, k: int, without: Collection[int] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        queries = np.ascontiguousarray(queries, np.float32)
        k = max(1, min(k, len(self)))
        hidden = np.fromiter(without, np.int64, len(without))
        selector = None
        if len(hidden):
            selector = self.faiss.IDSelectorNot(self.faiss.IDSelectorBatch(hidden))
        elif self.exact and len(queries) < _FEW:
            selector = (
                self.faiss.IDSelectorAll()
            )  # with any selector a flat index takes a loop that is 4 times quicker
        if self.exact:
            options = None if selector is None else self.faiss.SearchParameters(sel=selector)
        else:
            options = self.faiss.SearchParametersIVF(sel=selector, nprobe=self._index.nprobe)
        _use_threads(self.faiss, len(queries))
        products, ids = self._index.search(queries, k, params=options)
        return products, ids

    def vectors(self, ids: Collection[int]) -> np.ndarray:
        if not ids:
            return np.zeros((0, self.dim), np.float32)
        return np.asarray(self._index.reconstruct_batch(np.fromiter(ids, np.int64, len(ids))), np.float32)

    def dumps(self) -> bytes:
        return bytes(self.faiss.serialize_index(self._index))

    @classmethod
    def loads(cls, data: bytes, dim: int, **options: Any) -> FaissIndex:
        self = cls(dim, **options)
        try:
            index = self.faiss.deserialize_index(np.frombuffer(data, np.uint8))
        except RuntimeError as error:
            raise ValueError("no FAISS index") from error
        if index.d != dim or not isinstance(
            index, (self.faiss.IndexIDMap2, self.faiss.IndexIVFScalarQuantizer)
        ):
            raise ValueError("another kind of FAISS index")
        if isinstance(index, self.faiss.IndexIDMap2):
            ids = self.faiss.vector_to_array(index.id_map)
        else:
            lists = index.invlists
            ids = np.concatenate(
                [
                    self.faiss.rev_swig_ptr(lists.get_ids(at), lists.list_size(at)).copy()
                    for at in range(index.nlist)
                    if lists.list_size(at)
                ]
                or [np.zeros(0, np.int64)]
            )
        self._use(index, set(ids.tolist()))
        return self


class TorchIndex(VectorIndex):
    """Exact search on a torch device; on a GPU a million vectors of 384 numbers are 0.77 GB and one pass.

    Half precision finds a short list, which float32 ranks. Where FAISS was built for GPUs its kernel finds
    the short list, on the same tensors.

    Args:
        dim: of the vectors. device: a torch device. half: keep float16; None for all devices but the CPU.
    """

    file = "vectors.safetensors"

    def __init__(self, dim: int, device: str = "cuda", half: bool | None = None) -> None:
        import torch

        self.torch = torch
        self.dim, self.device = dim, torch.device(device)
        if half is None:
            half = self.device.type != "cpu"
        self._dtype = torch.float16 if half else torch.float32
        self._rows = torch.zeros((0, dim), dtype=self._dtype, device=self.device)  # grows by doubling
        self._of_row = torch.zeros(0, dtype=torch.int64, device=self.device)
        self._row: dict[int, int] = {}
        self._kernel = _gpu_kernel(self.device.type)

    def __len__(self) -> int:
        return len(self._row)

    def put(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        torch = self.torch
        given = ids.tolist()
        for id in given:
            self._row.setdefault(id, len(self._row))
        if len(self._row) > len(self._rows):
            more = max(len(self._row), 2 * len(self._rows), 1024) - len(self._rows)
            self._rows = torch.cat([self._rows, self._rows.new_zeros((more, self.dim))])
            self._of_row = torch.cat([self._of_row, self._of_row.new_full((more,), -1)])
        at = torch.tensor([self._row[id] for id in given], dtype=torch.int64, device=self.device)
        self._rows[at] = torch.as_tensor(np.ascontiguousarray(vectors), device=self.device).to(self._dtype)
        self._of_row[at] = torch.as_tensor(ids.astype(np.int64), device=self.device)

    def remove(self, ids: Collection[int]) -> None:
        for id in ids:
            hole = self._row.pop(id, None)
            if hole is None:
                continue
            last = len(self._row)  # the last row moves into the hole: rows in use stay together
            moved = int(self._of_row[last])
            if hole != last:
                self._rows[hole] = self._rows[last]
                self._of_row[hole] = moved
                self._row[moved] = hole
            self._of_row[last] = -1

    def search(
        self, queries: np.ndarray | torch.Tensor, k: int, without: Collection[int] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        torch = self.torch
        asked = torch.as_tensor(queries, dtype=torch.float32, device=self.device)
        count = len(self)
        k = max(1, min(k, count))
        hidden = [self._row[id] for id in without if id in self._row]
        short = min(count, k * (4 if self._dtype == torch.float16 else 1))
        if count == 0:
            return np.full((len(asked), k), -np.inf, np.float32), np.full((len(asked), k), -1, np.int64)
        rows = self._nearest(asked, short, hidden)
        products = torch.einsum("nd,nkd->nk", asked, self._rows[rows].float())
        out = torch.zeros(count, dtype=torch.bool, device=self.device)
        out[hidden] = True
        products = products.masked_fill(out[rows], -torch.inf)
        best = products.topk(min(k, short), dim=1)
        ids = self._of_row[rows.gather(1, best.indices)].masked_fill(best.values == -torch.inf, -1)
        return best.values.cpu().numpy(), ids.cpu().numpy()

    def _nearest(self, asked: torch.Tensor, k: int, hidden: list[int]) -> torch.Tensor:
        """Rows of the short list, (n, k), by products in the precision that is kept."""
        torch = self.torch
        count = len(self)
        if self._kernel is not None and k + len(hidden) <= _KERNEL_LIMIT:
            return self._kernel(asked.to(self._dtype), self._rows[:count], min(count, k + len(hidden)))
        products = asked.new_zeros((len(asked), 0))
        rows = torch.zeros((len(asked), 0), dtype=torch.int64, device=self.device)
        out = torch.tensor(hidden, dtype=torch.int64, device=self.device)
        for start in range(0, count, _CHUNK):
            end = min(start + _CHUNK, count)
            some = (asked.to(self._dtype) @ self._rows[start:end].T).float()
            some[:, out[(out >= start) & (out < end)] - start] = -torch.inf
            best = some.topk(min(k, end - start), dim=1)
            products = torch.cat([products, best.values], dim=1)
            rows = torch.cat([rows, best.indices + start], dim=1)
            keep = products.topk(min(k, products.shape[1]), dim=1)
            products, rows = keep.values, rows.gather(1, keep.indices)
        return rows

    def vectors(self, ids: Collection[int]) -> np.ndarray:
        at = self.torch.tensor([self._row[id] for id in ids], dtype=self.torch.int64, device=self.device)
        out: np.ndarray = self._rows[at].float().cpu().numpy()
        return out

    def dumps(self) -> bytes:
        from safetensors.torch import save

        count = len(self)
        return save({"ids": self._of_row[:count].cpu(), "vectors": self._rows[:count].cpu()})

    @classmethod
    def loads(cls, data: bytes, dim: int, **options: Any) -> TorchIndex:
        from safetensors import SafetensorError
        from safetensors.torch import load

        self = cls(dim, **options)
        try:
            tensors = load(data)
            ids, vectors = tensors["ids"].numpy(), tensors["vectors"].float().numpy()
        except (SafetensorError, KeyError) as error:
            raise ValueError("no saved vectors") from error
        if vectors.shape != (len(ids), dim):
            raise ValueError("vectors of another shape")
        self.put(ids, vectors)
        return self


def choose(device: str | None) -> tuple[type[VectorIndex], dict[str, Any]]:
    """Which index to use, and its options: on a GPU torch, else FAISS. None takes the GPU where there is one.

    Raises:
        MemoryError_: the device is not there.
    """
    if device is None:
        # Importing torch costs seconds: not where nothing hints at a GPU.
        if "torch" not in sys.modules and not os.path.exists("/dev/nvidiactl"):
            return FaissIndex, {}
        try:
            import torch
        except ImportError:
            return FaissIndex, {}
        return (TorchIndex, {"device": "cuda"}) if torch.cuda.is_available() else (FaissIndex, {})
    if device == "cpu":
        return FaissIndex, {}
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise MemoryError_(f"there is no GPU for device {device!r}; leave the device out, or name cpu")
    return TorchIndex, {"device": device}


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise MemoryError_(
            'searching a memory needs FAISS, which is not installed: pip install "memedit[cpu]" (with an NVIDIA GPU: "memedit[gpu]")'
        ) from None
    _cores(faiss)
    faiss.cvar.distance_compute_blas_threshold = _FEW  # 1.15 ships with 128 000: batches would never use BLAS
    return faiss


@cache
def _cores(faiss: Any) -> int:
    """How many threads FAISS would use by itself; asked before anybody changes it."""
    return int(faiss.omp_get_max_threads())


def _use_threads(faiss: Any, queries: int) -> None:
    """One thread for single operations, where waking others costs more than it saves."""
    faiss.omp_set_num_threads(1 if queries < _FEW else _cores(faiss))


def _gpu_kernel(device_type: str) -> Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor] | None:
    """FAISS's own brute-force search, where it was built for GPUs: queries, rows, k -> places of the k nearest rows."""
    if device_type != "cuda":
        return None
    try:
        import faiss
        import faiss.contrib.torch_utils  # lets faiss take torch tensors

        if faiss.get_num_gpus() < 1:
            return None
        resources = faiss.StandardGpuResources()
    except (ImportError, AttributeError):
        return None

    def nearest(asked: torch.Tensor, rows: torch.Tensor, k: int) -> torch.Tensor:
        _, found = faiss.knn_gpu(resources, asked, rows, k, metric=faiss.METRIC_INNER_PRODUCT)
        return found

    return nearest
