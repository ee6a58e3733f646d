"""Knowledge neurons: how much each neuron of an MLP has to do with an answer, by integrated gradients.

Reference: Dai et al., "Knowledge Neurons in Pretrained Transformers", arXiv 2104.08696, section 3.

A neuron is one input of an MLP's output projection (its activation, after a gate where there is one). With w (m,) what the
neurons of layer l hold while x is read, and P(a) the probability of the answer when they hold a w in its place:

    Attr(w_i) = w_i * integral over a from 0 to 1 of dP/dw_i (a w)
              ~ w_i / n * sum over k = 1..n of dP/dw_i (k/n w)             (the paper's equations 2 and 3, n = 20)

All neurons of one layer are scaled at once, so that the layer's attributions sum to P(1) - P(0), but for the sum's error.

The paper reads a masked model, where the answer is one token in the mask's place. A causal model has it after the prompt:
neurons are scaled at the columns that each predict a token of the target (the prompt's last, the target's but for its
last), P is the mean of the target's token probabilities given the tokens before them, and columns are summed.

Shapes: l layers, m neurons of an MLP; rows of a batch are steps k.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from memedit.errors import MethodError, ModelError
from memedit.layout import Layout
from memedit.methods._watch import gradients
from memedit.texts import shortened, too_long

if TYPE_CHECKING:
    from memedit.lm import HFModel

AT_ONCE = 20  # steps of one batch

Progress = Callable[[int, int], None]


class Neuron(NamedTuple):
    """One neuron: its layer and its number in it, both from 0, and its attribution (a mean over prompts)."""

    layer: int
    number: int
    attribution: float


def attributions(
    base: HFModel,
    prompt: str,
    target: str,
    layers: int | Sequence[int] | None = None,
    steps: int = 20,
    progress: Progress | None = None,
) -> Tensor:
    """Attributions of the neurons of some layers to a target after a prompt: (layers, neurons), float32, on the CPU.

    Args:
        layers: numbers from 0, or one of them; None takes all. steps: n of the sum.
        progress: called with (layers done, layers).

    Raises:
        MethodError: no such layer, no step, or attributions that are no numbers.
        ModelError: a target without a token, or more tokens than the model takes.
    """
    blocks = Layout.of(base.model).blocks
    wanted = (
        list(range(len(blocks))) if layers is None else [layers] if isinstance(layers, int) else list(layers)
    )
    for layer in wanted:
        if not 0 <= layer < len(blocks):
            raise MethodError(f"the model has layers 0 to {len(blocks) - 1}; there is no layer {layer}")
    if steps < 1:
        raise MethodError(f"steps is {steps}; the integral needs at least one step")
    base.check_mode()
    ids, length = _ids(base, prompt, target)
    out = []
    for done, layer in enumerate(wanted):
        # Whoever calls may be in inference mode, whose tensors no gradient can go through.
        with torch.inference_mode(False), torch.enable_grad():
            found = _of_layer(base, blocks[layer].mlp_out, ids.clone(), length, steps)
        if not bool(found.isfinite().all()):
            raise MethodError(
                f"the attributions of layer {layer} for {shortened(prompt, 60)!r} are no numbers: load the model in float32"
            )
        out.append(found)
        if progress is not None:
            progress(done + 1, len(wanted))
    return torch.stack(out)


def said_with(base: HFModel, prompt: str, target: str, layer: int, scale: float) -> float:
    """P(scale): the mean probability of the target's tokens with one layer's neurons times `scale` at their columns.

    Raises:
        ModelError: as `attributions`.
    """
    ids, length = _ids(base, prompt, target)
    name = Layout.of(base.model).blocks[layer].mlp_out

    def feed(x: Tensor) -> Tensor:
        wide = x.reshape(1, -1, x.shape[-1]).clone()
        wide[:, -length - 1 : -1] *= scale
        return wide.reshape(x.shape)

    with torch.no_grad(), _fed(base, name, feed):
        return float(logprobs(base, ids, length).exp().mean())


def knowledge_neurons(
    found: Sequence[Tensor], layers: Sequence[int] | None = None, *, t: float = 0.2, p: float = 0.7
) -> list[Neuron]:
    """The neurons that stand out for most of several prompts of one fact (the paper's section 3.3), strongest first.

    Args:
        found: attributions (layers, neurons), one for each prompt. layers: their numbers; None counts from 0.
        t: share of a prompt's highest attribution that a neuron must exceed. p: share of prompts in which it must.
    """
    passed = torch.stack([one > t * one.max() for one in found]).float().mean(0)
    mean = torch.stack(list(found)).mean(0)
    kept = [(int(row), int(i)) for row, i in (passed >= p - 1e-6).nonzero().tolist()]
    numbers = list(range(mean.shape[0])) if layers is None else list(layers)
    neurons = [Neuron(numbers[row], i, float(mean[row, i])) for row, i in kept if mean[row, i] > 0]
    return sorted(neurons, key=lambda n: -n.attribution)


def _ids(base: HFModel, prompt: str, target: str) -> tuple[Tensor, int]:
    """(1, length) ids of prompt and target, and how many are the target's."""
    own, gold = prompt_and_target(base, prompt, target)
    return torch.tensor([own + gold], device=base.device), len(gold)


def _of_layer(base: HFModel, name: str, ids: Tensor, length: int, steps: int) -> Tensor:
    """(neurons,) of one output projection."""
    total: Tensor | None = None
    for first in range(1, steps + 1, AT_ONCE):
        some = torch.arange(first, min(first + AT_ONCE, steps + 1), device=ids.device)
        rows = len(some)
        held: list[Tensor] = []  # w (length, neurons), and the scaled (rows, length, neurons)

        def feed(x: Tensor, some: Tensor = some, rows: int = rows, held: list[Tensor] = held) -> Tensor:
            wide = x.reshape(rows, -1, x.shape[-1])
            own = wide[0, -length - 1 : -1].detach()
            scaled = (own[None] * (some.to(own)[:, None, None] / steps)).requires_grad_()
            held[:] = [own, scaled]
            return torch.cat([wide[:, : -length - 1].detach(), scaled, wide[:, -1:].detach()], 1).reshape(
                x.shape
            )

        with _fed(base, name, feed):
            said = logprobs(base, ids.expand(rows, -1), length).exp().mean(1).sum()
        (slope,) = gradients(said, [held[1]])
        part = (slope.float().sum(0) * held[0].float()).sum(0) / steps
        total = part if total is None else total + part
    assert total is not None
    return total.cpu()


def logprobs(base: HFModel, ids: Tensor, length: int) -> Tensor:
    """(rows, length) log-probabilities of the last `length` of some ids (rows, columns), each given all before it."""
    mask = torch.ones_like(ids)
    logits = base.model(input_ids=ids, attention_mask=mask, use_cache=False, **base.positions(mask)).logits
    said = torch.log_softmax(logits[:, -length - 1 : -1].float(), -1)
    return said.gather(2, ids[:, -length:, None])[..., 0]


def prompt_and_target(base: HFModel, prompt: str, target: str) -> tuple[list[int], list[int]]:
    """The ids of a prompt and of a target that goes on after it.

    Raises:
        ModelError: one of them is empty, or together they are more than the model takes.
    """
    if not target.strip():
        raise ModelError("the target is empty; give at least one word")
    gold = base.target_ids(prompt, target)
    with base.tokenizing:
        own = list(base.tokenizer(prompt)["input_ids"])
    if not own:
        raise ModelError("the prompt is empty; give at least one word")
    limit = base.context_length
    if limit is not None and len(own) + len(gold) > limit:
        raise ModelError(too_long(prompt, len(own), len(gold), limit))
    return own, gold


@contextmanager
def _fed(base: HFModel, name: str, feed: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """A linear module that is given `feed` of its input, in this thread's passes."""
    me = threading.get_ident()

    def before(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (feed(args[0]), *args[1:]) if threading.get_ident() == me else None

    handle = base.model.get_submodule(name).register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()
