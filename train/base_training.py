"""The base model and its training step; resumable, and shared by several processes where `accelerate` started them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import checkpoint
import torch
from base_corpus import Row, Settings, Stream, by_length
from processes import part_of, summed, summed_gradients
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM


def make_model(s: Settings, tokenizer: Any) -> Qwen3ForCausalLM:
    """A Qwen3-style model (gated MLP, QK-norm, tied embeddings, heads of 64)."""
    heads = max(1, s.width // 64)
    config = Qwen3Config(
        vocab_size=s.vocabulary, hidden_size=s.width, num_hidden_layers=s.layers, intermediate_size=s.inner,
        num_attention_heads=heads, num_key_value_heads=heads, head_dim=64, tie_word_embeddings=True,
        max_position_embeddings=2048, rope_theta=10_000.0, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(s.seed)
    return Qwen3ForCausalLM(config)


WEIGHTS = {"facts": 0.8, "follow": 1.0, "ignore": 1.0, "forms": 0.5, "wiki": 0.35, "copy": 0.4}


def losses(
    model: Any,
    forward: Any,
    rows: list[Row],
    device: str,
    weights: Mapping[str, float] = WEIGHTS,
    part: slice = slice(None),
    half: bool = True,
    head: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> dict[str, float]:
    """Forward and backward of one step; the mean loss of each kind. Only labelled positions reach the lm_head.

    Args:
        weights: of the kinds. part: the rows of this process, of several; losses are shares of the whole step's.
        half: whether products are taken in bf16. head: logits (labelled, vocabulary) of (hidden, ids, labelled), in the
            lm_head's place.
    """
    labelled: dict[str, int] = {}
    for kind, _, learn in rows:
        labelled[kind] = labelled.get(kind, 0) + int(learn[1:].sum())
    seen: dict[str, float] = dict.fromkeys(labelled, 0.0)
    kinds = list(labelled)
    with torch.autocast(
        device, torch.bfloat16, enabled=half
    ):  # one block, so that weights are cast once for all groups
        for group in by_length(rows[part]):
            width = max(len(ids) for _, ids, _ in group)
            ids = torch.zeros(len(group), width, dtype=torch.long)
            learn = torch.zeros(len(group), width, dtype=torch.bool)
            for i, (_, row, flags) in enumerate(group):
                ids[i, : len(row)] = torch.from_numpy(row)
                learn[i, : len(row)] = torch.from_numpy(flags)
            ids, learn = ids.to(device), learn[:, 1:].to(device)
            # Right padding under a causal mask needs no mask: a document never sees what comes after it.
            hidden = forward(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
            said = model.lm_head(hidden[learn]) if head is None else head(hidden, ids[:, :-1], learn)
            each = torch.nn.functional.cross_entropy(said.float(), ids[:, 1:][learn], reduction="none")
            share = torch.tensor([weights[kind] / labelled[kind] for kind, _, _ in group], device=device)
            which = learn.nonzero()[:, 0]
            (each * share[which]).sum().backward()
            of_kind = torch.tensor([kinds.index(kind) for kind, _, _ in group], device=device)[which]
            for i, total in enumerate(torch.bincount(of_kind, each.detach(), len(kinds)).tolist()):
                seen[kinds[i]] += total / labelled[kinds[i]]
    return seen


class Trainer:
    """Model, optimisers, and what it takes to go on after a kill."""

    def __init__(self, s: Settings, packed: Path, device: str) -> None:
        self.s, self.packed, self.device = s, packed, device
        self.tokenizer = tokenizer = AutoTokenizer.from_pretrained(packed / "tokenizer")
        self.model = make_model(s, tokenizer).to(device)
        # On a CPU, attention written out is faster backward than the fused kernel for rows as short as these.
        self.model.set_attn_implementation("eager" if device == "cpu" else "sdpa")
        # Only the training steps run compiled: generation, with its cache, would compile anew for every length.
        self.forward = (
            torch.compile(self.model.model.forward, dynamic=True) if s.compile else self.model.model
        )
        matrices = [p for n, p in self.model.named_parameters() if p.dim() == 2 and "embed" not in n]
        others = [p for n, p in self.model.named_parameters() if p.dim() != 2 or "embed" in n]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=s.rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=s.rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        ]
        self.step = 0
        self.log: list[dict[str, float]] = []

    def rate(self) -> float:
        """Warm-up, constant, then linear to a twentieth."""
        s = self.s
        start = s.decay_at or int(s.decay_from * s.steps)
        left = (
            1.0 if self.step < start else 1 - 0.95 * min(1.0, (self.step - start) / max(1, s.steps - start))
        )
        warm = max(1, min(50, s.steps // 20))
        return s.rate * min(1.0, (self.step + 1) / warm) * left

    def train_step(self, stream: Stream, accelerator: Any = None) -> tuple[dict[str, float], int]:
        """One step; mean losses and the number of tokens read.

        Raises:
            FloatingPointError: a loss or a gradient that is no number; the weights are as they were.
        """
        rows = stream.step(self.step)
        self.model.train()
        kind = self.device.partition(":")[0]
        seen = losses(self.model, self.forward, rows, kind, part=part_of(accelerator))
        seen = summed(seen, accelerator, self.device)
        summed_gradients(self.model.parameters(), accelerator)
        steep = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if not all(
            map(math.isfinite, (*seen.values(), float(steep)))
        ):  # an infinite norm would make NaN of all
            raise FloatingPointError
        for optimizer in self.optimizers:
            for g in optimizer.param_groups:
                g["lr"] = self.rate()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return seen, sum(len(ids) for _, ids, _ in rows)

    def save(self, folder: Path) -> None:
        """A checkpoint, whole or not at all; the former one stays."""
        tensors = {f"model.{n}": p.detach().clone() for n, p in self.model.named_parameters()}
        numbers: dict[str, float] = {}
        for o, optimizer in enumerate(self.optimizers):
            for i, state in optimizer.state_dict()["state"].items():
                tensors |= {
                    f"{o}.{i}.{k}": v.clone() for k, v in state.items() if isinstance(v, torch.Tensor)
                }
                numbers |= {f"{o}.{i}.{k}": v for k, v in state.items() if not isinstance(v, torch.Tensor)}
        said = {"step": self.step, "packed": self.packed.name, "log": self.log, "numbers": numbers}
        checkpoint.write(folder, tensors, said)

    def resume(self, folder: Path | None) -> bool:
        """Go on from a checkpoint, where there is one."""
        if folder is None:
            return False
        said = json.loads((folder / "state.json").read_text())
        tensors = load_file(folder / "state.safetensors", device=self.device)
        with torch.no_grad():
            for n, p in self.model.named_parameters():
                p.copy_(tensors[f"model.{n}"])
        for o, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Any]] = {}
            for key, value in [*tensors.items(), *said["numbers"].items()]:
                head, _, rest = key.partition(".")
                if head == str(o):
                    i, _, name = rest.partition(".")
                    state.setdefault(int(i), {})[name] = value
            optimizer.load_state_dict(
                {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
            )
        self.step, self.log = said["step"], said["log"]
        return True

    def export(self, folder: Path) -> None:
        """The model as users load it, in bf16."""
        copy = Qwen3ForCausalLM(self.model.config)
        copy.load_state_dict(self.model.state_dict())
        copy.to(torch.bfloat16)

        def fill(part: Path) -> None:
            copy.save_pretrained(part)
            self.tokenizer.save_pretrained(part)

        checkpoint.placed(folder, fill)
