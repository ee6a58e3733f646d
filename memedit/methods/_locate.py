"""What ROME's family shares: where the subject ends, keys k* and values v* at a layer, and what other keys look like.

ROME (arXiv 2202.05262) reads an MLP's output projection W as an associative memory: its input at the subject's last
token is a key k, its output a value v = W k. Everything here serves one question: which value at which key makes the
model say the target? MEMIT, PMET, AlphaEdit and others ask it of other modules; `optimise` takes any by name.

Shapes: hidden size d, MLP width m; k (m,), v (d,), W (d, m); rows are texts, columns tokens.
Texts: the prompt as it is, the prompt after each of some random prefixes, and "{subject} is a", at which the next token
must stay what it was.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memedit.edit import Edit
from memedit.errors import MethodError, ModelError
from memedit.lm import HFModel
from memedit.methods._splice import left_padded
from memedit.methods._watch import Hook, gradients, kept_beside, watched
from memedit.subjects import guesses, words
from memedit.texts import shortened, too_long

STARTERS = ("The", "Therefore", "Because", "I", "You")  # what random prefixes go on from, as in MEMIT
ESSENCE = "{} is a"


# -- the subject


def subject_of(edit: Edit) -> str:
    """The subject as the prompt writes it.

    Raises:
        MethodError: none is given and the prompt does not show which it is, or the prompt does not name it.
    """
    prompt = edit.prompt or ""
    # Folding may lengthen a text ("ß" becomes "ss"): each folded character remembers whose it was.
    origin = [i for i, c in enumerate(prompt) for _ in c.casefold()]
    # First as words of their own, then anywhere: some scripts put no space between words.
    for pattern in (r"(?<!\w){}(?!\w)", "{}"):
        for name in edit.names:
            at = re.search(pattern.format(re.escape(name.casefold())), prompt.casefold())
            if at:
                return prompt[origin[at.start()] : origin[at.end() - 1] + 1]
    if edit.names:
        raise MethodError(
            f"the prompt {shortened(prompt, 60)!r} does not name the subject {edit.names[0]!r} as it is written; "
            "give --subject as it stands in the prompt"
        )
    found = [g for g in guesses(prompt) if any(w.capital for w in words(g))]
    if len(found) != 1:
        raise MethodError(
            f"which words of {shortened(prompt, 60)!r} are its subject can't be told; "
            "give --subject with the words, as they stand in the prompt"
        )
    return found[0]


@dataclass
class Asked:
    """Texts that end in the target, and one that must not change, as one batch.

    What stands before the subject's last token never changes, so it is read once: each row is a head, whose keys and
    values are kept, and a tail that begins with the subject's last token and is run again and again.

    Attributes:
        heads: (rows, longest head), padded on the left, with its mask; of no column where nothing is to be kept.
        tails: (rows, longest tail), padded on the right, with its mask. ends: column in the tail of each row's last
            prompt token; the target begins after it. target: its ids.
        rows: how many rows ask; the first has no prefix. The one that follows them is "{subject} is a".
    """

    heads: tuple[Tensor, Tensor]
    tails: tuple[Tensor, Tensor]
    ends: Tensor
    target: list[int]
    rows: int
    _cache: Any = None

    def forward_heads(self, base: HFModel) -> None:
        """Read what stands before the subject's last token; hooks should not be on yet."""
        heads, mask = self.heads
        if self._cache is None and heads.shape[1]:
            with torch.no_grad():
                out = base.model(input_ids=heads, attention_mask=mask, use_cache=True, **base.positions(mask))
            self._cache = out.past_key_values

    def forward(self, base: HFModel) -> Tensor:
        """Logits (rows, longest tail, vocabulary)."""
        (heads, before), (tails, after) = self.heads, self.tails
        whole = torch.cat([before, after], 1)
        given: dict[str, Any] = {"input_ids": tails, "attention_mask": whole}
        if heads.shape[1]:
            self.forward_heads(base)
            given["past_key_values"] = copy.deepcopy(self._cache)  # a pass writes into it
            given |= {name: p[:, heads.shape[1] :] for name, p in base.positions(whole).items()}
        logits: Tensor = base.model(**given, use_cache=bool(heads.shape[1])).logits
        return logits

    def said(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities (rows, target length) of the target's tokens, and (vocabulary,) of what follows the essence."""
        place = torch.arange(self.rows, device=logits.device)[:, None]
        steps = torch.arange(len(self.target), device=logits.device)
        found = torch.log_softmax(logits[place, self.ends[: self.rows, None] + steps].float(), -1)
        gold = torch.tensor(self.target, device=logits.device)[None, :, None].expand(self.rows, -1, 1)
        return found.gather(2, gold)[..., 0], torch.log_softmax(logits[-1, self.ends[-1]].float(), -1)

    def at_subject(self, states: Tensor) -> Tensor:
        """(rows, width) states at the subject's last token; some models (OPT) run all tokens as one long row."""
        return states.view(len(self.ends), -1, states.shape[-1])[: self.rows, 0]


def ask(base: HFModel, edit: Edit, prefixes: Sequence[str] = (), essence: bool = True) -> Asked:
    """An edit's prompt after nothing and after each prefix, with its target; and "{subject} is a".

    Args:
        essence: without, no subject is looked for, all tokens are in the tails, and the prompt stands for the essence.

    Raises:
        MethodError: no subject, or a target that is no token.
        ModelError: the prompt is longer than the model takes.
    """
    prompt = edit.prompt or ""
    subject = subject_of(edit) if essence else prompt
    target = target_ids(base, edit)
    last = ESSENCE.format(subject) if essence else prompt
    texts = [prompt, *(f"{prefix}. {prompt}" for prefix in prefixes), last]
    rows, places = [], []
    for text in texts:
        ids, column = _located(base, text, subject)
        rows.append(ids)
        places.append(column if essence else 0)
    limit = base.context_length
    if limit is not None and len(rows[0]) + len(target) > limit:
        raise ModelError(too_long(prompt, len(rows[0]), len(target), limit))
    fits = [limit is None or len(ids) + len(target) <= limit for ids in rows]  # no prefix that does not
    rows = [ids for ids, fit in zip(rows, fits, strict=True) if fit]
    places = [place for place, fit in zip(places, fits, strict=True) if fit]
    ends = [len(ids) - 1 - place for ids, place in zip(rows, places, strict=True)]
    rows = [*(ids + target for ids in rows[:-1]), rows[-1]]
    pad, device = int(base.tokenizer.pad_token_id), base.device
    cut = list(zip(rows, places, strict=True))
    heads = left_padded([ids[:place] for ids, place in cut], pad)
    tails = right_padded([ids[place:] for ids, place in cut], pad)
    return Asked(
        (heads[0].long().to(device), heads[1].long().to(device)),
        (tails[0].to(device), tails[1].to(device)),
        torch.tensor(ends, device=device),
        target,
        len(rows) - 1,
    )


def target_ids(base: HFModel, edit: Edit) -> list[int]:
    """The ids of an edit's target.

    Raises:
        MethodError: there are none.
    """
    try:
        return base.target_ids(edit.prompt or "", edit.target or "")
    except ModelError:
        raise MethodError(
            f"the target {edit.target!r} is no token of the model's; give another spelling of it by --target"
        ) from None


def right_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, (rows, longest)."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def _located(base: HFModel, text: str, subject: str) -> tuple[list[int], int]:
    """The ids of a text, and the column of the last token of the subject where it is named last.

    A token that ends the subject may also hold what follows it. The subject may be the text's first token: then what
    the model knows of it depends on nothing but itself.
    """
    apart = [m.end() for m in re.finditer(rf"(?<!\w){re.escape(subject)}(?!\w)", text)]
    end = apart[-1] if apart else text.rfind(subject) + len(subject)
    with base.tokenizing:
        if base.tokenizer.is_fast:
            encoded = base.tokenizer(text, return_offsets_mapping=True)
            starts = [(a, b) for a, b in encoded["offset_mapping"]]
            inside = [i for i, (a, b) in enumerate(starts) if a < end and b > a]
            return list(encoded["input_ids"]), inside[-1]
        ids = list(base.tokenizer(text)["input_ids"])
        return ids, len(base.tokenizer(text[:end], add_special_tokens=True)["input_ids"]) - 1


# -- prefixes


def random_prefixes(base: HFModel, shape: Sequence[Sequence[int]], seed: int = 0) -> tuple[str, ...]:
    """Texts that the base itself goes on with from common words; the same ones each time.

    Args:
        shape: pairs (how many, tokens each), such as ((10, 5), (10, 10)).
    """
    kept = kept_beside(base).setdefault("prefixes", {})
    key = (tuple(map(tuple, shape)), seed)
    if key not in kept:
        out: list[str] = []
        for i, (count, length) in enumerate(shape):
            starts = [STARTERS[j % len(STARTERS)] for j in range(count)]
            ends = _continued(base, starts, length, seed + i) if count else []
            # What an edit must not hold may come out of a base as well: one line, no end in the middle.
            out += [
                " ".join((start + end).replace(".", " ").split())
                for start, end in zip(starts, ends, strict=True)
            ]
        kept[key] = tuple(out)
    return kept[key]


def _continued(base: HFModel, starts: list[str], length: int, seed: int) -> list[str]:
    options = {"do_sample": True, "top_k": 10, "max_new_tokens": length, "min_new_tokens": length}
    try:
        out: list[str] = base.generate(starts, seed=seed, **options)
    except RuntimeError as error:
        if "nan" not in str(error):
            raise
        raise MethodError(
            f"the model gave no number after {starts[0]!r}: load it in float32 or bfloat16, or mend its weights"
        ) from error
    return out


# -- keys and values


@dataclass(frozen=True)
class Value:
    """What the optimisation found for one module.

    Attributes:
        delta: (d,), to be added to the module's output at the subject's last token. output: (d,), what it was there in
            the prompt without a prefix. loss: of the last step. probability: of the target, a geometric mean over its
            tokens and a mean over rows. steps: how many were taken.
    """

    delta: Tensor
    output: Tensor
    loss: float
    probability: float
    steps: int


@dataclass(frozen=True)
class Optimiser:
    """How v* is looked for; the defaults are ROME's for GPT-2 XL and GPT-J.

    Attributes:
        steps: at most so many, of Adam, at the rate lr. decay: weight of |delta|^2 / |v|^2. The paper's
            equation 4 has no such term; its code has |delta| / |v|^2, which depends on the model's units. Squared, a half
            means the same for any base, but is stronger than theirs where |delta| is above 1; both did alike on
            facts of the shipped base. kl: weight of the KL
            divergence of what follows "{subject} is a". clamp: |delta| stays within so many |v|. enough: a loss at which
            the search ends.
    """

    steps: int = 20
    lr: float = 0.5
    decay: float = 0.5
    kl: float = 0.0625
    clamp: float = 4.0
    enough: float = 0.05


def keys(base: HFModel, asked: Asked, names: Sequence[str]) -> dict[str, Tensor]:
    """The inputs of linear modules at the subject's last token, in every row that asks: name -> (rows, in), float32."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        def hook(args: tuple[Any, ...], output: Tensor) -> None:
            found[name] = asked.at_subject(args[0]).float()

        return hook

    asked.forward_heads(base)
    with torch.no_grad(), watched(base, {name: keep(name) for name in names}):
        asked.forward(base)
    return found


def optimise(
    base: HFModel, asked: Asked, names: Sequence[str], how: Optimiser, edit: Edit, measure: str | None = None
) -> dict[str, Value]:
    """The change to the outputs of modules, at the subject's last token, that makes the model say the target.

    ROME's equation 4, with delta = z - v for every named module at once (MEMIT takes a block, PMET attention and MLP):
    mean over rows of -log P(target | row) + kl * KL(P(. | essence) || before) + decay * |delta|^2 / |v|^2.
    The last term is ours: see `Optimiser`.

    Args:
        names: of modules whose output is (rows, columns, d): a projection, attention, a whole block.
        measure: another module, whose output is the |v| of decay and clamp; None takes each module's own. What an
            MLP adds may be small beside the stream that it adds to.

    Raises:
        MethodError: the loss is no number.
    """
    deltas: dict[str, Tensor] = {}
    before: dict[str, Tensor] = {}
    lengths: dict[str, Tensor] = {}

    def look(args: tuple[Any, ...], output: Tensor) -> None:  # in the first step, when delta is nothing
        lengths.setdefault(measure or "", asked.at_subject(output)[0].detach().float().norm())

    def length(name: str) -> Tensor:
        return before[name].norm() if measure is None else lengths[measure]

    def shift(name: str) -> Hook:
        def hook(args: tuple[Any, ...], output: Tensor) -> Tensor:
            if name not in before:
                before[name] = asked.at_subject(output)[0].detach().float()
                deltas[name] = torch.zeros_like(before[name], requires_grad=True)
            wide = output.view(len(asked.ends), -1, output.shape[-1])
            first = wide[:, :1] + deltas[name].to(wide)
            return torch.cat([first, wide[:, 1:]], 1).view(output.shape)

        return hook

    asked.forward_heads(base)

    def loss_now() -> tuple[Tensor, Tensor, Tensor]:
        found, essence = asked.said(asked.forward(base))
        rows = found.mean(1)
        return -rows.mean(), essence, rows.exp().mean()

    hooks: dict[str, Hook] = {name: shift(name) for name in names}
    if measure is not None:
        hooks[measure] = look
    with torch.enable_grad(), watched(base, hooks):
        first: Tensor | None = None
        optimiser: torch.optim.Optimizer | None = None
        step, total, probability = 0, torch.tensor(0.0), torch.tensor(0.0)
        for step in range(how.steps + 1):
            nll, essence, probability = loss_now()
            first = essence.detach() if first is None else first
            parts = list(deltas.values())
            # torch's first argument is the measure: this is KL(now || before).
            kl = torch.nn.functional.kl_div(first, essence, log_target=True, reduction="sum")
            shrink = sum((d.square().sum() / length(n).square() for n, d in deltas.items()), nll * 0)
            total = nll + how.kl * kl + how.decay * shrink
            if not bool(torch.isfinite(total)):
                raise MethodError(
                    f"the optimisation for {shortened(edit.prompt or '', 60)!r} gave no number in step {step}: "
                    "try a lower rate (--set METHOD.lr=0.1), or load the model in float32"
                )
            if float(total.detach()) < how.enough or step == how.steps:
                break
            optimiser = optimiser or torch.optim.Adam(parts, lr=how.lr)
            for part, gradient in zip(parts, gradients(total, parts), strict=True):
                part.grad = gradient
            optimiser.step()
            with torch.no_grad():
                for name, delta in deltas.items():
                    most = how.clamp * length(name)
                    delta.mul_((most / delta.norm().clamp(min=1e-12)).clamp(max=1))
    return {
        name: Value(
            deltas[name].detach(), before[name], float(total.detach()), float(probability.detach()), step
        )
        for name in names
    }
