"""Causal tracing: which states of a model carry a fact.

Reference: Meng et al., "Locating and Editing Factual Associations in GPT", arXiv 2202.05262, section 2.

Three runs over one prompt, of n layers, with the probability P of an answer:

    clean        as it is: P
    corrupted    the embeddings of the subject's tokens + e,  e ~ N(0, (3 sigma)^2 I):  P*
    restored     corrupted, with one state put back to what it was when clean:  P*(layer, token)

The indirect effect of a state is P*(layer, token) - P*, a mean over samples of e. A state is a block's output (hidden), or
the outputs of the MLPs, or of attention, of a window of layers around one (10 of 48 in the paper).

sigma is the standard deviation of the embeddings of a text's tokens. P is the product of the answer's token
probabilities, each given those before it; the paper's answers are one token. All mentions of the subject are corrupted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from memedit.errors import MethodError
from memedit.layout import Layout
from memedit.methods._attribution import logprobs, prompt_and_target
from memedit.methods._locate import subject_of
from memedit.methods._moments import TEXT
from memedit.methods._watch import Hook, kept_beside, watched
from memedit.texts import shortened

if TYPE_CHECKING:
    from memedit.edit import Edit
    from memedit.lm import HFModel

KINDS = ("hidden", "mlp", "attention")
ROLES = ("first of the subject", "in the subject", "last of the subject", "first after it", "further", "last")
_AT_ONCE = 64  # rows of one forward pass
_LINES = 200  # of the text whose embeddings' deviation is taken

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Traced:
    """What causal tracing found for one prompt, or on average for several.

    Attributes:
        prompt, subject, answer: of the fact. labels: of the columns: the prompt's tokens, or `ROLES`.
        inside: the columns of the subject. clean, corrupted: P and P*.
        effects: of each kind, (layers, columns): the indirect effects; NaN where no prompt has such a column.
        noise: of the embeddings, in their own units. samples: of noise. window: layers, for MLP and attention.
    """

    prompt: str
    subject: str
    answer: str
    labels: tuple[str, ...]
    inside: tuple[int, ...]
    clean: float
    corrupted: float
    effects: dict[str, np.ndarray]
    noise: float
    samples: int
    window: int

    def strongest(self, kind: str) -> tuple[int, int, float]:
        """(layer, column, effect) where it is largest."""
        effects = self.effects[kind]
        layer, column = np.unravel_index(int(np.nanargmax(effects)), effects.shape)
        return int(layer), int(column), float(effects[layer, column])

    def strongest_of(self, kind: str, layer: int) -> tuple[int, float]:
        """(column, effect) of one layer where it is largest."""
        row = self.effects[kind][layer]
        column = int(np.nanargmax(row))
        return column, float(row[column])

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; effects rounded, layer by layer."""
        out: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("prompt", "subject", "answer", "clean", "corrupted", "noise", "samples", "window")
        }
        out |= {"tokens": list(self.labels), "subject_tokens": list(self.inside)}
        out["effects"] = {
            kind: [[None if np.isnan(v) else round(float(v), 6) for v in row] for row in found]
            for kind, found in self.effects.items()
        }
        return out


def trace(
    base: HFModel,
    edit: Edit,
    answer: str,
    *,
    kinds: Sequence[str] = KINDS,
    samples: int = 10,
    times: float = 3.0,
    window: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Traced:
    """Trace one fact: the prompt and subject of an edit, and the answer whose probability is followed.

    Args:
        samples: of noise. times: sigma of the noise. window: layers; None takes 10 of every 48, at least one.
        progress: called with (done, all) restored states.

    Raises:
        MethodError: no subject that can be found, or a prompt that ends in it. ModelError: a model without blocks, or a
            prompt that is too long.
    """
    layout, subject = Layout.of(base.model), subject_of(edit)
    prompt = edit.prompt or ""
    ids, gold = prompt_and_target(base, prompt, answer)
    inside = _spanned(base, prompt, subject, ids)
    columns, layers = len(ids), len(layout)
    whole = torch.tensor([ids + gold], device=base.device)
    width = max(1, round(layers * 10 / 48)) if window is None else window
    names = {
        "hidden": [b.name for b in layout.blocks],
        "mlp": [b.mlp_out for b in layout.blocks],
        "attention": [b.attention_out for b in layout.blocks],
    }
    clean, states = _clean(base, whole, len(gold), [name for kind in kinds for name in names[kind]])
    sigma = _deviation(base, layout.embedding)
    generator = torch.Generator().manual_seed(seed)
    wide = base.model.get_input_embeddings().weight.shape[1]
    noise = torch.randn(samples, len(inside), wide, generator=generator) * (times * sigma)
    run = _Run(base, layout.embedding, whole, len(gold), inside, noise.to(base.device), states)
    (corrupted,) = run.restored([((), 0)])
    effects, done, total = {}, 0, len(kinds) * layers
    for kind in kinds:
        found = np.zeros((layers, columns))
        for layer in range(layers):
            around = _window(layer, 1 if kind == "hidden" else width, layers)
            modules = tuple(names[kind][i] for i in around)
            found[layer] = run.restored([(modules, column) for column in range(columns)])
            done += 1
            if progress is not None:
                progress(done, total)
        effects[kind] = found - corrupted
    tokens = tuple(base.tokenizer.decode([token]) for token in ids)
    return Traced(
        prompt, subject, answer, tokens, tuple(inside), clean, float(corrupted), effects,
        times * sigma, samples, width,
    )  # fmt: skip


def averaged(found: Sequence[Traced]) -> Traced:
    """Several tracings as one, over what tokens are to their prompts: in the subject, after it, last (the paper's figure 2)."""
    effects = {}
    for kind in found[0].effects:
        parts = np.stack([_by_role(one, kind) for one in found])
        seen = (~np.isnan(parts)).sum(0)
        effects[kind] = np.where(seen > 0, np.nansum(parts, 0) / np.maximum(seen, 1), np.nan)
    first = found[0]
    return Traced(
        f"{len(found)} facts", "", "", ROLES, (0, 1, 2), float(np.mean([one.clean for one in found])),
        float(np.mean([one.corrupted for one in found])), effects, first.noise, first.samples, first.window,
    )  # fmt: skip


def _by_role(one: Traced, kind: str) -> np.ndarray:
    """(layers, roles): means over the tokens of each role; NaN where there is none."""
    last, end, start = len(one.labels) - 1, max(one.inside), min(one.inside)
    where: list[list[int]] = [[] for _ in ROLES]
    for column in range(len(one.labels)):
        if column == end:
            where[2].append(column)
        elif column == start:
            where[0].append(column)
        elif column in one.inside:
            where[1].append(column)
        elif column == last:
            where[5].append(column)
        elif column == end + 1:
            where[3].append(column)
        elif column > end:
            where[4].append(column)
    effects = one.effects[kind]
    rows = [effects[:, w].mean(1) if w else np.full(len(effects), np.nan) for w in where]
    return np.stack(rows, 1)


class _Run:
    """Corrupted runs of one prompt, in which states are given back."""

    def __init__(
        self,
        base: HFModel,
        embedding: str,
        whole: Tensor,
        length: int,
        inside: Sequence[int],
        noise: Tensor,
        states: dict[str, Tensor],
    ) -> None:
        self.base, self.embedding, self.whole, self.length = base, embedding, whole, length
        self.inside, self.noise, self.states = list(inside), noise, states

    def restored(self, wanted: Sequence[tuple[tuple[str, ...], int]]) -> np.ndarray:
        """Mean P over noise, with the clean outputs of some modules put back at a column; one value for each wanted pair.

        Args:
            wanted: (modules, column); the modules must be the same in all.
        """
        samples = len(self.noise)
        rows = [(column, sample) for _, column in wanted for sample in range(samples)]
        modules, out = wanted[0][0], []
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            columns = torch.tensor([column for column, _ in some], device=self.whole.device)
            noise = self.noise[[sample for _, sample in some]]
            hooks: dict[str, Hook] = {name: self._put_back(name, columns) for name in modules}
            hooks[self.embedding] = self._corrupt(noise)
            with torch.no_grad(), watched(self.base, hooks):
                out.append(logprobs(self.base, self.whole.expand(len(some), -1), self.length).sum(1).exp())
        return torch.cat(out).view(len(wanted), samples).mean(1).double().cpu().numpy()

    def _corrupt(self, noise: Tensor) -> Hook:
        def hook(args: tuple[Any, ...], output: Tensor) -> Tensor:
            wide = output.clone()
            wide[:, self.inside] += noise.to(wide)
            return wide

        return hook

    def _put_back(self, name: str, columns: Tensor) -> Hook:
        def hook(args: tuple[Any, ...], output: Tensor) -> Tensor:
            wide = output.reshape(len(columns), -1, output.shape[-1]).clone()  # OPT runs all rows as one
            wide[torch.arange(len(columns)), columns] = self.states[name][columns]
            return wide.reshape(output.shape)

        return hook


def _clean(
    base: HFModel, whole: Tensor, length: int, names: Sequence[str]
) -> tuple[float, dict[str, Tensor]]:
    """P, and what modules give at each token (tokens, width)."""
    states: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        def hook(args: tuple[Any, ...], output: Tensor) -> None:
            states[name] = output.reshape(-1, output.shape[-1]).clone()

        return hook

    with torch.no_grad(), watched(base, {name: keep(name) for name in names}):
        return float(logprobs(base, whole, length).sum().exp()), states


def _window(layer: int, width: int, layers: int) -> range:
    """So many layers around one, fewer at the ends."""
    first = layer - (width - 1) // 2
    return range(max(0, first), min(layers, first + width))


def _spanned(base: HFModel, prompt: str, subject: str, ids: Sequence[int]) -> list[int]:
    """The columns of every mention of the subject in a prompt's ids.

    Raises:
        MethodError: the prompt ends in its subject: no state after it could be looked at.
    """
    mentions = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt)]
    if not mentions:
        at = prompt.rfind(subject)
        mentions = [(at, at + len(subject))]
    inside: list[int] = []
    with base.tokenizing:
        if base.tokenizer.is_fast:
            places = base.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
            inside = [
                i
                for i, (a, b) in enumerate(places)
                if b > a and any(a < end and b > start for start, end in mentions)
            ]
        else:
            for start, end in mentions:
                before = len(base.tokenizer(prompt[:start].rstrip())["input_ids"]) if start else 0
                inside += range(before, len(base.tokenizer(prompt[:end])["input_ids"]))
    if not inside or inside[-1] == len(ids) - 1:
        raise MethodError(
            f"{shortened(prompt, 60)!r} ends in its subject {subject!r}, so that nothing after it can be told apart; "
            "give a prompt that goes on after the subject"
        )
    return inside


def _deviation(base: HFModel, embedding: str) -> float:
    """The standard deviation of the embeddings of a text's tokens."""
    kept = kept_beside(base)
    if "deviation" not in kept:
        lines = TEXT.read_text(encoding="utf-8").splitlines()[:_LINES]
        with base.tokenizing:
            ids = sorted({token for row in base.tokenizer(lines)["input_ids"] for token in row})
        with torch.no_grad():
            found = base.model.get_submodule(embedding)(torch.tensor([ids], device=base.device))
        kept["deviation"] = float(found.float().std())
    return float(kept["deviation"])
