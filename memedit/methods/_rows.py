"""Putting edits on single rows of a batch: context spliced in before a row's prompt, patches added to a row's modules.

Both happen inside the model's forward pass, through hooks that only the calling thread's own
batch sees. `generate` above it therefore never sees the spliced ids: repetition penalties, logits
processors, stopping criteria, streamers and max_length work on the caller's sequence alone, what
comes back is the caller's ids followed by the new tokens, and hidden states and attentions are
those of the caller's tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from memedit import prefix
from memedit.errors import ContextWarning, ModelError
from memedit.lm import HFModel, Score
from memedit.methods._active import ACTIVE, apart
from memedit.methods._effects import Change, Now, RowPatch, added, reads, stacked
from memedit.methods._splice import Piece, Splice, fitted, joined, left_padded, own_columns, spliced
from memedit.texts import batch_rows, too_long

if TYPE_CHECKING:
    from torch import Tensor

# New tokens that are sure to find room beside a context. A caller who allows more ("max_length" is often all that the
# model takes) rarely means them, and would lose every fact to them; the generation is stopped where room ends.
SURE_TOKENS = 64
# With more different contexts in a batch, reading them along with the prompts is cheaper than one by one.
MOST_PREFIXES = 8

# What models without keys and values go on from, by the names of their `forward`.
_STATES = ("cache_params", "state")


@dataclass(frozen=True)
class Row:
    """What one row is given: what it reads before its prompt, and what its modules add.

    Attributes:
        context: pieces of text, least important first.
        tail: how many of the row's own tokens stand after the context (a chat's last user turn and what follows);
            None puts the context first, after the row's own BOS.
        after: how many of them stand behind the user's words, at whose last token keys of activations are read; None: at the
            row's last token.
    """

    context: tuple[Piece, ...] = ()
    patch: RowPatch | None = None
    tail: int | None = None
    after: int | None = None

    def __add__(self, other: Row) -> Row:
        """Both: contexts one after the other; what is done to one module joined, so that terms add up."""
        patch = added(self.patch, other.patch)
        tail, after = other.tail or self.tail, self.after if other.after is None else other.after
        return Row(self.context + other.context, patch or None, tail, after)


@dataclass(frozen=True)
class Read:
    """What a row has read before its prompt, what there was no room for, and the steps by which it came to be, if any."""

    text: str = ""
    left_out: tuple[Piece, ...] = ()
    steps: tuple[str, ...] = ()


@dataclass
class _Batch:
    """The rows of the forward passes under way in this thread; contexts are fitted at the first of them."""

    owner: AppliedModel
    first: int  # number of the first row among the owner's
    rows: list[Row]
    options: Mapping[str, Any]
    contexts: list[list[int]] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    splice: Splice | None = None
    mask: Tensor | None = None  # of the first forward pass, contexts included
    longest: int = 0  # tokens of its longest row
    asked: int = 0  # new tokens that the caller allows
    target: list[int] | None = None  # tokens after each row's prompt that are scored with it
    width: int = 0  # columns of the caller's own in the first forward pass, the prompt
    now: Now = field(default_factory=lambda: Now(None, 0))
    changes: dict[str, list[Change]] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)  # of modules that other modules' neurons read


def check_rows(prompts: int, rows: int) -> None:
    """Refuse another number of prompts than of rows.

    Raises:
        ValueError: says both numbers.
    """
    if prompts != rows:
        raise ValueError(f"{prompts} prompts for {rows} rows of edits")


class AppliedModel:
    """An LM made of a base and one `Row` for each prompt it will be asked; alive inside `rows_applied` only.

    Attributes:
        read: what each row has read, once it was asked.
    """

    def __init__(self, base: HFModel, rows: Sequence[Row]) -> None:
        self.base = base
        self.rows = list(rows)
        self.read = [Read() for _ in self.rows]
        self._encoded: dict[str, list[int]] = {}

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
        check_rows(len(prompts), len(self.rows))
        size, options = batch_rows(batch_size, len(prompts)), apart(options)
        out: list[str] = []
        for start in range(0, len(prompts), size):
            with self._active(start, size, self.base.text_options(options)):
                said = {**options, "stopping_criteria": self._room(options)}
                out += self.base.generate(list(prompts[start : start + size]), seed=seed, **said)
        return out

    def generate_ids(self, *, seed: int | None = None, **inputs: Any) -> Any:
        """As `HFModel.generate` with ids; row i of the ids is row i."""
        check_rows(len(inputs["input_ids"]), len(self.rows))
        with self._active(0, len(self.rows), inputs):
            said = apart(inputs)
            out = self.base.generate(seed=seed, **{**said, "stopping_criteria": self._room(said)})
        if getattr(out, "past_key_values", None) is not None:
            out.past_key_values = None  # it holds the contexts, and fits no prompt of the caller's
        return out

    def score(self, prompts: Sequence[str], targets: Sequence[str], *, batch_size: int = 32) -> list[Score]:
        """As `HFModel.score`; prompt i is row i."""
        check_rows(len(prompts), len(self.rows))
        out: list[Score] = []
        for start in range(0, len(prompts), batch_rows(batch_size, len(prompts))):
            rows = slice(start, start + batch_size)
            with self._active(start, batch_size, {"max_new_tokens": 0}) as batch:
                pairs = zip(prompts[rows], targets[rows], strict=True)
                batch.target = [len(self.base.target_ids(prompt, target)) for prompt, target in pairs]
                out += self.base.score(list(prompts[rows]), list(targets[rows]), batch_size=batch_size)
        return out

    @contextmanager
    def _active(self, first: int, size: int, options: Mapping[str, Any]) -> Iterator[_Batch]:
        batch = _Batch(self, first, self.rows[first : first + size], options)
        token = ACTIVE.set(batch)
        try:
            yield batch
        finally:
            ACTIVE.reset(token)

    def _batch(self) -> _Batch | None:
        """This thread's batch, if it is this model's: other threads use the same modules at the same time."""
        batch = ACTIVE.get()
        return batch if batch is not None and batch.owner is self else None

    def _room(self, options: Mapping[str, Any]) -> Any:
        """The caller's stopping criteria, and one that stops where contexts and sequence fill the model."""
        from transformers import StoppingCriteriaList

        limit, own = self.base.context_length, options.get("stopping_criteria")
        if limit is None or self.base.new_tokens(0, options) <= SURE_TOKENS:
            return own
        warned = False

        def full(input_ids: Tensor, scores: Any, **more: Any) -> Tensor:
            nonlocal warned
            batch = self._batch()
            stop = False
            if batch is not None and batch.splice is not None:
                new = input_ids.shape[1] - batch.splice.visible
                stop = batch.longest + new > limit
                if stop and not warned and new < batch.asked:
                    warned = True
                    warnings.warn(
                        ContextWarning(
                            f"stopped after {new} of {batch.asked} new tokens: with what was stated before the prompt, "
                            f"the {limit} tokens that the model takes are full"
                        ),
                        stacklevel=2,
                    )
            return torch.full((input_ids.shape[0],), stop, device=input_ids.device, dtype=torch.bool)

        return StoppingCriteriaList([*(own or ()), full])

    # -- contexts

    def _before(
        self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Forward pre-hook of the whole model: the contexts' ids, mask and positions among the rows' own."""
        batch = self._batch()
        # Without kwargs the call is another thread's, which met this hook while it was being removed.
        if batch is None or kwargs is None:
            return None
        self._begin(batch, kwargs)
        if not any(row.context for row in batch.rows):
            return None
        if batch.splice is not None and any(kwargs.get(name) is not None for name in _STATES):
            return None  # a recurrent state goes on, and has read the contexts
        kwargs = dict(kwargs)
        ids: Tensor = kwargs["input_ids"]
        cache = kwargs.get("past_key_values")
        past = cache.get_seq_length() if cache is not None else 0
        mask = kwargs.get("attention_mask")
        if mask is None:  # `generate` leaves a mask of ones out
            seen = past - batch.mask.shape[1] + batch.splice.visible if past and batch.splice else 0  # type: ignore[union-attr]
            mask = torch.ones(ids.shape[0], seen + ids.shape[1], dtype=torch.long, device=ids.device)
        if mask.dim() != 2:
            raise ModelError(
                "a stated fact needs a cache that grows: leave cache_implementation out (static caches are not served)"
            )
        if not past:
            self._put_in(batch, ids, mask, cache, kwargs)
        splice, full = batch.splice, batch.mask
        assert splice is not None
        assert full is not None
        if past:
            full = torch.cat([full, mask[:, splice.visible :]], dim=1)
        kwargs["attention_mask"] = full
        if kwargs.get("position_ids") is not None:
            width = kwargs["input_ids"].shape[1]
            kwargs["position_ids"] = (full.long().cumsum(-1) - 1).clamp(min=0)[:, -width:]
        return args, kwargs

    def _put_in(self, batch: _Batch, ids: Tensor, mask: Tensor, cache: Any, kwargs: dict[str, Any]) -> None:
        """The contexts into a pass that begins with the prompt: into its cache where they recur, else among its ids."""
        if not batch.contexts:
            self._fit(batch, ids, mask)
        pad = self.base.tokenizer.pad_token_id
        batch.splice = splice = spliced(ids, mask, batch.contexts, batch.starts, pad)
        kinds = kwargs.get("token_type_ids")
        if kinds is not None:
            own, kwargs["token_type_ids"] = splice.column >= 0, torch.zeros_like(splice.ids)
            kwargs["token_type_ids"][own.nonzero()[:, 0], splice.column[own]] = kinds[own]
        whole = kinds is not None or kwargs.get("output_hidden_states") or kwargs.get("output_attentions")
        known = None if whole else self._prefixes(batch, splice, cache)
        if known is None:
            kwargs["input_ids"], batch.mask = splice.ids, splice.mask
            return
        rests, there = left_padded(splice.rests, pad)
        heads = prefix.fill(cache, known)
        kwargs["input_ids"] = rests.to(ids.device)
        batch.mask = torch.cat([heads, there], dim=1).to(mask.device, mask.dtype)

    def _fit(self, batch: _Batch, ids: Tensor, mask: Tensor) -> None:
        """As much of each row's context as there is room for, and where it goes."""
        bos = self.base.tokenizer.bos_token_id
        limit = self.base.context_length
        new = batch.asked = self.base.new_tokens(ids.shape[1], batch.options)
        repeat = ids.shape[0] // len(batch.rows)  # beams and returned sequences repeat the batch's rows
        lengths = mask.sum(1).tolist()[::repeat]
        first = ids.gather(1, mask.long().argmax(-1, keepdim=True))[::repeat, 0].tolist()
        for i, row in enumerate(batch.rows):
            own = int(lengths[i])
            begins = ids[i * repeat][mask[i * repeat].bool()][:32]
            prompt = self.base.tokenizer.decode(begins, skip_special_tokens=True)
            if limit is not None and own + new > limit:
                raise ModelError(too_long(prompt, own, new, limit))
            context, out = fitted(row.context, self._encode, own, min(new, SURE_TOKENS), limit, prompt)
            batch.longest = max(batch.longest, own + len(context))
            kept = tuple(piece for piece in row.context if piece not in out)
            self.read[batch.first + i] = Read(joined(kept), out)
            batch.contexts.append(context)
            front = int(bos is not None and first[i] == bos)
            batch.starts.append(front if row.tail is None else max(0, own - row.tail))

    def _encode(self, text: str) -> list[int]:
        if text not in self._encoded:
            self._encoded[text] = self.base.encode_context(text)
        return self._encoded[text]

    def _prefixes(self, batch: _Batch, splice: Splice, cache: Any) -> list[prefix.Layers] | None:
        """Keys and values of what each row reads up to the end of its context; None where it has to be read anew.

        Whether they are used depends on the call alone, never on what was asked before: same inputs, same output.
        """
        model, kept = self.base.model, self.base.prefixes
        if not kept.budget or not all(splice.heads) or not all(splice.rests):
            return None
        if len(set(splice.heads)) > MOST_PREFIXES or any(row.patch for row in batch.rows):
            return None
        if cache is None or not prefix.serves(model, cache):
            return None
        token = ACTIVE.set(None)
        try:
            found = {head: kept.get(model, head) for head in dict.fromkeys(splice.heads)}
        finally:
            ACTIVE.reset(token)
        layers = [found[head] for head in splice.heads]
        return None if any(one is None for one in layers) else layers  # type: ignore[return-value]

    def _after(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any = None) -> None:
        """Forward hook of the whole model: of hidden states and attentions, the caller's own tokens only."""
        batch = self._batch()
        # Without output the call is another thread's, as above.
        if batch is None or output is None or batch.splice is None or batch.mask is None:
            return
        inside, column = batch.mask.shape[1], batch.splice.column
        states, attentions = getattr(output, "hidden_states", None), getattr(output, "attentions", None)
        mask = kwargs.get("attention_mask")  # a recurrent state goes on without one
        begins = mask is not None and mask.shape[1] == inside
        if states is not None and begins:
            output.hidden_states = tuple(own_columns(state, column, 1) for state in states)
        if attentions is not None:
            own = []
            for weights in attentions:
                weights = own_columns(weights, column, 2) if begins else weights
                before, after = weights[..., :inside], weights[..., inside:]
                own.append(torch.cat([own_columns(before, column, 3), after], dim=3))
            output.attentions = tuple(own)

    # -- patches

    def _begin(self, batch: _Batch, kwargs: Mapping[str, Any]) -> None:
        """Where this pass stands, for what only happens while the prompt is read."""
        ids, cache = kwargs.get("input_ids"), kwargs.get("past_key_values")
        if ids is None:
            return
        begins = not (cache is not None and cache.get_seq_length())
        if any(kwargs.get(name) is not None for name in _STATES):
            begins = not batch.width
        batch.width = batch.width or ids.shape[1]
        new = ids.shape[1] - batch.width  # without a cache every pass reads all
        targets = batch.target or [0] * len(batch.rows)
        last = [-1 - new - n for n in targets]
        ends = [n if row.after is None else row.after for row, n in zip(batch.rows, targets, strict=True)]
        words = [-1 - new - n for n in ends]
        batch.now = Now(last, ids.shape[0], words) if begins else Now(None, ids.shape[0])

    def _changer(self, name: str) -> Callable[[Any, tuple[Any, ...], Tensor], Tensor | None]:
        """Forward hook of the module `name`: what each row's patch does to that row's output."""

        def change(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            batch = self._batch()
            if batch is None or not any(row.patch and name in row.patch for row in batch.rows):
                return None
            # Some models (OPT) run the tokens of all rows as one long row.
            x, y = (t.reshape(batch.now.rows, -1, t.shape[-1]) for t in (args[0], output))
            if name not in batch.changes:
                effects = [(row.patch or {}).get(name) for row in batch.rows]
                batch.changes[name] = stacked(effects, module, name, x)
            h = batch.inputs.get(name)
            h = None if h is None else h.reshape(batch.now.rows, -1, h.shape[-1])
            for each in batch.changes[name]:
                y = each(x, y, h, batch.now)
            return y.reshape(output.shape)

        return change

    def _reader(self, name: str) -> Callable[[Any, tuple[Any, ...]], None]:
        """Forward pre-hook of the module whose input the neurons at `name` read."""

        def read(module: Any, args: tuple[Any, ...]) -> None:
            batch = self._batch()
            if batch is not None:
                batch.inputs[name] = args[0]

        return read


@contextmanager
def rows_applied(base: HFModel, rows: Sequence[Row]) -> Iterator[AppliedModel]:
    """The base as a model whose row i is given `rows[i]`; hooks are on inside the block only, weights are never written."""
    applied = AppliedModel(base, rows)
    handles = [
        base.model.register_forward_pre_hook(applied._before, with_kwargs=True),
        base.model.register_forward_hook(applied._after, with_kwargs=True),
    ]
    try:
        for name in sorted({name for row in rows for name in row.patch or ()}):
            handles.append(base.model.get_submodule(name).register_forward_hook(applied._changer(name)))
            source = reads([(row.patch or {}).get(name) for row in rows])
            if source is not None:
                read = base.model.get_submodule(source).register_forward_pre_hook(applied._reader(name))
                handles.append(read)
        yield applied
    finally:
        for handle in handles:
            handle.remove()
