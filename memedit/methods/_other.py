"""Rows that another model answers in the base's place, through the base's two faces.

Where both models have one vocabulary, the caller's own ids go to the other model, and every option of `generate` holds.
Where they don't, the row's text is asked, the answer is written in the base's ids behind the caller's own, and an option
that speaks of ids or logits is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from memedit import batches
from memedit.chat import ChatTemplate, Conversation
from memedit.errors import ModelError
from memedit.lm import HFModel, Score, batch_rows
from memedit.methods._rows import Read, Row, check_rows, rows_applied
from memedit.methods._splice import left_padded

if TYPE_CHECKING:
    from torch import Tensor

# Options that speak of the base's vocabulary, or ask for what only the base has.
_OF_IDS = (
    "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "bad_words_ids", "force_words_ids", "sequence_bias",
    "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "constraints",
    "watermarking_config", "output_scores", "output_logits", "output_attentions", "output_hidden_states",
)  # fmt: skip
_SAID = {
    "min_new_tokens": 1
}  # to a query that ends as a sentence does, the end alone would be likely, and no answer
# What is the call's or the base's own, and is said anew to the other model.
_OWN = (
    "input_ids", "attention_mask", "position_ids", "token_type_ids", "generation_config", "tokenizer", "streamer", "max_length",
    "max_new_tokens", "min_length", "eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id",
    "return_dict_in_generate", "transformers_version", "_from_model_config", "cache_implementation",
)  # fmt: skip


def same_vocabulary(one: Any, other: Any) -> bool:
    """Whether ids of one tokenizer mean the same to the other."""
    if one is other:
        return True
    probe = "The capital of France is Lyon.\n 12 Zürich's?"
    return (
        one.get_vocab() == other.get_vocab()
        and (one.eos_token_id, one.pad_token_id) == (other.eos_token_id, other.pad_token_id)
        and one(probe)["input_ids"] == other(probe)["input_ids"]
    )


class OtherModel:
    """An LM whose rows are answered by another model, with what each of them reads before its prompt.

    Args:
        base: whose faces are served; it is never asked, nor changed.
        load: gives the other model, on first need.
        rows: what each row reads; `tail` marks the last user turn of a conversation.
        talks: the rows that are conversations; None for the others.
    """

    def __init__(
        self,
        base: HFModel,
        load: Callable[[], HFModel],
        rows: Sequence[Row],
        talks: Sequence[Conversation | None],
    ) -> None:
        self.base, self._load = base, load
        self.rows, self.talks = list(rows), list(talks)
        self.read = [Read() for _ in self.rows]

    def generate(
        self,
        prompts: Sequence[str],
        *,
        batch_size: int | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> list[str]:
        """As `HFModel.generate`; prompt i is row i."""
        check_rows(len(prompts), len(self.rows))
        other, options = self._load(), self.base.text_options(options)
        if same_vocabulary(self.base.tokenizer, other.tokenizer):
            with rows_applied(other, self.rows) as lm:
                texts = lm.generate(
                    list(prompts), batch_size=batch_size, seed=seed, **self._with_config(options)
                )
                self.read = lm.read
            return texts
        out: list[str] = []
        size = batch_rows(batch_size, len(prompts))
        for start in range(0, len(prompts), size):
            inputs = self.base.tokenize(prompts[start : start + size])
            told = self._told(other, start, prompts[start : start + size], seed, {**options, **inputs})
            out += [text for text, _ in told]
        return out

    def generate_ids(self, *, seed: int | None = None, **inputs: Any) -> Any:
        """As `HFModel.generate` with ids; the caller's own stay in front."""
        ids: Tensor = inputs["input_ids"]
        check_rows(len(ids), len(self.rows))
        other = self._load()
        if same_vocabulary(self.base.tokenizer, other.tokenizer):
            with rows_applied(other, self.rows) as lm:
                out = lm.generate_ids(seed=seed, **self._with_config(inputs))
                self.read = lm.read
            return out
        mask = inputs.get("attention_mask")
        own = [row if mask is None else row[mask[i].bool()] for i, row in enumerate(ids)]
        prompts = self.base.tokenizer.batch_decode(own, skip_special_tokens=True)
        told = [new for _, new in self._told(other, 0, prompts, seed, inputs)]
        pad = batches.padding(inputs, self.base.model.generation_config, self.base.tokenizer)
        width = max(map(len, told))
        new = torch.tensor(
            [row + [pad] * (width - len(row)) for row in told], dtype=ids.dtype, device=ids.device
        )
        sequences = torch.cat([ids.repeat_interleave(len(told) // len(ids), 0), new], dim=1)
        if not self._setting("return_dict_in_generate", inputs):
            return sequences
        from transformers.generation import GenerateDecoderOnlyOutput

        return GenerateDecoderOnlyOutput(sequences=sequences)  # type: ignore[arg-type]

    def score(self, prompts: Sequence[str], targets: Sequence[str], *, batch_size: int = 32) -> list[Score]:
        """As `HFModel.score`, in the other model's own tokens; prompt i is row i."""
        check_rows(len(prompts), len(self.rows))
        other = self._load()
        same = same_vocabulary(self.base.tokenizer, other.tokenizer)
        asked = list(prompts)
        if not same:
            turns = [None if talk is None else talk.turns[talk.last].text for talk in self.talks]
            asked = [prompt if turn is None else turn for prompt, turn in zip(prompts, turns, strict=True)]
        rows = self.rows if same else [Row(row.context) for row in self.rows]
        with rows_applied(other, rows) as lm:
            scores = lm.score(asked, list(targets), batch_size=batch_size)
            self.read = lm.read
        return scores

    def _asked(
        self, other: HFModel, prompts: Sequence[str], first: int
    ) -> tuple[dict[str, Tensor], list[Row]]:
        """Each row in the other model's ids; of a conversation the last user turn, and the one before with its answer."""
        template = ChatTemplate(other.tokenizer, other.tokenizing)
        ids, rows = [], []
        for prompt, row, talk in zip(prompts, self.rows[first:], self.talks[first:], strict=False):
            if talk is None:
                with other.tokenizing:
                    ids.append(other.tokenizer(prompt)["input_ids"])
                rows.append(Row(row.context))
                continue
            turns = talk.turns[: talk.last + 1]
            follows = [turn.role for turn in turns[-3:-1]] == ["user", "assistant"]
            messages = [{"role": t.role, "content": t.text} for t in turns[-3 if follows else -1 :]]
            own, found = template.rendered(messages)
            ids.append(own)
            rows.append(Row(row.context, tail=found.tail))
        padded, mask = left_padded(ids, other.tokenizer.pad_token_id)
        return {"input_ids": padded.to(other.device), "attention_mask": mask.to(other.device)}, rows

    def _setting(self, name: str, options: Mapping[str, Any]) -> Any:
        return batches.setting(name, dict(options), self.base.model.generation_config)

    def _with_config(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with what the base's own generation config says, where the call has none."""
        if options.get("generation_config") is not None:
            return {**_SAID, **options}
        config = self.base.model.generation_config.to_diff_dict()
        said = {k: v for k, v in config.items() if k not in ("transformers_version", "_from_model_config")}
        if "max_length" in said and options.get("max_new_tokens") is not None:
            del said["max_length"]
        return {**said, "pad_token_id": self.base.tokenizer.pad_token_id, **_SAID, **options}

    def _told(
        self, other: HFModel, first: int, prompts: Sequence[str], seed: int | None, options: Mapping[str, Any]
    ) -> list[tuple[str, list[int]]]:
        """(text, the base's ids of it) of each row's answers; `options` hold the base's ids and mask."""
        width = options["input_ids"].shape[1]
        most = self.base.new_tokens(width, options)
        said = self._translated(options, width, most)
        wrapped = None
        if options.get("streamer") is not None:
            wrapped = said["streamer"] = _Streamer(
                options["streamer"], options["input_ids"], self, other, most
            )
        inputs, rows = self._asked(other, prompts, first)
        if said.get("stop_strings") is not None:
            said["tokenizer"] = other.tokenizer
        with rows_applied(other, rows) as lm:
            out = lm.generate_ids(seed=seed, **inputs, **said)
            self.read[first : first + len(rows)] = lm.read
        new = out[:, inputs["input_ids"].shape[1] :]
        stops = other.model.generation_config.eos_token_id
        stops = [other.tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [stops])]
        known = torch.tensor([token for token in stops if token is not None], device=new.device)
        ended = torch.isin(new, known).any(1).tolist()
        texts = other.tokenizer.batch_decode(new, skip_special_tokens=True)
        told = []
        for text, end in zip(texts, ended, strict=True):
            ids = wrapped.whole(text) if wrapped is not None else self.encoded(text)
            cut = ids[:most]
            if end and len(ids) < most:
                cut = [*ids, self._eos(options)]
            told.append(
                (text if len(ids) <= most else self.base.tokenizer.decode(cut, skip_special_tokens=True), cut)
            )
        if wrapped is not None:
            wrapped.finish(told[0][1])
        return told

    def _translated(self, options: Mapping[str, Any], width: int, most: int) -> dict[str, Any]:
        """The options that mean the same to any model.

        Raises:
            ModelError: one that speaks of the base's ids or logits.
        """
        given = options.get("generation_config") or self.base.model.generation_config
        merged = {**given.to_diff_dict(), **{k: v for k, v in options.items() if v is not None}}
        for name in _OF_IDS:
            if merged.get(name):
                raise ModelError(
                    f"{name} does not go with an edit that another model answers, whose vocabulary is not the base's: "
                    "leave it out, or give the edit another method, such as ice"
                )
        out = {k: v for k, v in merged.items() if k not in _OWN and k not in _OF_IDS}
        least = merged.get("min_length")
        if least and least > width:
            out.setdefault("min_new_tokens", min(most, least - width))
        return {**_SAID, **out, "max_new_tokens": most}

    def encoded(self, text: str) -> list[int]:
        """The base's ids by which a prompt goes on with a text."""
        ids = self.base.encode_context(text)
        # Tokenizers that put a space before every text would double the one that is there.
        if text.startswith(" ") and self.base.tokenizer.decode(ids).startswith("  "):
            ids = self.base.encode_context(text[1:])
        return ids

    def _eos(self, options: Mapping[str, Any]) -> int:
        said = self._setting("eos_token_id", options)
        said = self.base.tokenizer.eos_token_id if said is None else said
        return int(said[0] if isinstance(said, (list, tuple)) else said)


class _Streamer:
    """Hands another model's words to a streamer of the base's ids, as soon as they are whole."""

    def __init__(self, streamer: Any, prompt: Tensor, owner: OtherModel, other: HFModel, most: int) -> None:
        self._streamer, self._prompt, self._owner, self._other, self._most = (
            streamer,
            prompt,
            owner,
            other,
            most,
        )
        self._ids: list[int] = []  # the other model's
        self._text, self._sent = "", list[int]()
        self._began = False

    def put(self, value: Tensor) -> None:
        """The prompt first, then each new token."""
        if not self._began:
            self._began = True
            self._streamer.put(self._prompt.cpu())
            return
        self._ids += value.reshape(-1).tolist()
        text = self._other.tokenizer.decode(self._ids, skip_special_tokens=True)
        whole = text[: max(text.rfind(" "), text.rfind("\n"), 0)]  # the last word may go on
        ids = self._owner.encoded(whole) if whole else []
        if len(ids) > len(self._sent) and ids[: len(self._sent)] == self._sent:
            self._send(ids[len(self._sent) : self._most])
            self._text = whole

    def end(self) -> None:
        """Said by `finish`, when the last words are out."""

    def whole(self, text: str) -> list[int]:
        """The ids of the whole text; what was sent stays, also where the whole would be written in other ids."""
        ids = self._owner.encoded(text)
        if ids[: len(self._sent)] == self._sent:
            return ids
        return [*self._sent, *self._owner.base.encode_context(text[len(self._text) :])]

    def finish(self, ids: list[int]) -> None:
        """What is left of the answer's ids, and the end."""
        self._send(ids[len(self._sent) :])
        self._streamer.end()

    def _send(self, ids: list[int]) -> None:
        for token in ids:
            self._sent.append(token)
            self._streamer.put(torch.tensor([token]))
