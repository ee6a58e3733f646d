"""Nearest vectors by inner product: FAISS on the CPU, exact search with torch on a GPU; one interface.

An index knows ids and vectors and nothing of edits. It may be lost at any time: SQLite has all of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from memedit.devices import may_have_gpu, why_no_gpu
from memedit.errors import MemoryError_

if TYPE_CHECKING:
    import torch

    from memedit.memory.torch_index import TorchIndex

FLAT_LIMIT = 200_000  # vectors; to here exact search on a CPU is quick enough
_PROBES = 128  # inverted lists that are looked into: recall .95 among 10**6
_FEW = 20  # queries; below this FAISS is at its quickest on one thread and without BLAS


class VectorIndex(ABC):
    """Ids with vectors, searched by inner product.

    Attributes:
        file: the snapshot's name in the memory's folder.
        keeps_views: whether all vectors of an edit are kept, for judging where they are, or the first alone.
        dim: of the vectors. width: bytes that a search reads for each of their numbers.
        oversampling: how many times k to ask for, before an exact ranking of what comes back.
    """

    file: ClassVar[str]
    keeps_views: ClassVar[bool] = False
    dim: int
    width: int
    oversampling: int = 1

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def put(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Add, or replace, vectors: ids (n,) int64, vectors (n, dim) float32.

        An index that keeps views takes (n, views, dim), and searches the first.
        """

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
        self.width = 4 if self.exact else 1
        self.oversampling = 1 if self.exact else 4

    def __len__(self) -> int:
        return len(self._ids)

    def put(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        if len(ids) == 0:
            return
        self.remove(ids.tolist())
        everything = len(self) + len(ids)
        # Lists that were made for a quarter of what they are to hold are long and badly placed: made anew.
        if everything > (self.limit if self.exact else 4 * max(self.limit, (self._index.nlist // 4) ** 2)):
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


def choose(device: str | None) -> tuple[type[FaissIndex] | type[TorchIndex], dict[str, Any]]:
    """Which index to use, and its options: on a GPU torch, else FAISS. None takes the GPU where there is one.

    Raises:
        MemoryError_: the device is not there.
    """
    if device == "cpu" or (device is None and not may_have_gpu()):
        return FaissIndex, {}
    import torch

    from memedit.memory.torch_index import TorchIndex  # here, because it is made of the interface above

    if device is None:
        return (TorchIndex, {"device": "cuda"}) if torch.cuda.is_available() else (FaissIndex, {})
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise MemoryError_(
            f"there is no GPU for device {device!r} ({why_no_gpu()}); leave it out, or name cpu"
        )
    return TorchIndex, {"device": device}


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise MemoryError_(
            "searching a memory needs FAISS, which is not installed: "
            'pip install "memedit[cpu]", or with an NVIDIA GPU "memedit[gpu]"'
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
