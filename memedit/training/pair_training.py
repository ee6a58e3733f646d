"""The pair model's training: rounds of pairs, each mined with the model as it is; resumable to the same result."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memedit.encoder import MiniLM
from memedit.errors import ModelError
from memedit.memory.snapshot import write_durably
from memedit.pairs import Marker, Side, joint, shared_states, untrained
from memedit.training.pair_examples import OUT, Example, Pool, mined
from memedit.wording import Pair

if TYPE_CHECKING:
    import torch

Bar = Callable[[int, int, float], None]  # told (step, steps, loss)
After = Callable[
    [int], None
]  # told how many rounds are done, before that is saved: it may come twice for one
CHECKPOINT = "checkpoint.safetensors"
SMOOTHED = 0.02  # labels are right in all but a few cases


@dataclass(frozen=True)
class PairSettings:
    """How long, how fast, how large."""

    lower: int = 3  # layers shared with the encoder
    layers: int = 3  # own ones
    rounds: int = 3
    pairs: int = 80_000  # of each round
    batch: int = 64
    rate: float = 2e-4
    decay: float = 0.01
    seed: int = 1
    every: int = 100  # steps between two checkpoints


class PairTraining:
    """Trains the upper layers, the marks and the head; the shared layers stay as they are.

    Args:
        encoder: whose lower layers are shared. pool: what to draw pairs from. folder: for checkpoints.
        start: weights to go on from (fine-tuning); None for the encoder's own upper layers.
        mine_first: the first round is mined too, since the weights know something.
    """

    def __init__(
        self,
        encoder: MiniLM,
        pool: Pool,
        folder: Path,
        settings: PairSettings,
        start: dict[str, torch.Tensor] | None = None,
        mine_first: bool = False,
    ) -> None:
        import torch

        self.encoder, self.pool, self.folder, self.settings = encoder, pool, folder, settings
        self.marker = Marker(encoder.tokenizer)
        made = start or untrained(encoder, settings.lower, settings.layers, settings.seed)
        self.weights = {k: v.float().to(encoder.device).clone().requires_grad_() for k, v in made.items()}
        self.layers = len({k.split(".")[1] for k in self.weights if k.startswith("layer.")})
        flat = [p for k, p in self.weights.items() if p.dim() < 2 or k == "marks"]
        steep = [p for k, p in self.weights.items() if not (p.dim() < 2 or k == "marks")]
        groups: list[dict[str, Any]] = [{"params": steep}, {"params": flat, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=settings.rate,
            weight_decay=settings.decay,
        )
        self._mine_first = mine_first
        self.step, self.round = 0, 0
        self.losses: list[float] = []
        self._chosen: list[int] = []
        self._processes = processes()

    # ------------------------------------------------------------ the job

    def run(self, bar: Bar | None = None, after: After | None = None) -> dict[str, torch.Tensor]:
        """All rounds, from the last checkpoint if there is one; the trained weights, float32, on the host.

        Args:
            after: called at the end of each round, with all weights of that round in `now`.

        Raises:
            ModelError: the loss is no number any more, or a checkpoint can't be written.
        """
        self._resume()
        while self.round < self.settings.rounds:
            for batch in self._batches():
                loss = self._learn(batch)
                self.losses.append(loss)
                self.step += 1
                if bar:
                    bar(self.step, self.steps, loss)
                if self.step % self.settings.every == 0:
                    self._save()
            self.round += 1
            self._chosen = []
            if after:
                after(self.round)
            self._save()
        return self.now()

    def now(self) -> dict[str, torch.Tensor]:
        """The weights as they are, float32, on the host."""
        return {name: value.detach().cpu().clone() for name, value in self.weights.items()}

    @property
    def steps(self) -> int:
        """Of all rounds together."""
        return self.settings.rounds * self._per_round

    @property
    def _per_round(self) -> int:
        return max(1, self.settings.pairs // self.settings.batch)

    def _batches(self) -> Iterator[list[Example]]:
        """What is left of this round, pairs of like length together."""
        if not self._chosen:
            self._chosen = self._draw()
            self._save()
        rng = random.Random(f"{self.settings.seed} order {self.round}")
        chosen, size = [self.pool.examples[i] for i in self._chosen], self.settings.batch
        rng.shuffle(chosen)
        batches: list[list[Example]] = []
        for start in range(0, len(chosen), 50 * size):
            some = sorted(
                chosen[start : start + 50 * size], key=lambda e: len(e.query) + len(e.edit.statement)
            )
            batches += [some[at : at + size] for at in range(0, len(some), size)]
        rng.shuffle(batches)
        batches = [batch for batch in batches if len(batch) == size or len(batches) == 1][: self._per_round]
        while len(batches) < self._per_round:  # a small pool gives fewer: they come again
            batches.append(rng.choice(batches))
        yield from batches[self.step - self.round * self._per_round :]

    def _draw(self) -> list[int]:
        rng = random.Random(f"{self.settings.seed} round {self.round}")
        count = self.settings.pairs
        if self.round == 0 and not self._mine_first:
            return self.pool.draw(count, rng)
        return mined(self.pool, count, rng, lambda some: self.probabilities(some)[:, OUT])

    def _learn(self, batch: Sequence[Example]) -> float:
        import torch

        rng = random.Random(f"{self.settings.seed} step {self.step}")
        mine = [self.pool.disguised(example, rng) for example in batch]
        number, count = self._processes
        mine = mine[number::count]
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        loss = self.loss_of(mine)
        value = float(loss.detach())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._together()
        steep = torch.nn.utils.clip_grad_norm_(list(self.weights.values()), 1.0)
        if not (math.isfinite(value) and math.isfinite(float(steep))):  # seen before the weights are touched
            raise ModelError(
                f"the loss of step {self.step} is no number; the checkpoint before it in {self.folder} is good: "
                f"go on from there with a smaller rate than {self.settings.rate:g}"
            )
        self.optimizer.step()
        return value

    def loss_of(self, examples: Sequence[Example]) -> torch.Tensor:
        """Mean cross entropy of a batch, a scalar."""
        import torch
        from torch.nn.functional import cross_entropy

        device = self.encoder.device
        sides = [sides_of(self.marker, example) for example in examples]
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = self._logits(sides)
        labels = torch.tensor([example.label for example in examples], device=device)
        return cross_entropy(logits.float(), labels, label_smoothing=SMOOTHED)

    def _rate(self) -> float:
        """Rises over the first twentieth of the steps, then falls to nothing in a straight line."""
        warm = max(1, self.steps // 20)
        if self.step < warm:
            return self.settings.rate * (self.step + 1) / warm
        return self.settings.rate * max(0.0, (self.steps - self.step) / max(1, self.steps - warm))

    def _together(self) -> None:
        """The mean of all processes' gradients, where `accelerate` started several."""
        if self._processes[1] > 1:
            from accelerate.utils import reduce

            for value in self.weights.values():
                value.grad = reduce(value.grad, "mean")

    def _logits(self, sides: Sequence[tuple[Side, Side]]) -> torch.Tensor:
        import torch

        with torch.no_grad():
            rows = sorted({side.ids for pair in sides for side in pair}, key=lambda ids: (len(ids), ids))
            states: dict[tuple[int, ...], torch.Tensor] = {}
            for start in range(0, len(rows), 64):
                some = rows[start : start + 64]
                x = shared_states(self.encoder, some, self.settings.lower)
                states.update((ids, x[i, : len(ids)].float()) for i, ids in enumerate(some))
        return joint(sides, states, self.weights, self.layers, self.encoder.heads, self.encoder.eps)

    def probabilities(self, examples: Sequence[Example]) -> np.ndarray:
        """(examples, 3) by the model as it is now."""
        import torch

        sides = [sides_of(self.marker, example) for example in examples]
        order = sorted(range(len(sides)), key=lambda i: sum(len(side.ids) for side in sides[i]))
        out = np.zeros((len(sides), 3), dtype=np.float32)
        with torch.no_grad():
            for start in range(0, len(order), 128):
                some = order[start : start + 128]
                out[some] = self._logits([sides[i] for i in some]).softmax(dim=-1).cpu().numpy()
        return out

    # ------------------------------------------------------------ checkpoints

    def _save(self) -> None:
        """Weights, optimizer and place, all or nothing: a file beside the old one that then takes its place."""
        import torch
        from safetensors.torch import save

        if self._processes[0]:
            return
        tensors = {f"weight.{k}": v.detach().cpu().contiguous() for k, v in self.weights.items()}
        for name, value in self.weights.items():
            for kind, state in self.optimizer.state.get(value, {}).items():
                tensors[f"adam.{name}.{kind}"] = torch.as_tensor(state).detach().cpu().contiguous()
        place = {"step": self.step, "round": self.round, "settings": self._about()}
        place |= {"losses": self.losses, "chosen": self._chosen}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_durably(self.folder / CHECKPOINT, save(tensors, {"place": json.dumps(place)}))
        except OSError as error:
            raise ModelError(
                f"no checkpoint can be written in {self.folder}: {error.strerror}; the last one there is whole"
            ) from error

    def _resume(self) -> None:
        import torch
        from safetensors import SafetensorError, safe_open

        path = self.folder / CHECKPOINT
        if not self._processes[0]:
            for cut_off in self.folder.glob(
                f"{CHECKPOINT}.*.tmp"
            ):  # by a kill; the last whole one stands beside
                cut_off.unlink(missing_ok=True)
        if not path.exists():
            return
        try:
            with safe_open(path, "pt") as file:
                place = json.loads((file.metadata() or {})["place"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError) as error:
            raise ModelError(f"{path} is damaged ({error}); delete it to start anew") from error
        place["settings"].pop("rate", None)
        if place["settings"] != self._about():
            other = {k for k, v in self._about().items() if place["settings"].get(k) != v}
            raise ModelError(
                f"{path} is of a training with other settings or data ({', '.join(sorted(other))}); give another "
                "folder for checkpoints, or delete it"
            )
        self.step, self.round, self.losses = place["step"], place["round"], place["losses"]
        self._chosen = place["chosen"]
        with torch.no_grad():
            for name, value in self.weights.items():
                value.copy_(tensors[f"weight.{name}"])
                kinds = {k: t for k, t in tensors.items() if k.startswith(f"adam.{name}.")}
                if kinds:
                    self.optimizer.state[value] = {
                        k.rpartition(".")[2]: t if k.endswith(".step") else t.to(value.device)
                        for k, t in kinds.items()
                    }

    def _about(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to fit; the rate may be another, after a loss that is no number."""
        about = {k: v for k, v in asdict(self.settings).items() if k not in ("every", "rate")}
        return about | {"pool": self.pool.digest(), "encoder": self.encoder.digest}


def sides_of(marker: Marker, example: Example) -> tuple[Side, Side]:
    """A pair as the model reads it."""
    return Pair(example.query, example.edit).sides(marker)


def processes() -> tuple[int, int]:
    """The number of this process, and how many `accelerate launch` started; (0, 1) without."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return 0, 1
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())  # it does not see by itself that there is no GPU
    return state.process_index, state.num_processes
