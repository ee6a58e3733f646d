"""Exact nearest rows with torch, on any device: a short list by half-precision products, ranked in float32.

A half-precision product is off by a bounded amount. Each answer therefore says whether it is proven: whether
no row outside the short list can be better than the last that was chosen. What isn't is searched again, with
a longer list and then row by row, so that the answer is always that of exact search. Of equals the one with
the greater id comes first, as the newer edit does everywhere in a memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# From queries (n, dim), rows (m, dim) and k: products (n, k) and places (n, k) of the nearest rows.
Kernel = Callable[["torch.Tensor", "torch.Tensor", int], tuple["torch.Tensor", "torch.Tensor"]]

KERNEL_LIMIT = 1024  # neighbours that FAISS's GPU kernel finds at once
QUERIES = 256  # searched together; with PRODUCTS, what bounds the memory that a search takes
PRODUCTS = 1 << 26  # of queries and rows, at a time: 128 MB in half precision
PAIRS = 1 << 16  # multiplied out in float32 at a time: 100 MB at 384 dimensions
SHORT, LONG = 64, 1024  # rows of a short list, and of the longer one


@dataclass(frozen=True)
class Shelf:
    """Rows to search. All tensors are on one device.

    Attributes:
        rows: (count, dim), of unit length. ids: (count,) int64.
        hidden: (count,) bool, rows that are not to be found; None where there are none.
        hidden_count: how many those are. kernel: a quicker way to a short list.
    """

    rows: torch.Tensor
    ids: torch.Tensor
    hidden: torch.Tensor | None = None
    hidden_count: int = 0
    kernel: Kernel | None = None


@dataclass(frozen=True)
class Found:
    """products (n, k) float32, best first, -inf where there are fewer; places (n, k) of rows; proven (n,) bool."""

    products: torch.Tensor
    places: torch.Tensor
    proven: torch.Tensor


def nearest(shelf: Shelf, asked: torch.Tensor, k: int, short: int = SHORT) -> Found:
    """The k nearest rows for each query (n, dim) float32; nothing waits for the device.

    Args:
        k: not more than there are rows. short: rows of the short list; at least 4 k are taken.
    """
    import torch

    short = max(short, 4 * k)
    together = max(1, QUERIES * SHORT // short)
    parts = [_nearest(shelf, some, k, short) for some in asked.split(together)]
    if len(parts) == 1:
        return parts[0]
    return Found(
        torch.cat([p.products for p in parts]),
        torch.cat([p.places for p in parts]),
        torch.cat([p.proven for p in parts]),
    )


def _nearest(shelf: Shelf, asked: torch.Tensor, k: int, short: int) -> Found:
    import torch

    count = len(shelf.rows)
    short = min(short, count)
    rounded = asked.to(shelf.rows.dtype)
    by_kernel = shelf.kernel is not None and short + shelf.hidden_count <= KERNEL_LIMIT
    if by_kernel:
        assert shelf.kernel is not None
        coarse, places = shelf.kernel(rounded, shelf.rows, min(count, short + shelf.hidden_count))
    else:
        coarse, places = _short_list(shelf, rounded, short)
    floor = coarse[:, -1].float()  # nothing outside has a greater coarse product than this
    if places.shape[1] == count:
        floor = torch.full_like(floor, float("-inf"))
    products = (shelf.rows[places].float() * asked[:, None]).sum(dim=-1)
    if shelf.hidden is not None:
        products = products.masked_fill(shelf.hidden[places], float("-inf"))
    products, places = best_first(products, places, shelf.ids, k)
    error = _error(asked, rounded)
    # Strictly better: of equals one outside may have the greater id.
    proven = (products[:, -1] > floor + error) | (floor == float("-inf"))
    return Found(products, places, proven)


def _short_list(shelf: Shelf, rounded: torch.Tensor, short: int) -> tuple[torch.Tensor, torch.Tensor]:
    """By products in the rows' own precision, a chunk of the rows at a time: (n, short) each, best first."""
    import torch

    found: tuple[torch.Tensor, torch.Tensor] | None = None
    step = max(1, PRODUCTS // len(rounded))
    for start in range(0, len(shelf.rows), step):
        rows = shelf.rows[start : start + step]
        some = rounded @ rows.T
        if shelf.hidden is not None:
            some.masked_fill_(shelf.hidden[start : start + step], float("-inf"))
        coarse, places = some.topk(min(short, len(rows)), dim=1)
        places = places + start
        if found is not None:
            coarse, places = torch.cat([found[0], coarse], dim=1), torch.cat([found[1], places], dim=1)
            coarse, keep = coarse.topk(min(short, coarse.shape[1]), dim=1)
            places = places.gather(1, keep)
        found = coarse, places
    assert found is not None
    return found


def _error(asked: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """By how much a coarse product with a row of unit length may be off, (n,).

    The query's own rounding, and that of the product: its last bits and those of partial sums, with a margin.
    """
    import torch

    bits = {torch.float32: 2.0**-14, torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6}
    lost = torch.linalg.vector_norm(asked - rounded.float(), dim=1)
    if asked.device.type == "cuda" and rounded.dtype == torch.float32:
        bits[torch.float32] = 2.0**-9  # the user may have allowed TF32
    return lost + bits[rounded.dtype] * torch.linalg.vector_norm(asked, dim=1)


def best_first(
    products: torch.Tensor, places: torch.Tensor, ids: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best of each row of products (n, m) and places (n, m); of equals the greater id first."""
    order = ids[places].argsort(dim=1, descending=True)
    products, places = products.gather(1, order), places.gather(1, order)
    products, order = products.sort(dim=1, descending=True, stable=True)
    return products[:, :k], places.gather(1, order)[:, :k]


def row_by_row(shelf: Shelf, query: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest rows for one query (dim,), with every row multiplied out: products (k,) and places (k,).

    The last resort, for memories with more near-equal statements than a list holds. It waits for the device.
    """
    import torch

    products = torch.cat([(rows.float() * query).sum(dim=1) for rows in shelf.rows.split(PAIRS)])
    if shelf.hidden is not None:
        products = products.masked_fill(shelf.hidden, float("-inf"))
    last = products.topk(k).values[-1]
    places = (products >= last).nonzero()[:, 0]
    best, places = best_first(products[places][None], places[None], shelf.ids, k)
    return best[0], places[0]


def gpu_kernel(device: torch.device) -> Kernel | None:
    """FAISS's own brute-force search, where it was built for GPUs: on the same tensors, without a copy of them."""
    if device.type != "cuda":
        return None
    try:
        import faiss
        import faiss.contrib.torch_utils  # lets faiss take torch tensors

        if faiss.get_num_gpus() < 1:
            return None
        resources = faiss.StandardGpuResources()
    except (ImportError, AttributeError):
        return None
    import torch

    number = torch.cuda.current_device() if device.index is None else device.index

    def kernel(asked: torch.Tensor, rows: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.cuda.device(number):
            products, places = faiss.knn_gpu(
                resources, asked, rows, k, metric=faiss.METRIC_INNER_PRODUCT, device=number
            )
        return products, places

    return kernel
