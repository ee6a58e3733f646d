"""C = E[k k^T], the second moment of an MLP's keys, which ROME's family needs to leave other keys alone.

Estimated from running text: one that ships (a few thousand short sentences), or the user's own file. It belongs to one
module of one set of weights and one text; it is computed once and kept in a folder of the user's
(`MEMEDIT_CACHE`, else `$XDG_CACHE_HOME/memedit`, else `~/.cache/memedit`).
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memedit import layout
from memedit.errors import DataError, ModelError
from memedit.lm import HFModel
from memedit.methods._locate import right_padded
from memedit.methods._watch import kept_beside, origin, watched

TEXT = Path(__file__).parent.parent / "pretrained" / "text" / "sentences.txt"
MOST_TOKENS = 128  # of one line; what is longer is cut
_BATCH_TOKENS = 4_096
_log = logging.getLogger("memedit")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Moment:
    """An estimate of C.

    Attributes:
        matrix: (m, m), float32 on the CPU. tokens: how many keys it is a mean of. apart: |C1 - C2| / |C| (Frobenius) of
            its two halves: how far it is from converged.
    """

    matrix: Tensor
    tokens: int
    apart: float

    def __str__(self) -> str:
        return f"{self.tokens:,} keys, its halves {100 * self.apart:.1f} % apart"


def second_moment(
    base: HFModel, module: str, text: str | None = None, progress: Progress | None = None
) -> Moment:
    """C of a linear module's inputs; from the cache where it was computed before.

    Args:
        text: a file of UTF-8 text, a line for each passage; None takes what ships.

    Raises:
        DataError: the text can't be read, or is too short. ModelError: the module is quantised.
    """
    layout.check_readable(base.model.get_submodule(module), module)
    base = origin(base)  # C is of the model as it was before any edit
    lines, digest = lines_of(text)
    kept = kept_beside(base).setdefault("moments", {})
    key = f"{base.fingerprint[:24]}-{module}-{digest[:16]}"
    if key not in kept:
        path = folder() / f"moment-{key}.safetensors"
        found = _read(path)
        if found is None:
            found = estimate(base, module, lines, progress)
            _log.info("second moment of the keys of %s: %s", module, found)
            _write(path, found)
        kept[key] = found
    return kept[key]  # type: ignore[no-any-return]


def folder() -> Path:
    """Where estimates are kept."""
    own = os.environ.get("MEMEDIT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memedit"


def source(text: str | None) -> Path:
    """The file that C is estimated from: the one that is named, else what ships."""
    return Path(text).expanduser() if text else TEXT


def lines_of(text: str | None) -> tuple[list[str], str]:
    """The passages of the text that C is estimated from, and a digest of it.

    Raises:
        DataError: it can't be read, or is too short.
    """
    path = source(text)
    try:
        data = path.read_bytes()
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"the text {path} for the key covariance can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"the text {path} for the key covariance is not UTF-8: {error.reason}") from None
    if len(lines) < 2:
        raise DataError(f"the text {path} for the key covariance has {len(lines)} lines; give some thousands")
    return lines, hashlib.sha256(data).hexdigest()


def estimate(base: HFModel, module: str, lines: Sequence[str], progress: Progress | None) -> Moment:
    """Two halves, every other batch to each, so that they are of one kind of text."""
    width = layout.weight(base.model, module).shape[1]
    sums = torch.zeros(2, width, width, dtype=torch.float32)
    counts = [0, 0]
    batches = list(_batches(base, lines))
    for i, rows in enumerate(batches):
        ids, mask = right_padded(rows, int(base.tokenizer.pad_token_id))
        ids, mask = ids.to(base.device), mask.to(base.device)

        def keep(args: tuple[Any, ...], output: Tensor, i: int = i, mask: Tensor = mask) -> None:
            k = args[0].reshape(-1, width)[mask.reshape(-1).bool().to(args[0].device)].float()
            sums[i % 2] += (k.T @ k).cpu()
            counts[i % 2] += len(k)
            raise _Enough

        with torch.no_grad(), watched(base, {module: keep}), suppress(_Enough):
            base.model(input_ids=ids, attention_mask=mask, use_cache=False)
        if progress:
            progress(i + 1, len(batches))
    if not bool(torch.isfinite(sums).all()):
        raise ModelError(
            f"the keys of {module} overflow in {base.model.dtype}: load the model in float32 or bfloat16"
        )
    whole = sums.sum(0) / sum(counts)
    halves = [sums[i] / max(1, counts[i]) for i in (0, 1)]
    return Moment(whole, sum(counts), float((halves[0] - halves[1]).norm() / whole.norm()))


class _Enough(Exception):
    """The layers above the one that is looked at need not run."""


def _batches(base: HFModel, lines: Sequence[str]) -> Iterator[list[list[int]]]:
    limit = min(MOST_TOKENS, base.context_length or MOST_TOKENS)
    with base.tokenizing:
        rows = [ids[:limit] for ids in base.tokenizer(list(lines))["input_ids"] if ids]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    batch: list[list[int]] = []
    for i in order:
        if batch and (len(batch) + 1) * len(rows[i]) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(rows[i])
    if batch:
        yield batch


def _read(path: Path) -> Moment | None:
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            return Moment(file.get_tensor("matrix"), int(about["tokens"]), float(about["apart"]))
    except Exception:  # lost or damaged (safetensors raises its own): it is estimated again
        return None


def _write(path: Path, moment: Moment) -> None:
    from safetensors.torch import save

    about = {"tokens": str(moment.tokens), "apart": str(moment.apart)}
    keep_whole(path, save({"matrix": moment.matrix}, about), "second moment")


def keep_whole(path: Path, data: bytes, what: str) -> None:
    """Write a file where that is possible: beside and moved into place, so that there is a whole one or none.

    A disk that is full leaves nothing behind, and a line in the log says so.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(data)  # readable as the user's other files are
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        _log.info("the %s can't be kept in %s (%s)", what, path.parent, error.strerror)
