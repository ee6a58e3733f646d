"""What an edit looks like at a module, before anything is changed: keys, and the gradient of the target's loss at the output.

UltraEdit reads both at every position that predicts a token of the target, and measures them by running statistics of
the edits seen so far. For one edit alone these are warmed on unrelated edits: facts that ship, or the user's own file;
found once for a base and kept where the key covariance is kept (_moments.py).

Shapes: n positions; keys h (n, in), gradients g (n, out); features z = [h, g] (n, in + out).
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memedit.edit import Edit
from memedit.errors import DataError, MemeditError, MethodError
from memedit.lm import HFModel
from memedit.methods._locate import right_padded, target_ids
from memedit.methods._moments import folder, keep_whole
from memedit.methods._watch import Hook, gradients, kept_beside, origin, watched
from memedit.texts import shortened

FACTS = Path(__file__).parent.parent / "pretrained" / "demonstrations" / "facts.jsonl"
_BATCH = 16
_SMALL = 1e-6  # of the mean variance of a part, added to each: a dimension that never moves is not blown up
_WARMING = threading.Lock()  # several threads may ask for the same statistics at once
_log = logging.getLogger("memedit")

Features = dict[str, tuple[Tensor, Tensor]]  # module -> (h, g), float64 on the CPU
Progress = Callable[[int, int], None]


def features(base: HFModel, edits: Sequence[Edit], names: Sequence[str]) -> Features:
    """h and g of linear modules, of all edits' target positions, in their order.

    The loss is each edit's own: - mean over its target's tokens of log P(token | prompt, target so far).

    Raises:
        MethodError: a target that is no token, or a loss that is no number.
    """
    targets = [target_ids(base, edit) for edit in edits]
    with base.tokenizing:
        prompts = [list(base.tokenizer(edit.prompt or "")["input_ids"]) for edit in edits]
    rows = [p + t for p, t in zip(prompts, targets, strict=True)]
    ids, mask = (t.to(base.device) for t in right_padded(rows, int(base.tokenizer.pad_token_id)))
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def probe(name: str) -> Hook:
        def hook(args: tuple[Any, ...], output: Tensor) -> Tensor:
            found[name] = args[0].detach(), torch.zeros_like(output, requires_grad=True)
            return output + found[name][1]

        return hook

    where = [
        (r, len(p) - 1 + i)
        for r, (p, t) in enumerate(zip(prompts, targets, strict=True))
        for i in range(len(t))
    ]
    at_row, at_column = torch.tensor(where, device=base.device).T
    gold = torch.tensor([token for target in targets for token in target], device=base.device)
    share = torch.tensor([1 / len(t) for t in targets for _ in t], device=base.device)
    with torch.enable_grad(), watched(base, {name: probe(name) for name in names}):
        logits = (
            base.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[at_row, at_column].float()
        )
        said = torch.log_softmax(logits, -1).gather(1, gold[:, None])[:, 0]
        loss = -(said * share).sum()
        if not bool(torch.isfinite(loss)):
            raise MethodError(
                f"the loss of {shortened(edits[0].prompt or '', 60)!r} gave no number: load the model in float32"
            )
        slopes = gradients(loss, [found[name][1] for name in names])
    out: Features = {}
    for name, slope in zip(names, slopes, strict=True):
        # Some models (OPT) run all tokens as one long row.
        h, g = (t.view(len(rows), -1, t.shape[-1])[at_row, at_column] for t in (found[name][0], slope))
        out[name] = h.double().cpu(), g.double().cpu()
    return out


@dataclass(frozen=True)
class Running:
    """Mean and spread of features z, as they came in.

    Attributes:
        count: N. mean: (in + out,). squares: (in + out,), the sum of squared deviations from the mean.
    """

    count: int
    mean: Tensor
    squares: Tensor

    def with_more(self, z: Tensor) -> Running:
        """With n further features (n, in + out): the paper's update of mean and squares."""
        n, middle = len(z), z.mean(0)
        apart, both = middle - self.mean, self.count + n
        mean = self.mean + apart * n / both
        squares = self.squares + (z - middle).square().sum(0) + apart.square() * self.count * n / both
        return Running(both, mean, squares)

    @classmethod
    def of(cls, z: Tensor) -> Running:
        """The statistics of features (n, in + out)."""
        middle = z.mean(0)
        return cls(len(z), middle, (z - middle).square().sum(0))

    def normalised(self, h: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Both, less the mean and in units of the spread of each dimension."""
        width = h.shape[1]
        variance = self.squares / max(1, self.count - 1)
        out = []
        for part, own in ((h, slice(None, width)), (g, slice(width, None))):
            spread = (variance[own] + _SMALL * variance[own].mean()).sqrt().clamp(min=1e-30)
            out.append((part - self.mean[own]) / spread)
        return out[0], out[1]


def warmed(
    base: HFModel, names: Sequence[str], facts: str | None, count: int, progress: Progress | None = None
) -> dict[str, Running]:
    """The statistics of so many unrelated edits on the base as it was before any edit; from the cache where they were found.

    Args:
        facts: a file of JSON lines with prompt and target; None takes what ships.

    Raises:
        DataError: the file can't be read, or has no such facts; those that are longer than the base reads don't count.
    """
    base = origin(base)
    edits, digest = _facts(facts, count)
    kept = kept_beside(base).setdefault("features", {})
    key = f"{base.fingerprint[:24]}-{digest[:16]}"
    path = folder() / f"features-{key}.safetensors"
    with _WARMING:
        have: dict[str, Running] = kept.setdefault(key, _read(path))
        missing = [name for name in names if name not in have]
        if missing:
            # Apart until all edits are in: what was cut off must not pass for the whole.
            short = _fitting(base, edits)
            have.update(_run(base, missing, short, progress))
            _log.info("statistics of %d positions of %d unrelated edits", have[missing[0]].count, len(short))
            _write(path, have)
        return {name: have[name] for name in names}


def _fitting(base: HFModel, edits: Sequence[Edit]) -> list[Edit]:
    """Those that the base can read whole.

    Raises:
        DataError: fewer than two.
    """
    limit = base.context_length
    if limit is None:
        return list(edits)
    with base.tokenizing:
        own = [len(base.tokenizer(edit.prompt or "")["input_ids"]) for edit in edits]
    out = [e for e, n in zip(edits, own, strict=True) if n + len(target_ids(base, e)) <= limit]
    if len(out) < 2:
        raise DataError(
            f"of the {len(edits)} facts to warm on {len(out)} fit the {limit} tokens that the model takes; give shorter ones"
        )
    return out


def _run(
    base: HFModel, names: Sequence[str], edits: Sequence[Edit], progress: Progress | None
) -> dict[str, Running]:
    """The statistics of all edits, a batch at a time."""
    out: dict[str, Running] = {}
    for start in range(0, len(edits), _BATCH):
        for name, (h, g) in features(base, edits[start : start + _BATCH], names).items():
            z = torch.cat([h, g], 1)
            out[name] = out[name].with_more(z) if name in out else Running.of(z)
        if progress:
            progress(min(start + _BATCH, len(edits)), len(edits))
    return out


def unrelated(facts: str | None) -> Path:
    """The file of unrelated edits: the one that is named, else what ships."""
    return Path(facts).expanduser() if facts else FACTS


def _facts(source: str | None, count: int) -> tuple[list[Edit], str]:
    path = unrelated(source)
    edits: list[Edit] = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                if len(edits) >= count:
                    break
                found = json.loads(line) if line.strip() else {}
                if found.get("prompt") and found.get("target"):
                    edits.append(Edit(prompt=found["prompt"], target=found["target"]))
    except OSError as error:
        raise DataError(f"the facts {path} to warm on can't be read: {error.strerror}") from error
    except (ValueError, AttributeError, MemeditError) as error:
        raise DataError(
            f"the facts {path} to warm on are no JSON lines with prompt and target: {error}"
        ) from error
    if len(edits) < 2:
        raise DataError(
            f"the facts {path} to warm on are {len(edits)}; give some hundred, with prompt and target"
        )
    said = json.dumps([(edit.prompt, edit.target) for edit in edits])
    return edits, hashlib.sha256(said.encode()).hexdigest()


def _read(path: Path) -> dict[str, Running]:
    from safetensors import safe_open

    out: dict[str, Running] = {}
    try:
        with safe_open(path, "pt") as file:
            counts = json.loads((file.metadata() or {})["counts"])
            for name, count in counts.items():
                out[name] = Running(
                    int(count), file.get_tensor(f"{name}|mean"), file.get_tensor(f"{name}|squares")
                )
    except Exception:  # lost or damaged (safetensors raises its own): they are found again
        return {}
    return out


def _write(path: Path, have: dict[str, Running]) -> None:
    from safetensors.torch import save

    tensors = {f"{name}|{part}": getattr(r, part) for name, r in have.items() for part in ("mean", "squares")}
    about = {"counts": json.dumps({name: r.count for name, r in have.items()})}
    keep_whole(path, save(tensors, about), "statistics")
