"""LoRA and AdaLoRA: low-rank factors beside frozen projections, trained on the edit with `peft`.

References: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, section 4.1; Zhang et al.,
"AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", arXiv 2303.10512, section 3.

With W (out, in) a projection, A (r, in) drawn from a Gaussian and B (out, r) zero at the start:

    h = W x + (alpha / r) B A x,   A, B = argmin  - mean over the target's tokens of log P(token | prompt, target so far)

by Adam, of all chosen projections at once: the query's and the value's in every layer in the paper, or the fused one where
a model has no others.

AdaLoRA writes the change as a product with singular values of their own, E (r', 1), r' = 1.5 r, and drops the least important
of all modules on the way, by a cubic schedule, until r are left for a module on average:

    h = W x + (alpha / r') B (E * A) x,   loss + orth * mean over factors of |A A^T - I|, |B^T B - I|  (Frobenius)

`peft` makes, places, scales and prunes the factors; it does so in a tree of modules of its own over the same weights
(_twin.py), so that the base, which other threads may be asking, never has another layer in it.

Patch: up = (alpha / r) B (out, r), down = A (r, in) on each of them: exactly what an adapter file holds. Of AdaLoRA's, E
is in down, and what was dropped is left out.
Needs: prompt and target; `peft` to train, not to apply. Reads activations and gradients, no weights: quantised layers will do.
Relations: `ft-m` trains a whole matrix of one MLP with the same loss; `rome` finds rank one in closed form.

Example:
    >>> load_method("lora", rank=8, where="mlp")                                    # doctest: +SKIP
    >>> load_method("lora", kind="adalora")                                         # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from memedit.edit import Edit
from memedit.errors import MethodError
from memedit.layout import Block, Layout
from memedit.lm import seeded
from memedit.methods._effects import LowRank
from memedit.methods._locate import Asked, ask
from memedit.methods._train import per_token, trained
from memedit.methods._twin import twin
from memedit.methods.patched import PatchMethod, Solved

if TYPE_CHECKING:
    from memedit.lm import HFModel

WHERE = ("attention", "mlp")
KINDS = ("lora", "adalora")
ADAPTER = "edit"  # what the factors are called inside `peft`
_MORE = 1.5  # AdaLoRA's rank at the start, of that at the end
_BEFORE, _AFTER = 0.2, 0.3  # of AdaLoRA's steps: those before the first rank is dropped, and after the last


@dataclass(frozen=True)
class LoRASettings:
    """The paper's, for GPT-2 (its appendix D); it trains for epochs of a data set, so `steps` for one edit is ours.

    Attributes:
        kind: "lora" or "adalora". layer: from 0, this one alone; None takes all. where: "attention" (the query's and
            value's projections) or "mlp" (its output's). rank, alpha: r and alpha. steps, lr: of Adam. enough: a loss at
            which LoRA's training ends; AdaLoRA's goes through all steps.
        ada_lr: the rate of AdaLoRA, whose three small factors are slower. orth: weight of its regulariser. seed: of the
            factors.
    """

    kind: str = "lora"
    layer: int | None = None
    where: str = "attention"
    rank: int = 4
    alpha: float = 32.0
    steps: int = 50
    lr: float = 2e-4
    enough: float = 0.01
    ada_lr: float = 1e-3
    orth: float = 0.5
    seed: int = 0


class LoRA(PatchMethod):
    """Low-rank factors, trained on the edit."""

    name = "lora"
    Settings = LoRASettings
    version = 2  # by `peft`

    def solve(self, base: HFModel, edit: Edit, settings: LoRASettings) -> Solved:
        """A and B of the module's equation."""
        check_choices(settings)
        blocks = Layout.of(base.model).blocks
        if settings.layer is not None:
            blocks = (blocks[self.layer(base, settings.layer, 0.0)],)
        names = [name for block in blocks for name in projections(block, settings.where)]
        asked = ask(base, edit, essence=False)
        student = twin(base)
        train = adaptive if settings.kind == "adalora" else plain
        loss, steps = train(student, edit, asked, names, settings)
        modules = {}
        for name in names:
            term = factors(student.model.get_submodule(name))
            if len(term.down):
                modules[name] = term
        rank = sum(len(term.down) for term in modules.values())
        return Solved(modules, {"modules": " ".join(modules), "rank": rank, "loss": loss, "steps": steps})


def plain(
    student: HFModel, edit: Edit, asked: Asked, names: Sequence[str], settings: LoRASettings
) -> tuple[float, int]:
    """Train LoRA's factors in a twin of the base: the loss reached, and the steps taken."""
    make = library().LoraConfig
    injected(student, make, names, settings, r=settings.rank)
    generator = torch.Generator().manual_seed(settings.seed)
    for name in names:  # the paper's Gaussian; `peft` draws evenly from a narrower range
        a = student.model.get_submodule(name).lora_A[ADAPTER].weight
        a.copy_(torch.randn(a.shape, generator=generator) * a.shape[1] ** -0.5)
    return trained(student, edit, asked, {}, _parts(student), settings, name=LoRA.name)


def adaptive(
    student: HFModel, edit: Edit, asked: Asked, names: Sequence[str], settings: LoRASettings
) -> tuple[float, int]:
    """Train AdaLoRA's factors, and drop ranks on the way: the loss reached (without the regulariser), and the steps taken."""
    steps, make = settings.steps, library().AdaLoraConfig
    ranks = {"target_r": settings.rank, "init_r": max(settings.rank + 1, round(_MORE * settings.rank))}
    # The schedule must leave a step to drop ranks in.
    times = {
        "total_step": steps,
        "tinit": min(int(_BEFORE * steps), max(0, steps - 2)),
        "tfinal": int(_AFTER * steps),
    }
    model = injected(student, make, names, settings, **ranks, **times, orth_reg_weight=settings.orth)
    parts, done, reached = _parts(student), 0, [0.0]
    square = [p for n, p in student.model.named_parameters() if "lora_A" in n or "lora_B" in n]

    def loss(asked: Asked, logits: Tensor) -> Tensor:
        said = per_token(asked, logits)
        reached[0] = float(said.detach())
        return said + settings.orth * torch.stack([_skew(p) for p in square]).mean()

    def allocate() -> None:
        nonlocal done
        done += 1
        model.base_model.update_and_allocate(done)

    how = dataclasses.replace(settings, lr=settings.ada_lr, enough=float("-inf"))
    _, taken = trained(student, edit, asked, {}, parts, how, name=LoRA.name, loss=loss, after=allocate)
    return reached[0], taken


def _skew(factor: Tensor) -> Tensor:
    """How far a factor's rows (or columns, if those are fewer) are from orthonormal, squared off: |F F^T - I|."""
    narrow = factor if factor.shape[0] < factor.shape[1] else factor.T
    return torch.linalg.matrix_norm(narrow @ narrow.T - torch.eye(len(narrow)).to(narrow))


def injected(
    student: HFModel, make: Callable[..., Any], names: Sequence[str], settings: LoRASettings, **more: Any
) -> Any:
    """`peft`'s model around a twin, with factors of its own beside the named modules.

    Raises:
        MethodError: a layer of a kind that it does not know.
    """
    stored = {type(student.model.get_submodule(name)).__name__ for name in names}
    config = make(
        target_modules=list(names), lora_alpha=settings.alpha, fan_in_fan_out="Conv1D" in stored, **more
    )
    try:
        with seeded(settings.seed), torch.enable_grad():
            return library().get_peft_model(student.model, config, adapter_name=ADAPTER).eval()
    except ValueError as error:
        raise MethodError(
            f"peft puts no factors beside {', '.join(sorted(stored))}: {str(error).splitlines()[0]}"
        ) from error


def factors(layer: Any) -> LowRank:
    """What a layer of `peft`'s adds: up @ down, its scale in up; of AdaLoRA the ranks that were left."""
    a, b = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    scale = float(layer.scaling[ADAPTER])
    if not hasattr(layer, "lora_E"):
        return LowRank(scale * b.weight.detach().float().cpu(), a.weight.detach().float().cpu())
    e = layer.lora_E[ADAPTER].detach().float().cpu()
    left = e[:, 0] != 0
    scale /= float(layer.ranknum[ADAPTER]) + 1e-5
    up, down = b.detach().float().cpu(), e * a.detach().float().cpu()
    return LowRank((scale * up)[:, left].contiguous(), down[left].contiguous())


def library() -> Any:
    """The package `peft`.

    Raises:
        MethodError: it is not installed.
    """
    import logging
    import warnings

    logging.getLogger("bitsandbytes").setLevel(
        logging.ERROR
    )  # peft imports it where it is there; it lists its wishes
    # Of peft's own reading of a model's attributes; nobody who edits can do anything about it.
    warnings.filterwarnings("ignore", message=".is_gradient_checkpointing", category=FutureWarning)
    try:
        import peft
    except ImportError as error:
        raise MethodError(
            'lora is trained by the package peft, which is not installed: pip install "memedit[peft]", or use --method ft-m'
        ) from error
    return peft


def check_choices(settings: LoRASettings) -> None:
    """Refuse what can't be a setting.

    Raises:
        MethodError: names the setting.
    """
    for name, known in (("kind", KINDS), ("where", WHERE)):
        if getattr(settings, name) not in known:
            raise MethodError(
                f"lora.{name} is {getattr(settings, name)!r}; it must be one of {', '.join(known)}"
            )


def _parts(student: HFModel) -> list[Tensor]:
    return [p for p in student.model.parameters() if p.requires_grad]


def projections(block: Block, where: str) -> tuple[str, ...]:
    """The modules of a layer that get factors: query and value, known by their first letter, else attention's input."""
    if where == "mlp":
        return (block.mlp_out,)
    named = tuple(n for n in block.attention_in if n.rpartition(".")[2].lower()[:1] in ("q", "v"))
    return named if len(named) == 2 else block.attention_in
