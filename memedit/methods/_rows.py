"""Putting edits on single rows of a batch: context spliced before a row's ids, patches added to a row's modules.

Both happen inside the model's forward pass, through hooks that only the calling thread's own
batch sees. `generate` above it therefore never sees the spliced ids: repetition penalties, logits
processors, stopping criteria, streamers and max_length work on the caller's sequence alone, and
what comes back is the caller's ids followed by the new tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from memedit.errors import ModelError
from memedit.lm import HFModel, Score, batch_rows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """up @ down, added to a linear module: y + x down^T up^T. Shapes: up (out, rank), down (rank, in)."""

    up: Tensor
    down: Tensor

    def __add__(self, other: LowRank) -> LowRank:
        return LowRank(torch.cat([self.up, other.up], 1), torch.cat([self.down, other.down], 0))


RowPatch = Mapping[str, LowRank]  # module name -> what is added to its output


@dataclass(frozen=True)
class Row:
    """What one row is given: text before its prompt, and what its modules add."""

    context: str = ""
    patch: RowPatch | None = None

    def __add__(self, other: Row) -> Row:
        """Both: contexts one after the other; low-rank terms of one module side by side, so that they add up."""
        patch = dict(self.patch or {})
        for name, term in (other.patch or {}).items():
            patch[name] = patch[name] + term if name in patch else term
        return Row(self.context + other.context, patch or None)


@dataclass(frozen=True)
class _Splice:
    """What is put before the ids of every row of one forward pass.

    Attributes:
        ids, mask: (rows, width), left-padded; a row that gets any begins with its own BOS, where it has one.
        hidden: (rows, visible length at prefill) mask of 1 but for the BOS that was taken over.
    """

    ids: Tensor
    mask: Tensor
    hidden: Tensor


@dataclass
class _Batch:
    """The rows of the forward passes under way in this thread; `splice` is made at prefill."""

    owner: AppliedModel
    context: list[list[int]]
    patches: list[RowPatch | None]
    new_tokens: int = 0
    splice: _Splice | None = None
    stacked: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


_ACTIVE: ContextVar[_Batch | None] = ContextVar("memedit_rows", default=None)


class AppliedModel:
    """An LM made of a base and one `Row` for each prompt it will be asked; alive inside `rows_applied` only."""

    def __init__(self, base: HFModel, rows: Sequence[Row]) -> None:
        self.base = base
        self.rows = list(rows)
        contexts = dict.fromkeys(row.context for row in self.rows)
        ids = {text: base.encode_context(text) for text in contexts}
        self._context = [ids[row.context] for row in self.rows]

    def generate(
        self,
        prompts: Sequence[str],
        *,
        batch_size: int | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> list[str]:
        """As `HFModel.generate`; prompt i is row i.

        Raises:
            ValueError: another number of prompts than of rows.
        """
        self._same_number(len(prompts))
        size = batch_rows(batch_size, len(prompts))
        out: list[str] = []
        for start in range(0, len(prompts), size):
            rows = slice(start, start + size)
            with self._active(rows, options):
                out += self.base.generate(list(prompts[rows]), seed=seed, **options)
        return out

    def generate_ids(self, *, seed: int | None = None, **inputs: Any) -> Any:
        """As `HFModel.generate` with ids; row i of the ids is row i."""
        self._same_number(len(inputs["input_ids"]))
        with self._active(slice(None), inputs, inputs["input_ids"].shape[1]):
            return self.base.generate(seed=seed, **inputs)

    def score(self, prompts: Sequence[str], targets: Sequence[str], *, batch_size: int = 32) -> list[Score]:
        """As `HFModel.score`; prompt i is row i."""
        self._same_number(len(prompts))
        out: list[Score] = []
        for start in range(0, len(prompts), batch_size):
            rows = slice(start, start + batch_size)
            with self._active(rows, {"max_new_tokens": 0}):
                out += self.base.score(list(prompts[rows]), list(targets[rows]), batch_size=batch_size)
        return out

    def _same_number(self, prompts: int) -> None:
        if prompts != len(self.rows):
            raise ValueError(f"{prompts} prompts for {len(self.rows)} rows of edits")

    @contextmanager
    def _active(self, rows: slice, options: Mapping[str, Any], prompt_length: int = 0) -> Iterator[None]:
        new = self.base.new_tokens(prompt_length, options)
        batch = _Batch(self, self._context[rows], [row.patch for row in self.rows[rows]], new)
        token = _ACTIVE.set(batch)
        try:
            yield
        finally:
            _ACTIVE.reset(token)

    def _batch(self) -> _Batch | None:
        """This thread's batch, if it is this model's: other threads use the same modules at the same time."""
        batch = _ACTIVE.get()
        return batch if batch is not None and batch.owner is self else None

    def _splice(
        self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Forward pre-hook of the whole model: the context's ids, mask and positions before the row's own."""
        batch = self._batch()
        # Without kwargs the call is another thread's, which met this hook while it was being removed.
        if batch is None or kwargs is None or not any(batch.context):
            return None
        kwargs = dict(kwargs)
        ids: Tensor = kwargs["input_ids"]
        cache = kwargs.get("past_key_values")
        past = cache.get_seq_length() if cache is not None else 0
        mask = kwargs.get("attention_mask")
        if mask is None:  # `generate` leaves a mask of ones out
            seen = past - batch.splice.ids.shape[1] if past and batch.splice else 0
            mask = torch.ones(ids.shape[0], seen + ids.shape[1], dtype=torch.long, device=ids.device)
        if mask.dim() != 2:
            raise ModelError(
                "a stated fact needs a cache that grows: leave cache_implementation out (static caches are not served)"
            )
        if batch.splice is None:
            batch.splice = self._prefill(batch, ids, mask)
        splice = batch.splice
        mask = mask.clone()
        mask[:, : splice.hidden.shape[1]] *= splice.hidden.to(mask.dtype)
        full = torch.cat([splice.mask.to(mask.dtype), mask], dim=1)
        if not past:
            kwargs["input_ids"] = torch.cat([splice.ids, ids], dim=1)
            kinds = kwargs.get("token_type_ids")
            if kinds is not None:
                kwargs["token_type_ids"] = torch.cat([torch.zeros_like(splice.ids), kinds], dim=1)
        kwargs["attention_mask"] = full
        if kwargs.get("position_ids") is not None:
            width = kwargs["input_ids"].shape[1]
            kwargs["position_ids"] = (full.long().cumsum(-1) - 1).clamp(min=0)[:, -width:]
        return args, kwargs

    def _prefill(self, batch: _Batch, ids: Tensor, mask: Tensor) -> _Splice:
        """Context of each row of (rows, length) ids; beams and returned sequences repeat the batch's rows.

        Raises:
            ModelError: context and prompt are longer than what the model takes.
        """
        bos, pad = self.base.tokenizer.bos_token_id, self.base.tokenizer.pad_token_id
        repeat = ids.shape[0] // len(batch.context)
        first = mask.long().argmax(-1).tolist()
        hidden = torch.ones_like(mask)
        rows = []
        for i, column in enumerate(first):
            context = batch.context[i // repeat]
            if context and bos is not None and int(ids[i, column]) == bos:
                context = [bos, *context]
                hidden[i, column] = 0
            rows.append(context)
        width = max(map(len, rows))
        limit = self.base.context_length
        lengths = [len(row) + int(n) for row, n in zip(rows, mask.sum(1), strict=True)]
        if limit is not None and max(lengths) + batch.new_tokens > limit:
            raise ModelError(
                f"the prompt with its stated facts has {max(lengths)} tokens and {batch.new_tokens} more are asked for; "
                f"the model takes {limit}: shorten the prompt, or ask for fewer"
            )
        return _Splice(
            torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=ids.device),
            torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=ids.device),
            hidden,
        )

    def _adder(self, name: str) -> Callable[[Any, tuple[Any, ...], Tensor], Tensor | None]:
        """Forward hook of the module `name`: adds each row's low-rank product to that row's output."""

        def add(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            batch = self._batch()
            if batch is None or not any(patch and name in patch for patch in batch.patches):
                return None
            x = args[0]
            if name not in batch.stacked:
                batch.stacked[name] = _stack(
                    [patch.get(name) if patch else None for patch in batch.patches], x, output
                )
            up, down = batch.stacked[name]
            repeat = x.shape[0] // len(batch.patches)
            up, down = up.repeat_interleave(repeat, 0), down.repeat_interleave(repeat, 0)
            return output + torch.bmm(torch.bmm(x, down.transpose(1, 2)), up.transpose(1, 2))

        return add


@contextmanager
def rows_applied(base: HFModel, rows: Sequence[Row]) -> Iterator[AppliedModel]:
    """The base as a model whose row i is given `rows[i]`; hooks are on inside the block only, weights are never written."""
    applied = AppliedModel(base, rows)
    handles = [base.model.register_forward_pre_hook(applied._splice, with_kwargs=True)]
    try:
        for name in sorted({name for row in rows for name in row.patch or ()}):
            handles.append(base.model.get_submodule(name).register_forward_hook(applied._adder(name)))
        yield applied
    finally:
        for handle in handles:
            handle.remove()


def _stack(patches: list[LowRank | None], x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, out, rank) and (rows, rank, in), zero-filled to the highest rank; rows without a patch add nothing."""
    rank = max(patch.down.shape[0] for patch in patches if patch)
    up = x.new_zeros(len(patches), output.shape[-1], rank)
    down = x.new_zeros(len(patches), rank, x.shape[-1])
    for i, patch in enumerate(patches):
        if patch:
            up[i, :, : patch.up.shape[1]] = patch.up.to(x)
            down[i, : patch.down.shape[0]] = patch.down.to(x)
    return up, down
