"""What a patch does to a module's output: low-rank and dense terms, swapped value rows, added neurons, replaced activations.

An effect is a value: tensors, and how it joins another effect of the same kind on the same module. `stacked` puts the
effects of all rows of a batch together, so that each row gets its own in one product. Shapes: x is (rows, length, in),
y is (rows, length, out).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from memedit import layout


@dataclass(frozen=True)
class Effect(ABC):
    """One kind of change to a module's output. Subclasses hold tensors only, so that any patch can be stored."""

    kind: ClassVar[str]

    def tensors(self) -> dict[str, Tensor]:
        """The fields by name, for storing."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __add__(self, other: Any) -> Any:
        return self.both(other) if type(self) is type(other) else Several((*_parts(self), *_parts(other)))

    @abstractmethod
    def both(self, other: Any) -> Effect:
        """This effect and a newer one of the same kind."""

    def finite(self) -> bool:
        """Whether every number in it is one."""
        return all(bool(t.isfinite().all()) for t in self.tensors().values() if t.is_floating_point())


@dataclass(frozen=True)
class LowRank(Effect):
    """up @ down, added to a linear module: y + x down^T up^T. Shapes: up (out, rank), down (rank, in). Terms add up."""

    kind: ClassVar[str] = "low-rank"
    up: Tensor
    down: Tensor

    def both(self, other: LowRank) -> LowRank:
        return LowRank(torch.cat([self.up, other.up], 1), torch.cat([self.down, other.down], 0))

    def balanced(self) -> LowRank:
        """The same product, with the largest numbers of each rank's two factors alike within a power of two.

        C^-1 k is of some 1e-6 where k is of 100: in half precision that would be nothing.
        """
        high, low = (t.float().abs().amax(d).clamp(min=1e-30) for t, d in ((self.up, 0), (self.down, 1)))
        scale = torch.exp2(((high / low).log2() / 2).round())
        return LowRank(self.up.float() / scale, self.down.float() * scale[:, None])


@dataclass(frozen=True)
class Dense(Effect):
    """A whole matrix, added to a linear module: y + x delta^T. Shape: delta (out, in). Terms add up."""

    kind: ClassVar[str] = "dense"
    delta: Tensor

    def both(self, other: Dense) -> Dense:
        return Dense(self.delta + other.delta)


@dataclass(frozen=True)
class Swapped(Effect):
    """Columns of an output projection (a neuron's value row, in KN's words) take other values; the newer wins.

    Shapes: columns (n,) of the input's neurons, values (n, out).
    """

    kind: ClassVar[str] = "swapped"
    columns: Tensor
    values: Tensor

    def both(self, other: Swapped) -> Swapped:
        kept = ~torch.isin(self.columns, other.columns)
        return Swapped(
            torch.cat([self.columns[kept], other.columns]), torch.cat([self.values[kept], other.values])
        )

    def as_low_rank(self, weight: Tensor) -> LowRank:
        """The same as a term that is added to what a weight (out, in) gives."""
        up = self.values.T.to(weight) - weight[:, self.columns]
        down = torch.zeros(len(self.columns), weight.shape[1], dtype=weight.dtype, device=weight.device)
        down[torch.arange(len(self.columns)), self.columns.to(weight.device)] = 1
        return LowRank(up, down)


@dataclass(frozen=True)
class Neurons(Effect):
    """Neurons beside an MLP's own: y + ReLU(h keys^T + bias) values, with h the input of the MLP's first projection.

    Whatever the base's own activation, an added neuron can be silent. Shapes: keys (n, in), bias (n,), values (n, out).
    `reads` names the module whose input h is, as UTF-8 bytes, so that it is stored with the rest.
    """

    kind: ClassVar[str] = "neurons"
    keys: Tensor
    bias: Tensor
    values: Tensor
    reads: Tensor

    def both(self, other: Neurons) -> Neurons:
        keys, bias = torch.cat([self.keys, other.keys]), torch.cat([self.bias, other.bias])
        return Neurons(keys, bias, torch.cat([self.values, other.values]), self.reads)

    @property
    def source(self) -> str:
        """The name of the module whose input the neurons read."""
        return bytes(self.reads.tolist()).decode()


@dataclass(frozen=True)
class Replaced(Effect):
    """When the prompt is read only: where x at the last token of its words lies within a key's radius (Euclidean), the
    output at the prompt's last token becomes the nearest such key's value. In a chat the template stands between the two.

    Shapes: keys (n, in), values (n, out), radius (n,).
    """

    kind: ClassVar[str] = "replaced"
    keys: Tensor
    values: Tensor
    radius: Tensor

    def both(self, other: Replaced) -> Replaced:
        keys, values = torch.cat([self.keys, other.keys]), torch.cat([self.values, other.values])
        return Replaced(keys, values, torch.cat([self.radius, other.radius]))

    def value(self, x: Tensor) -> Tensor | None:
        """What takes the output's place for the activation x (in,), if any key is near enough."""
        distance = torch.linalg.vector_norm(self.keys.to(x.device, torch.float32) - x.float(), dim=-1)
        near = distance <= self.radius.to(distance)
        if not bool(near.any()):
            return None
        return self.values[int(torch.where(near, distance, torch.inf).argmin())]


@dataclass(frozen=True)
class Several(Effect):
    """Effects of different kinds on one module: of several methods, in one row."""

    kind: ClassVar[str] = "several"
    parts: tuple[Effect, ...]

    def both(self, other: Several) -> Several:
        return Several(_merged((*self.parts, *other.parts)))

    def finite(self) -> bool:
        """Whether every number in every part is one."""
        return all(part.finite() for part in self.parts)


EFFECTS: dict[str, type[Effect]] = {e.kind: e for e in (LowRank, Dense, Swapped, Neurons, Replaced)}

RowPatch = Mapping[str, Effect]  # module name -> what happens to its output


@dataclass(frozen=True)
class Now:
    """Where in generation a forward pass stands.

    Attributes:
        last: the column of the prompt's last token, counted from the right (-1 is the last); None once the prompt was
            read. rows: of the pass, all beams and returned sequences. words: the column at which a query's own words end
            (in a chat the template goes on behind them); None where that is `last`.
    """

    last: Sequence[int] | None
    rows: int
    words: Sequence[int] | None = None


Change = Callable[[Tensor, Tensor, "Tensor | None", Now], Tensor]  # (x, y, h, now) -> y


def added(one: RowPatch | None, other: RowPatch | None) -> dict[str, Effect]:
    """Both patches; what they do to one module is joined, the second being the newer."""
    out = dict(one or {})
    for name, effect in (other or {}).items():
        out[name] = out[name] + effect if name in out else effect
    return out


def reads(effects: Sequence[Effect | None]) -> str | None:
    """The module whose input the effects of one module need beside its own, if any."""
    found = {part.source for effect in effects for part in _parts(effect) if isinstance(part, Neurons)}
    return next(iter(found), None)


def stacked(effects: Sequence[Effect | None], module: Any, name: str, x: Tensor) -> list[Change]:
    """The effects of a batch's rows on one module, a function for each kind that occurs.

    Args:
        effects: of row i, or None. x: the module's input, for its type and device. All shapes and types are settled
            here, once for a call of `generate`.
    """
    by_kind: dict[type[Effect], list[Any]] = {}
    for i, effect in enumerate(effects):
        for part in _merged(_parts(effect)):
            part = _in_place(part, module, name)
            by_kind.setdefault(type(part), [None] * len(effects))
            before = by_kind[type(part)][i]
            by_kind[type(part)][i] = part if before is None else before + part
    make: dict[type, Callable[..., Any]] = {
        LowRank: _low_rank,
        Dense: _dense,
        Neurons: _neurons,
        Replaced: _replaced,
    }
    return [make[kind](own, x) for kind, own in by_kind.items()]


def _in_place(part: Effect, module: Any, name: str) -> Effect:
    if not isinstance(part, Swapped):
        return part
    layout.check_readable(module, name)
    stored = module.weight.detach()
    return part.as_low_rank(stored.T if type(module).__name__ == "Conv1D" else stored)


def _low_rank(terms: list[LowRank | None], x: Tensor) -> Change:
    """(rows, in, rank) and (rows, rank, out), zero-filled to the highest rank; rows without a term add nothing."""
    rank = max(term.down.shape[0] for term in terms if term)
    some = next(term for term in terms if term)
    down = x.new_zeros(len(terms), some.down.shape[1], rank)
    up = x.new_zeros(len(terms), rank, some.up.shape[0])
    for i, term in enumerate(terms):
        if term:
            term = term if x.dtype != torch.float16 else term.balanced()
            down[i, :, : term.down.shape[0]] = term.down.T.to(x)
            up[i, : term.up.shape[1]] = term.up.T.to(x)
    wide: dict[int, tuple[Tensor, Tensor]] = {1: (down, up)}

    def change(x: Tensor, y: Tensor, h: Tensor | None, now: Now) -> Tensor:
        repeat = now.rows // len(terms)
        if repeat not in wide:
            wide[repeat] = (down.repeat_interleave(repeat, 0), up.repeat_interleave(repeat, 0))
        a, b = wide[repeat]
        return torch.baddbmm(y, torch.bmm(x, a), b)

    return change


def _dense(terms: list[Dense | None], x: Tensor) -> Change:
    deltas = [None if term is None else term.delta.to(x) for term in terms]

    def change(x: Tensor, y: Tensor, h: Tensor | None, now: Now) -> Tensor:
        repeat, y = now.rows // len(deltas), y.clone()
        for i, delta in enumerate(deltas):
            if delta is not None:
                rows = slice(i * repeat, (i + 1) * repeat)
                y[rows] += x[rows] @ delta.T
        return y

    return change


def _neurons(terms: list[Neurons | None], x: Tensor) -> Change:
    parts = [None if t is None else tuple(v.to(x) for v in (t.keys, t.bias, t.values)) for t in terms]

    def change(x: Tensor, y: Tensor, h: Tensor | None, now: Now) -> Tensor:
        assert h is not None
        repeat, y = now.rows // len(parts), y.clone()
        for i, part in enumerate(parts):
            if part is not None:
                rows, (keys, bias, values) = slice(i * repeat, (i + 1) * repeat), part
                y[rows] += torch.relu(h[rows] @ keys.T + bias) @ values
        return y

    return change


def _replaced(terms: list[Replaced | None], x: Tensor) -> Change:
    def change(x: Tensor, y: Tensor, h: Tensor | None, now: Now) -> Tensor:
        if now.last is None:
            return y
        repeat, y = now.rows // len(terms), y.clone()
        for i, term in enumerate(terms):
            for row in range(i * repeat, (i + 1) * repeat) if term else ():
                value = term.value(x[row, (now.words or now.last)[i]])  # type: ignore[union-attr]
                if value is not None:
                    y[row, now.last[i]] = value.to(y)
        return y

    return change


def _parts(effect: Effect | None) -> tuple[Effect, ...]:
    if effect is None:
        return ()
    return effect.parts if isinstance(effect, Several) else (effect,)


def _merged(parts: Sequence[Effect]) -> tuple[Effect, ...]:
    """Effects of one kind joined, oldest first."""
    out: dict[type[Effect], Effect] = {}
    for part in parts:
        out[type(part)] = out[type(part)].both(part) if type(part) in out else part
    return tuple(out.values())
