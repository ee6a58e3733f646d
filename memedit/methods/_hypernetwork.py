"""MEND's networks: how the rank-one factors of a gradient become those of an edit; and how they are stored.

Reference: Mitchell et al., "Fast Model Editing at Scale", arXiv 2110.11309, section 3.

For a linear module W (out, in) and a loss L, with u_i (in,) its input and delta_i (out,) the gradient of L in its output at
token i, the gradient is a sum of rank-one terms: dL/dW = sum_i delta_i u_i^T. With z = [u; delta] (in + out,), each entry
of zero mean and unit variance over the training's edits, and s1, o1, s2, o2 of each matrix its own:

    h = z + relu(s1 * (U1 V1 z + b) + o1)                                  (the paper's equation 3)
    [u~; delta~] = h + relu(s2 * U2 V2 h + o2)
    W~ = W - alpha sum_i delta~_i u~_i^T                                   alpha: a learned rate of each matrix

U1, U2 (in + out, r) begin at zero and V1, V2 (r, in + out) at random, so that training begins with the gradient itself;
matrices of one shape share U, V and b.

A folder holds ``editor.json`` (the modules, the rank, a hash of the weights that they edit) and ``editor.safetensors``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memedit import layout
from memedit.errors import ModelError
from memedit.methods._watch import Hook

CONFIG, WEIGHTS, FORMAT = "editor.json", "editor.safetensors", 1
ALPHA = 1e-4  # the paper's first alpha


@dataclass(frozen=True)
class Factors:
    """u (..., tokens, in) and delta (..., tokens, out) of one module; tokens without a gradient are zero in both."""

    u: Tensor
    delta: Tensor


class SameShape(nn.Module):
    """g for all matrices of one shape (out, in): U, V and b shared, scales and offsets of each its own.

    Args:
        width: in + out. rank: r. count: how many matrices.
    """

    def __init__(self, width: int, rank: int, count: int) -> None:
        super().__init__()
        self.u1, self.u2 = (nn.Parameter(torch.zeros(width, rank)) for _ in range(2))
        self.v1, self.v2 = (nn.Parameter(torch.empty(rank, width)) for _ in range(2))
        for v in (self.v1, self.v2):
            nn.init.xavier_normal_(v)
        self.b = nn.Parameter(torch.zeros(width))
        self.s1, self.s2 = (nn.Parameter(torch.ones(count, width)) for _ in range(2))
        self.o1, self.o2 = (nn.Parameter(torch.zeros(count, width)) for _ in range(2))

    def forward(self, z: Tensor, which: int) -> Tensor:
        """g(z) (..., in + out) for matrix `which`."""
        # Where U is zero still, relu would let no gradient through; clamp does.
        h = z + (self.s1[which] * (z @ self.v1.T @ self.u1.T + self.b) + self.o1[which]).clamp(min=0)
        return h + (self.s2[which] * (h @ self.v2.T @ self.u2.T) + self.o2[which]).clamp(min=0)


class Editor(nn.Module):
    """The trained networks of one base.

    Args:
        shapes: module name -> (out, in), in the order of the layers. rank: r.
        base: what `weights_digest` says of the base; "" for none in particular.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]], rank: int, base: str = "") -> None:
        super().__init__()
        self.shapes, self.rank, self.base = dict(shapes), rank, base
        alike: dict[str, list[str]] = {}
        for name, (high, wide) in self.shapes.items():
            alike.setdefault(f"{high}x{wide}", []).append(name)
        self.place = {name: (shape, i) for shape, some in alike.items() for i, name in enumerate(some)}
        widths = {shape: sum(self.shapes[some[0]]) for shape, some in alike.items()}
        self.networks = nn.ModuleDict(
            {shape: SameShape(widths[shape], rank, len(some)) for shape, some in alike.items()}
        )
        self.alpha = nn.Parameter(torch.full((len(self.shapes),), ALPHA))
        self.mean, self.deviation = nn.ParameterDict(), nn.ParameterDict()
        for name, shape in self.shapes.items():
            self.mean[_key(name)] = nn.Parameter(torch.zeros(sum(shape)), requires_grad=False)
            self.deviation[_key(name)] = nn.Parameter(torch.ones(sum(shape)), requires_grad=False)

    def edited(self, name: str, found: Factors) -> Factors:
        """u~ and -alpha delta~: their products, summed over tokens, are added to the weight of a module."""
        there = found.delta.abs().amax(-1, keepdim=True) > 0
        z = torch.cat([found.u, found.delta], -1)
        z = (z - self.mean[_key(name)]) / self.deviation[_key(name)]
        shape, which = self.place[name]
        out = self.networks[shape](z, which) * there
        u, delta = out.split([found.u.shape[-1], found.delta.shape[-1]], -1)
        return Factors(u, -self.alpha[list(self.shapes).index(name)] * delta)

    def save(self, folder: Path, more: Mapping[str, Any] | None = None) -> None:
        """Both files, matrices in bfloat16; the folder is there already."""
        from safetensors.torch import save_file

        kept = {name: tensor.detach().cpu() for name, tensor in self.state_dict().items()}
        small = {n: t.to(torch.bfloat16) if n.startswith("networks.") else t for n, t in kept.items()}
        save_file({name: tensor.contiguous() for name, tensor in small.items()}, folder / WEIGHTS)
        about = {
            "format": FORMAT,
            "base": self.base,
            "rank": self.rank,
            "modules": self.shapes,
            **(more or {}),
        }
        (folder / CONFIG).write_text(json.dumps(about, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Editor:
        """The editor of a folder, in float32.

        Raises:
            ModelError: there is none, it is damaged, or of a newer memedit.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not (folder / CONFIG).is_file():
            raise ModelError(
                f"{folder} holds no MEND editor (no {CONFIG}): name a folder that `python -m train.mend --out` wrote"
            )
        try:
            about = json.loads((folder / CONFIG).read_text())
            if about["format"] != FORMAT:
                raise ModelError(
                    f"the MEND editor in {folder} has format {about['format']!r}; this memedit reads {FORMAT}"
                )
            shapes = {name: (int(high), int(wide)) for name, (high, wide) in about["modules"].items()}
            editor = cls(shapes, int(about["rank"]), str(about["base"]))
            state = load_file(folder / WEIGHTS)
            editor.load_state_dict({name: tensor.float() for name, tensor in state.items()})
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            first = str(error).strip().split("\n")[0]
            raise ModelError(
                f"the MEND editor in {folder} can't be read ({first}): copy it anew, or train it again"
            ) from error
        return editor.requires_grad_(False)


def gradient_factors(
    loss: Callable[[], Tensor],
    names: Sequence[str],
    watching: Callable[[Mapping[str, Hook]], AbstractContextManager[None]],
) -> dict[str, Factors]:
    """What the gradient of a loss is made of, at linear modules: their inputs, and the gradients in their outputs.

    Args:
        loss: runs the model. watching: puts hooks on modules while it runs.
    """
    inputs: dict[str, Tensor] = {}
    zeros: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        def hook(args: tuple[Any, ...], output: Tensor) -> Tensor:
            inputs[name] = args[0].detach()
            zeros[name] = torch.zeros_like(output).requires_grad_()
            return output + zeros[name]

        return hook

    with torch.enable_grad(), watching({name: keep(name) for name in names}):
        found = torch.autograd.grad(loss(), [zeros[name] for name in names])
    return {
        name: Factors(inputs[name].float(), delta.float()) for name, delta in zip(names, found, strict=True)
    }


def weights_digest(model: Any, names: Sequence[str]) -> str:
    """Hex digest of the weights that an editor edits, rounded to bfloat16: the same whatever type a base is loaded in."""
    found = hashlib.sha256()
    for name in names:
        matrix = layout.weight(model, name).detach().cpu().to(torch.bfloat16).contiguous()
        found.update(f"{name}{tuple(matrix.shape)}".encode())
        found.update(matrix.view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _key(name: str) -> str:
    return name.replace(".", "/")  # a parameter's name holds no dot
