"""Exact nearest vectors with torch on a device; imported when one is asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from memedit.memory.index import VectorIndex

if TYPE_CHECKING:
    import torch

_KERNEL_LIMIT = 1024  # neighbours that FAISS's GPU kernel finds at once
_CHUNK = 1 << 18  # vectors that the torch index compares at a time: bounds what a batch of queries needs


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
        import torch

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
        import torch

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
        import torch

        count = len(self)
        rows: torch.Tensor
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
        import torch

        at = torch.tensor([self._row[id] for id in ids], dtype=torch.int64, device=self.device)
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


def _gpu_kernel(device_type: str) -> Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor] | None:
    """FAISS's own brute-force search, where it was built for GPUs.

    A function from queries (n, dim), rows (m, dim) and k to the places of the k nearest rows, (n, k).
    """
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
        found: torch.Tensor
        _, found = faiss.knn_gpu(resources, asked, rows, k, metric=faiss.METRIC_INNER_PRODUCT)
        return found

    return nearest
