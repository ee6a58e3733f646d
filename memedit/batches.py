"""Rows of a Hugging Face batch: what is refused; realigned, cut out with what is theirs, joined in the caller's order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from memedit.errors import ModelError

if TYPE_CHECKING:
    import torch

Parts = Sequence[tuple[list[int], Any]]  # the caller's rows, and what `generate` gave for them

_PER_ROW = ("attention_mask", "position_ids", "token_type_ids")  # what has a row per prompt
_PER_STEP = ("scores", "logits", "attentions", "hidden_states")  # tuples with an entry per new token

_REFUSED = {
    "assistant_model": "assisted decoding: the assistant does not know the edit; leave it out",
    "prompt_lookup_num_tokens": "assisted decoding drafts from the prompt alone; leave it out",
    "assistant_early_exit": "assisted decoding drafts without the edit; leave it out",
    "use_mtp": "assisted decoding drafts without the edit; leave it out",
    "token_healing": "it asks the model for the prompt's own last token again; leave it out",
    "cache_implementation": "the stated fact needs a cache that grows; leave it out",
    "prefill_chunk_size": "the stated fact is read together with the prompt; leave it out",
    "past_key_values": "the fact has to be read before what the cache holds; pass the whole prompt",
    "guidance_scale": "the unguided pass would read the fact as well; leave it out",
    "negative_prompt_ids": "the negative prompt would read the fact as well; leave it out",
    "inputs_embeds": "routing needs the prompt's ids; pass input_ids",
}


def refuse(options: dict[str, Any], model_config: Any, rows: int) -> None:
    """What can't be right where an edit is in scope, each in one sentence.

    Args:
        model_config: the model's own generation config, whose kind of cache is overridden.

    Raises:
        ModelError: names the option.
    """
    own = {k: v for k, v in vars(model_config).items() if k != "cache_implementation"}
    for config in (options, vars(options.get("generation_config") or object), own):
        for name, why in _REFUSED.items():
            value = config.get(name)
            if value is not None and value is not False and str(value) not in ("dynamic", "dynamic_full"):
                raise ModelError(f"{name} does not go with an edit in scope: {why}")
    if options.get("streamer") is not None and rows > 1:
        raise ModelError("a streamer takes one prompt at a time, as in Hugging Face's generate")


def setting(name: str, options: dict[str, Any], model_config: Any) -> Any:
    """What `generate` takes for one of its options: the call's own, its config's, or the model's; None where none says."""
    configs = [options, *(vars(c) for c in (options.get("generation_config"), model_config) if c is not None)]
    return next((config[name] for config in configs if config.get(name) is not None), None)


def padding(options: dict[str, Any], model_config: Any, tokenizer: Any) -> int:
    """The id by which `generate` fills up rows that are done, and knows padding where no mask is given."""
    said = setting("pad_token_id", options, model_config)
    if said is None and options.get("generation_config") is not None:
        said = tokenizer.eos_token_id  # Hugging Face's own choice; otherwise ours, see `HFModel.generate_ids`
    return int(tokenizer.pad_token_id if said is None else said)


def realigned(ids: torch.Tensor, options: dict[str, Any], pad: int, eos: int | None) -> torch.Tensor:
    """Right padding moved to the left, in ids and in whatever `options` has per token; a decoder-only model goes on
    from the last column. Without a mask, padding is what Hugging Face takes for it.
    """
    import torch

    mask = options.get("attention_mask")
    if mask is None and pad != eos and bool((ids[:, -1] == pad).any()):
        mask = (ids != pad).long()
        options["attention_mask"] = mask
    if mask is None or mask.shape != ids.shape or bool(mask[:, -1].all()):
        return ids
    order = torch.argsort(mask.long(), dim=1, stable=True)
    for name in _PER_ROW:
        value = options.get(name)
        if value is not None and value.shape == ids.shape:
            options[name] = value.gather(1, order)
    return ids.gather(1, order)


def rows_of(ids: torch.Tensor, options: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """The options of some rows; what is shared by all stays as it is, and who asks for a row's number gets the caller's."""
    cut: dict[str, Any] = {name: options[name][rows] for name in _PER_ROW if options.get(name) is not None}
    for name in ("logits_processor", "stopping_criteria"):
        own = options.get(name)
        if own:
            cut[name] = type(own)([_AllRows(each, rows, ids) for each in own])
    return {**numbered(options, rows), **cut, "input_ids": ids[rows]}


def numbered(options: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """The options, in which a function that asks for a row's number gets the caller's."""
    allowed = options.get("prefix_allowed_tokens_fn")
    if allowed is None:
        return options
    return {**options, "prefix_allowed_tokens_fn": lambda row, sequence: allowed(rows[row], sequence)}


class _AllRows:
    """A custom processor or criterion that is shown the batch as the caller made it, though only some rows are under way.

    The other rows show their prompts, padded at the right, and scores of zero; what is said of them is dropped.
    """

    def __init__(self, inner: Callable[..., Any], rows: list[int], ids: torch.Tensor) -> None:
        self._inner, self._rows, self._ids = inner, rows, ids

    def __getattr__(self, name: str) -> Any:
        """`generate` knows some criteria by what they have (`eos_token_id`)."""
        if name.startswith("__") or "_inner" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __call__(self, input_ids: torch.Tensor, scores: Any) -> Any:
        import torch

        repeat = input_ids.shape[0] // len(self._rows)  # beams and returned sequences
        total = len(self._ids) * repeat
        own = torch.tensor(
            [row * repeat + i for row in self._rows for i in range(repeat)], device=input_ids.device
        )
        shown = input_ids.new_zeros(total, input_ids.shape[1])
        shown[:, : self._ids.shape[1]] = self._ids.repeat_interleave(repeat, 0)
        shown[own] = input_ids
        if isinstance(scores, torch.Tensor):
            wide = scores.new_zeros(total, *scores.shape[1:])
            wide[own] = scores
            scores = wide
        said = self._inner(shown, scores)
        return said[own] if isinstance(said, torch.Tensor) and said.dim() else said


def in_order(parts: Sequence[tuple[list[int], list[Any]]]) -> list[Any]:
    """Values of (rows, values) parts in the order of the rows; with num_return_sequences a row's several stay together."""
    out: dict[int, list[Any]] = {}
    for rows, values in parts:
        returned = len(values) // len(rows)
        for position, i in enumerate(rows):
            out[i] = values[position * returned : (position + 1) * returned]
    return [value for i in sorted(out) for value in out[i]]


def joined(parts: Parts, prompts: int, pad: int, beams: int = 1) -> Any:
    """What `generate` would have given for all rows at once: ids, or its dictionary; rows in the caller's order.

    Rows that were done sooner are filled up as Hugging Face does within a batch: with padding, which is certain
    (score 0, all else minus infinity). Keys and values are left out: they hold what the caller does not see.
    """
    import torch

    if isinstance(parts[0][1], torch.Tensor):
        return _stacked(parts, prompts, pad)
    outs = [(rows, dict(out)) for rows, out in parts]
    whole: dict[str, Any] = {}
    for name in {name for _, out in outs for name in out} - {"past_key_values"}:
        values = [(rows, out.get(name)) for rows, out in outs]
        if any(value is None for _, value in values):
            continue
        if name in _PER_STEP:
            whole[name] = _steps(values, prompts, pad, name in ("scores", "logits"))
        elif name == "beam_indices":
            whole[name] = _stacked(_renumbered(values, beams), prompts, -1)
        else:
            whole[name] = _stacked(values, prompts, pad)
    return type(parts[0][1])(**whole)


def _stacked(parts: Parts, prompts: int, fill: float) -> torch.Tensor:
    """One tensor (prompts * returned, ...), as wide as the widest part; each part has `returned` rows per prompt."""
    import torch

    first: torch.Tensor = parts[0][1]
    returned = first.shape[0] // len(parts[0][0])
    shape: list[int] = [max(sizes) for sizes in zip(*(value.shape[1:] for _, value in parts), strict=True)]
    out = torch.full((prompts * returned, *shape), fill, dtype=first.dtype, device=first.device)
    for rows, value in parts:
        place = torch.tensor(
            [row * returned + i for row in rows for i in range(returned)], device=first.device
        )
        region: Any = (place, *(slice(size) for size in value.shape[1:]))
        out[region] = value.to(first.device)
    return out


def _steps(parts: Parts, prompts: int, pad: int, scored: bool) -> tuple[Any, ...]:
    """An entry per step; a part that was done sooner is filled up with what stands for a padding token."""
    out: list[Any] = []
    for step in range(max(len(value) for _, value in parts)):
        here: list[tuple[list[int], Any]] = []
        like = next(value[step] for _, value in parts if step < len(value))
        for rows, value in parts:
            entry = value[step] if step < len(value) else _of_padding(value[0], like, pad, scored)
            here.append((rows, entry))
        if isinstance(like, tuple):  # one tensor a layer
            layers = range(len(like))
            out.append(tuple(_stacked([(r, e[i]) for r, e in here], prompts, 0) for i in layers))
        else:
            out.append(_stacked(here, prompts, 0))
    return tuple(out)


def _of_padding(own: Any, like: Any, pad: int, scored: bool) -> Any:
    """Shaped as `like`, with the rows of `own`."""
    if isinstance(own, tuple):
        return tuple(_of_padding(o, k, pad, scored) for o, k in zip(own, like, strict=True))
    filled = like.new_full((own.shape[0], *like.shape[1:]), float("-inf") if scored else 0.0)
    if scored:
        filled[:, pad] = 0.0
    return filled


def _renumbered(parts: Parts, beams: int) -> list[tuple[list[int], Any]]:
    """Beam indices count through a part's rows and beams; here through the caller's."""
    import torch

    out = []
    for rows, indices in parts:
        own = torch.tensor(rows, device=indices.device)
        moved = own[(indices.clamp(min=0) // beams)] * beams + indices.clamp(min=0) % beams
        out.append((rows, torch.where(indices < 0, indices, moved)))
    return out
