"""T-Patcher: one neuron in the last MLP for each token that must come out otherwise.

Reference: Huang et al., "Transformer-Patcher: One Mistake worth One Neuron", arXiv 2301.09785, section 3.

Beside the last MLP, with x (d,) what its first projection reads, stand n neurons, one for each token of the target:

    MLP'(x) = MLP(x) + sum_j relu(k_j x + b_j) v_j                                (equation 5; the base's own activation there)

With q_j the x from which token j must come, M random queries of other texts, and S(.) the mean of the highest `top` of
exp(.), they are trained together (equations 7 to 10) on

    l   = l_e + a l_a + m (l_m1 + l_m2)
    l_e = - sum over the target's tokens of log P(token | prompt, target so far)
    l_a = mean over j of exp(-(k_j q_j + b_j))                                       neuron j wakes for its own query
    l_m1 = S(k_j M + b_j - beta),   l_m2 = S(k_j (M - q_j) - gamma)                  and sleeps, by a margin, for others

from k_j = q_j / |q_j|^2, b_j = 0 and a random v_j. A relu sleeps entirely: where k_j x + b_j <= 0 the output is the base's, bit
for bit. The last MLP's output is seen by no other position, so each token needs its own neuron; with all of them trained to
have a sum below ln 2, greedy generation must take the whole target.

Patch: `Neurons` on the last `mlp_out`: keys (n, d), bias (n,), values (n, d), and which module's input they read.
Needs: prompt and target. Reads activations and gradients, no weights: quantised layers will do.
Relations: `grace` replaces an output within a distance of one key, for all tokens of the target at once; here the reach is a
trained half-space, on every token.

Example:
    >>> load_method("t-patcher", m=10.0)                                            # doctest: +SKIP
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from memedit.edit import Edit
from memedit.layout import Layout
from memedit.methods._effects import Neurons
from memedit.methods._locate import Asked, ask, right_padded
from memedit.methods._moments import TEXT
from memedit.methods._train import seen, trained
from memedit.methods._watch import kept_beside, watched
from memedit.methods.patched import PatchMethod, Solved

if TYPE_CHECKING:
    from memedit.lm import HFModel


@dataclass(frozen=True)
class TPatcherSettings:
    """The paper's, as its authors run it.

    Attributes:
        layer: from 0; None takes the last, as the paper does. a, m: weights of the activation and the memory loss.
        beta, gamma: their margins. top: of S. memory: queries, from sentences that ship. amplify: size of the first v.
        steps, lr: of Adam. enough: a loss at which training ends. seed: of v.
    """

    layer: int | None = None
    a: float = 1.0
    m: float = 5.0
    beta: float = -3.0
    gamma: float = -3.0
    top: int = 1000
    memory: int = 40_000
    amplify: float = 10.0
    steps: int = 2000
    lr: float = 1e-2
    enough: float = 0.1
    seed: int = 0


class TPatcher(PatchMethod):
    """Neurons beside the last MLP, each for one token."""

    name = "t-patcher"
    Settings = TPatcherSettings
    low_rank = False
    # An edit in a second on one core: 20 to 30 steps at this rate. Below ln 2 in all, the target is said token by token.
    small: ClassVar[dict[str, Any]] = {"memory": 2000, "top": 100, "steps": 100, "lr": 0.05, "enough": 0.5}

    def solve(self, base: HFModel, edit: Edit, settings: TPatcherSettings) -> Solved:
        """The edit's neurons; see the module's equations."""
        block = Layout.of(base.model).blocks[self.layer(base, settings.layer, 1.0)]
        source, module = block.mlp_in[0], block.mlp_out
        asked = ask(base, edit, essence=False)
        found = seen(base, asked, [source, module])
        n, end = len(asked.target), int(asked.ends[0])
        queries = found[source][0][0, end : end + n].detach().float()  # (n, d)
        generator = torch.Generator().manual_seed(settings.seed)
        values = torch.randn(n, found[module][1].shape[-1], generator=generator).to(queries.device)
        keys = (queries / queries.square().sum(-1, keepdim=True)).requires_grad_()
        bias = torch.zeros(n, device=queries.device, requires_grad=True)
        values = (settings.amplify * values / values.shape[-1] ** 0.5).requires_grad_()
        others = memory(base, source, settings.memory)
        read: dict[str, Tensor] = {}

        def keep(args: tuple[Any, ...], output: Tensor) -> None:
            read["x"] = args[0].reshape(*output.shape[:-1], -1)

        def beside(args: tuple[Any, ...], output: Tensor) -> Tensor:
            term = torch.relu(read["x"].float() @ keys.T + bias) @ values
            return output + term.to(output).view(output.shape)

        def loss(asked: Asked, logits: Tensor) -> Tensor:
            said = -asked.said(logits)[0][0].sum()
            return said + kept_apart(keys, bias, queries, others, settings)

        hooks = {source: keep, module: beside}
        reached, steps = trained(
            base, edit, asked, hooks, [keys, bias, values], settings, name=self.name, loss=loss
        )
        name = torch.tensor(list(source.encode()), dtype=torch.uint8)
        k, b, v = (t.detach().float().cpu() for t in (keys, bias, values))
        return Solved(
            {module: Neurons(k, b, v, name)},
            {"module": module, "loss": reached, "steps": steps, "neurons": str(n)},
        )


def kept_apart(keys: Tensor, bias: Tensor, queries: Tensor, others: Tensor, how: TPatcherSettings) -> Tensor:
    """a l_a + m (l_m1 + l_m2), means over the n neurons.

    Shapes: keys (n, d), bias (n,), queries (n, d), others (M, d).
    """
    own = (keys * queries).sum(-1)
    held = others @ keys.T  # (M, n)

    def highest(v: Tensor) -> Tensor:
        return v.topk(min(how.top, len(v)), dim=0).values.exp().mean()

    asleep = highest(held + bias - how.beta) + highest(held - own - how.gamma)
    return how.a * (-(own + bias)).exp().mean() + how.m * asleep


class _Enough(Exception):
    """What lies above the layer that is read need not run."""


def memory(base: HFModel, source: str, most: int, at_once: int = 64) -> Tensor:
    """M (at most `most`, d): what a module reads at the tokens of sentences that ship, in their order; once for a base."""
    kept: dict[tuple[str, int], Tensor] = kept_beside(base).setdefault("t-patcher memory", {})
    if (source, most) in kept:
        return kept[source, most]
    lines = [line.strip() for line in TEXT.read_text(encoding="utf-8").splitlines() if line.strip()]
    found: list[Tensor] = []
    count = 0
    for start in range(0, len(lines), at_once):
        with base.tokenizing:
            rows = [ids[:64] for ids in base.tokenizer(lines[start : start + at_once])["input_ids"] if ids]
        ids, mask = right_padded(rows, int(base.tokenizer.pad_token_id))
        ids, mask = ids.to(base.device), mask.to(base.device)

        def keep(args: tuple[Any, ...], output: Tensor, mask: Tensor = mask) -> None:
            flat = args[0].reshape(-1, args[0].shape[-1])
            found.append(flat[mask.reshape(-1).bool().to(flat.device)].float())
            raise _Enough

        with torch.no_grad(), watched(base, {source: keep}), suppress(_Enough):
            base.model(input_ids=ids, attention_mask=mask, use_cache=False)
        count += len(found[-1])
        if count >= most:
            break
    kept[source, most] = torch.cat(found)[:most]
    return kept[source, most]
