"""`Layout`: where attention, MLP, embeddings, norms and head of a causal LM are, found from its module tree.

No model is known by name. The blocks are the longest list of equal modules; within a block the linear layers
under a child that is named after attention are attention's, the others are the MLP's; the last of each writes
into the residual stream. So GPT-2 (`Conv1D`, weights stored the other way round), GPT-J, GPT-NeoX, OPT (whose MLP
has no module of its own), Llama, Mistral, Qwen, Phi and Gemma (gated MLPs) are served by the same few lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memedit.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

# How the projections that write into the residual stream are called, in the families that name them.
_WRITERS = (
    "down_proj",
    "c_proj",
    "fc_out",
    "dense_4h_to_h",
    "fc2",
    "o_proj",
    "out_proj",
    "dense",
    "w2",
    "wo",
)
_PLAIN = ("Linear", "Conv1D", "NonDynamicallyQuantizableLinear")  # layers whose weight is a matrix of numbers


@dataclass(frozen=True)
class Block:
    """One layer of a model; every entry is a module's name, as `model.get_submodule` takes it.

    Attributes:
        name: of the block itself. attention: of the module. attention_in: its input projections (one where they
            are fused). attention_out: what writes its output.
        mlp_in: the MLP's input projections: one, or gate and up. mlp_out: the projection whose input is a key and
            whose output a value, in the words of ROME.
        norms: in the order of the module tree.
    """

    name: str
    attention: str
    attention_in: tuple[str, ...]
    attention_out: str
    mlp_in: tuple[str, ...]
    mlp_out: str
    norms: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """The parts of a causal LM by name.

    Attributes:
        family: the config's `model_type`. blocks: from the first to the last.
        embedding, head: of tokens. final_norm: before the head; None where there is none.

    Example:
        >>> layout = Layout.of(base.model)                                          # doctest: +SKIP
        >>> layout.blocks[2].mlp_out                                                # doctest: +SKIP
        'model.layers.2.mlp.down_proj'
    """

    family: str
    blocks: tuple[Block, ...]
    embedding: str
    head: str
    final_norm: str | None

    @classmethod
    def of(cls, model: Any) -> Layout:
        """The layout of a model.

        Raises:
            ModelError: an encoder-decoder model, or a tree in which no blocks of attention and MLP are found.
        """
        kind = type(model).__name__
        if getattr(model.config, "is_encoder_decoder", False):
            raise ModelError(
                f"{kind} is an encoder-decoder model; memedit edits causal (decoder-only) models"
            )
        names = {id(module): name for name, module in model.named_modules()}
        stack = _stack(model)
        if stack is None:
            raise ModelError(
                f"no blocks of attention and MLP were found in {kind}: its weights can't be edited; use --method ice"
            )
        blocks = tuple(_block(kind, f"{names[id(stack)]}.{i}", block) for i, block in enumerate(stack))
        parent = model.get_submodule(names[id(stack)].rpartition(".")[0])
        norms = [name for name, child in parent.named_children() if _is_norm(child)]
        above = names[id(parent)]
        return cls(
            model.config.get_text_config().model_type,
            blocks,
            _named(names, model.get_input_embeddings(), kind, "token embedding"),
            _named(names, model.get_output_embeddings(), kind, "output head"),
            f"{above}.{norms[-1]}" if norms else None,
        )

    def __len__(self) -> int:
        return len(self.blocks)

    def at(self, fraction: float) -> int:
        """The number of the layer at a share of the depth, counted from 0: at(1/4) of 8 layers is 2."""
        return min(len(self.blocks) - 1, int(fraction * len(self.blocks)))

    def __str__(self) -> str:
        first = self.blocks[0]
        return (
            f"{self.family}, {len(self.blocks)} layers: attention {first.attention}, which writes by "
            f"{first.attention_out}; MLP from {' and '.join(first.mlp_in)} to {first.mlp_out}; "
            f"embedding {self.embedding}, head {self.head}"
        )


def weight(model: Any, name: str) -> Tensor:
    """A linear module's weight as (out, in), whatever way it is stored; a view, not a copy.

    Raises:
        ModelError: it is quantised, or lies on disk or elsewhere until it is needed.
    """
    module = model.get_submodule(name)
    check_readable(module, name)
    stored: Tensor = module.weight
    return stored.T if type(module).__name__ == "Conv1D" else stored


def check_readable(module: Any, name: str) -> None:
    """Refuse a linear module whose weight is no plain matrix of numbers.

    Raises:
        ModelError: it is quantised, or its numbers lie elsewhere.
    """
    stored = getattr(module, "weight", None)
    known = any(base.__name__ in _PLAIN for base in type(module).__mro__)
    plain = stored is not None and stored.dim() == 2 and str(stored.dtype) in _FLOATS
    quantised = any(
        mark in type(module).__name__.lower() for mark in ("8bit", "4bit", "quant", "gptq", "awq")
    )
    if stored is None or quantised or not plain or not known:
        found = type(module).__name__ + (f" of {stored.dtype}" if stored is not None else "")
        raise ModelError(
            f"{name} is quantised ({found.replace('torch.', '')}), and this method must read its weight: load the model in "
            "bfloat16 or float16, or use a method that leaves weights alone, such as --method ice"
        )
    if stored.device.type == "meta":
        raise ModelError(
            f"the weight of {name} lies on disk or in the host's memory until it is needed: "
            "load the model without offloading, or use --method ice"
        )


_FLOATS = ("torch.float64", "torch.float32", "torch.bfloat16", "torch.float16")


def _stack(model: Any) -> Any:
    """The list of blocks: of the module lists whose entries have attention, the longest."""
    found = None
    for module in model.modules():
        if type(module).__name__ not in ("ModuleList", "Sequential") or not len(module):
            continue
        alike = len({type(entry).__name__ for entry in module}) == 1
        attends = any(_is_attention(name) for name, _ in module[0].named_children())
        if alike and attends and (found is None or len(module) > len(found)):
            found = module
    return found


def _block(kind: str, name: str, block: Any) -> Block:
    linear = {n: m for n, m in block.named_modules() if _is_linear(m)}
    attention = next((n for n, _ in block.named_children() if _is_attention(n)), "")
    attending = [n for n in linear if n.startswith(f"{attention}.")]
    thinking = [n for n in linear if n not in attending]
    if any("expert" in n.lower() for n, _ in block.named_modules()):
        raise ModelError(
            f"{name} of {kind} is a mixture of experts, whose MLP is no single matrix; use --method ice"
        )
    attention_out, mlp_out = _writer(attending), _writer(thinking)
    if not attention_out or not mlp_out or len(thinking) < 2:
        raise ModelError(
            f"attention and MLP of {name} in {kind} were not recognised among its layers "
            f"{', '.join(linear) or '(none)'}; use --method ice"
        )
    return Block(
        name,
        f"{name}.{attention}",
        tuple(f"{name}.{n}" for n in attending if n != attention_out),
        f"{name}.{attention_out}",
        tuple(f"{name}.{n}" for n in thinking if n != mlp_out),
        f"{name}.{mlp_out}",
        tuple(f"{name}.{n}" for n, m in block.named_modules() if _is_norm(m)),
    )


def _writer(names: list[str]) -> str:
    """Of the linear layers of one part, the one that writes into the residual stream."""
    known = [n for n in names if n.rpartition(".")[2] in _WRITERS]
    return known[-1] if known else ""


def _is_attention(name: str) -> bool:
    return ("attn" in name.lower() and "norm" not in name.lower()) or name.lower() in (
        "attention",
        "self_attention",
    )


def _is_linear(module: Any) -> bool:
    """Linear layers of any make, quantised ones included."""
    name = type(module).__name__.lower()
    return "linear" in name or name == "conv1d"


def _is_norm(module: Any) -> bool:
    return "norm" in type(module).__name__.lower()


def _named(names: dict[int, str], module: Any, kind: str, what: str) -> str:
    name = names.get(id(module))
    if name is None:
        raise ModelError(f"{kind} has no {what} that can be found; use --method ice")
    return name
