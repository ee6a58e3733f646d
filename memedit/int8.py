"""Linear layers in 8-bit integers: on some CPUs two to three times as fast as in float32, and a little less exact.

On a CPU a short text costs what it costs to fetch the weights from memory; bytes are a quarter of that. Each row of a weight
and each row of what it multiplies has its own scale (absmax quantisation, as in LLM.int8(), Dettmers et al., arXiv 2208.07339,
without its outliers), so that a result does not depend on what else is in a batch.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MOST = 127
ZERO = 128  # the byte that stands for 0 in what a weight multiplies: the product takes no signs there


@dataclass(frozen=True, slots=True)
class Rounded:
    """A weight matrix (out, in) in bytes, packed as the product wants it, and its bias (out,)."""

    packed: Any
    bias: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor, bias: torch.Tensor) -> Rounded:
        """The nearest to a float weight (out, in); the bias (out,) stays as it is."""
        import torch

        scale = weight.abs().amax(dim=1).clamp(min=1e-12) / MOST
        zero = torch.zeros(len(scale), dtype=torch.long)
        with warnings.catch_warnings():  # a later torch may have these no more; `worthwhile` looks
            warnings.simplefilter("ignore")
            steps = torch.quantize_per_channel(weight, scale.double(), zero, 0, torch.qint8)
            return cls(torch.ops.quantized.linear_prepack(steps, None), bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x @ weight.T + bias: (..., out) for float32 (..., in)."""
        import torch

        longest = x.abs().amax(dim=-1, keepdim=True).clamp_(min=1e-12)
        product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        return torch.addcmul(self.bias, product(x / longest, 1 / MOST, ZERO, self.packed), longest)


@cache
def worthwhile() -> bool:
    """Whether this CPU multiplies bytes without overflow and quickly (VNNI), and this torch has the product."""
    import torch

    supported = getattr(torch.cpu, "_is_vnni_supported", None)
    if supported is None or not supported():
        return False
    try:
        Rounded.of(torch.ones(2, 2), torch.zeros(2))(torch.ones(1, 2))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return True
