"""`LM`, the one interface of every model here, and `HFModel`, a Hugging Face causal LM behind it.

Base, edited and counterfactual models are all LMs: text in, the new text out; and a score of a
target after a prompt. An `HFModel` also has the Hugging Face face, `generate_ids`: ids in, ids out.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from memedit import spread
from memedit.errors import ModelError
from memedit.loading import load
from memedit.prefix import PrefixCache
from memedit.texts import Verbatim, are_texts, as_texts, batch_rows, scored_texts, too_long

if TYPE_CHECKING:
    import torch

DEFAULT_NEW_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Score:
    """How a model takes `target` after `prompt`, token by token.

    Attributes:
        logprob: sum of the natural log-probabilities of the target's tokens.
        agreed: for each target token, whether it is the arg-max given prompt and gold prefix. said: the arg-max there.
    """

    logprob: float
    agreed: tuple[bool, ...]
    said: tuple[int, ...] = ()

    @property
    def agreement(self) -> float:
        """Share of target tokens that are the arg-max: the literature's teacher-forced edit success."""
        return sum(self.agreed) / len(self.agreed)


@runtime_checkable
class LM(Protocol):
    """What a model is here: it continues prompts, and it scores targets after prompts."""

    def generate(self, prompts: Sequence[str], **options: Any) -> list[str]:
        """The new text after each prompt (the prompt itself not included)."""
        ...

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> list[Score]:
        """The score of each target as the continuation of its prompt."""
        ...


class HFModel:
    """A frozen Hugging Face causal LM with its tokenizer.

    Args:
        model: any `AutoModelForCausalLM`; it is put into eval mode and its weights are never written.
        tokenizer: its tokenizer; without a pad token, eos serves as one.

    Attributes:
        prefixes: keys and values of stated facts that recur; shared by all who edit this base.

    Raises:
        ModelError: an encoder-decoder model, no tokenizer, or one without any token to pad with.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        if tokenizer is None:
            raise ModelError(
                "a model object needs its tokenizer: pass tokenizer=AutoTokenizer.from_pretrained(...)"
            )
        if getattr(model.config, "is_encoder_decoder", False):
            raise ModelError(
                f"{type(model).__name__} is an encoder-decoder model; memedit edits causal (decoder-only) models"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.prefixes = PrefixCache()
        self._fingerprint: tuple[Any, str] | None = None
        # A fast tokenizer keeps padding and truncation as state of its own: one call at a time.
        self.tokenizing = threading.Lock()
        if tokenizer.pad_token_id is None:
            if tokenizer.eos_token_id is None:
                raise ModelError(
                    "the tokenizer has neither a pad nor an eos token, so that a batch can't be padded: "
                    "set tokenizer.pad_token to a token of its vocabulary"
                )
            tokenizer.pad_token = tokenizer.eos_token

    @classmethod
    def from_pretrained(
        cls,
        model: Any = "base",
        *,
        tokenizer: Any = None,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        device_map: str | dict[str, Any] | None = None,
        trust_remote_code: bool = False,
    ) -> HFModel:
        """A model by shipped name ("base"), folder, hub name, or an object that is loaded already.

        Args:
            model: name, folder or model object; an `HFModel` is given back as it is.
            tokenizer: the tokenizer of a model object; for names and folders it is found beside the weights.
            device: "cpu", "cuda", ...; None takes a GPU where there is one. dtype: None keeps the weights' own on a
                GPU, and float32 on a CPU, where half precision is slower; "8bit" and "4bit" quantise linear layers
                as they are loaded (bitsandbytes).
            device_map: in place of a device, how accelerate spreads the model over devices: "auto", or a place for
                each module. A model object that is spread already stays as it is.

        Raises:
            ModelError: nothing of that name, or it can't be loaded; the message says what to do.
        """
        if isinstance(model, HFModel):
            return model
        if isinstance(model, (str, Path)):
            return cls(*load(str(model), tokenizer, device, dtype, device_map, trust_remote_code))
        return cls(model if device is None or spread.is_spread(model) else model.to(device), tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the inputs go: the device of the input embedding."""
        return spread.input_device(self.model)

    @property
    def fingerprint(self) -> str:
        """Hex digest of all weights and their names: what a prepared patch belongs to.

        Taken anew where a weight was replaced or written in place since (torch counts that, but for writes to `.data`).
        """
        tensors = [*self.model.parameters(), *self.model.buffers()]
        state = tuple((id(t), t._version) for t in tensors if not t.is_inference())
        known = self._fingerprint
        if known is None or known[0] != state:
            self._fingerprint = known = (state, spread.digest(self.model))
        return known[1]

    @property
    def context_length(self) -> int | None:
        """The longest sequence the model takes, in tokens, where its config says so."""
        config = self.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None)

    def encode_context(self, text: str) -> list[int]:
        """Ids of text that a method puts before a prompt: no special token can arise from it."""
        if not text:
            return []
        with self.tokenizing:
            return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def new_tokens(self, prompt_length: int, options: Mapping[str, Any]) -> int:
        """How many tokens a `generate` call with these options may add to prompts of this length."""
        own = self.model.generation_config
        configs = [options, *(vars(c) for c in (options.get("generation_config"), own) if c is not None)]
        for config in configs:
            if config.get("max_new_tokens") is not None:
                return int(config["max_new_tokens"])
            if config.get("max_length") is not None:
                return max(0, int(config["max_length"]) - prompt_length)
        return 20  # Hugging Face's own default

    def tokenize(self, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Ids and mask of shape (batch, length), left-padded, on the model's device."""
        with self.tokenizing:
            batch = self.tokenizer(list(prompts), return_tensors="pt", padding=True, padding_side="left")
        return {name: batch[name].to(self.device) for name in ("input_ids", "attention_mask")}

    def generate(
        self, prompts: Any = None, *, batch_size: int | None = None, seed: int | None = None, **options: Any
    ) -> Any:
        """Two faces. Texts in: a list of the new texts, special tokens left out. Ids in: Hugging Face's own `generate`.

        Args:
            prompts: a list of texts; or ids of shape (batch, length), which may also come as input_ids=...
            batch_size: rows per forward pass (texts only); None takes all at once.
            seed: for sampling; the caller's random state is left as it was.
            options: as for Hugging Face's `generate`; for texts, max_new_tokens is 32 where nothing is said.
        """
        with seeded(seed):
            if not are_texts(prompts):
                return self.generate_ids(**({} if prompts is None else {"input_ids": prompts}), **options)
            prompts, options = as_texts(prompts), self.text_options(options)
            out: list[str] = []
            size = batch_rows(batch_size, len(prompts))
            for start in range(0, len(prompts), size):
                inputs = self.tokenize(prompts[start : start + size])
                self.check_length(prompts[start : start + size], inputs["attention_mask"], options)
                ids = self.generate_ids(**inputs, **options)
                out += self.decode_new(ids, inputs["input_ids"].shape[1])
            return out

    def text_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a call with texts: a length where none is said, the tokenizer where strings stop.

        Raises:
            ModelError: a length that is none.
        """
        options = dict(options)
        asked = options.get("max_new_tokens")
        if asked is not None and (not isinstance(asked, int) or asked < 1):
            raise ModelError(f"max_new_tokens is {asked!r}; it must be a whole number of at least 1")
        if not {"max_new_tokens", "max_length", "generation_config"} & options.keys():
            options["max_new_tokens"] = DEFAULT_NEW_TOKENS
        if options.get("stop_strings") is not None:
            options.setdefault("tokenizer", self.tokenizer)
        return options

    def check_length(self, prompts: Sequence[str], mask: torch.Tensor, options: Mapping[str, Any]) -> None:
        """Refuse a prompt that would run out of the model's positions.

        Raises:
            ModelError: names the prompt.
        """
        limit, new = self.context_length, self.new_tokens(mask.shape[1], options)
        for prompt, own in zip(prompts, mask.sum(1).tolist(), strict=True):
            if limit is not None and own + new > limit:
                raise ModelError(too_long(prompt, own, new, limit))

    def decode_new(self, ids: Any, prompt_length: int) -> list[str]:
        """Text of what comes after the first `prompt_length` columns of (rows, length) ids."""
        sequences = getattr(ids, "sequences", ids)
        return self.tokenizer.batch_decode(sequences[:, prompt_length:], skip_special_tokens=True)

    def generate_ids(self, **inputs: Any) -> Any:
        """Hugging Face's own `generate`: ids (batch, length) in, ids (rows, length + new) out."""
        import torch

        self.check_mode()
        options = dict(inputs)
        if self.model.generation_config.pad_token_id is None and options.get("generation_config") is None:
            options.setdefault("pad_token_id", self.tokenizer.pad_token_id)
        with torch.no_grad():
            return self.model.generate(**options)

    def score(self, prompts: Sequence[str], targets: Sequence[str], *, batch_size: int = 32) -> list[Score]:
        """Scores of targets as continuations; a space is put between prompt and target where none is.

        Raises:
            ModelError: not as many targets as prompts, a target without a token, or a pair that the model can't take.
        """
        import torch

        self.check_mode()
        prompts, targets = scored_texts(prompts, targets)
        scores: list[Score] = []
        for start in range(0, len(prompts), batch_rows(batch_size, len(prompts))):
            some = prompts[start : start + batch_size]
            pairs = list(zip(some, targets[start : start + batch_size], strict=True))
            ids, mask, lengths = self._scored_ids(pairs)
            self.check_length(some, mask, {"max_new_tokens": 0})
            known = inspect.signature(self.model.forward).parameters
            keep = {"logits_to_keep": max(lengths) + 1} if "logits_to_keep" in known else {}
            with torch.no_grad():
                # The left-padded batch is read from the right, so that spliced-in context goes unseen.
                logits = self.model(input_ids=ids, attention_mask=mask, **self.positions(mask), **keep).logits
            logprobs = torch.log_softmax(logits[:, -ids.shape[1] :].float(), dim=-1)
            for row, length in enumerate(lengths):
                predicted = logprobs[row, -length - 1 : -1]
                said, gold = predicted.argmax(-1), ids[row, -length:]
                logprob = float(predicted.gather(1, gold[:, None]).sum())
                scores.append(Score(logprob, tuple((said == gold).tolist()), tuple(said.tolist())))
        return scores

    def target_ids(self, prompt: str, target: str) -> list[int]:
        """The ids by which a target goes on after a prompt.

        Raises:
            ModelError: there are none.
        """
        if isinstance(target, Verbatim):
            own = len(self._prompt_ids(prompt))
            with self.tokenizing:
                whole = self.tokenizer(prompt + target)["input_ids"] if prompt else []
            if whole[own:]:
                return whole[own:]
        apart = prompt.endswith((" ", "\n")) or target.startswith((" ", "\n")) or isinstance(target, Verbatim)
        with self.tokenizing:
            ids = self.tokenizer(target if apart else " " + target, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ModelError("a target to score is empty; give at least one word")
        return ids

    def _prompt_ids(self, prompt: str) -> list[int]:
        """Ids of a prompt that is scored with a target; of an empty one what a text begins with."""
        with self.tokenizing:
            own = self.tokenizer(prompt)["input_ids"]
        begins = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id)
        return list(own) or [next(token for token in begins if token is not None)]

    def check_mode(self) -> None:
        """Refuse to work on a model in training mode.

        Raises:
            ModelError: it is in training mode.
        """
        if self.model.training:
            raise ModelError(
                "the model is in training mode, in which dropout makes every answer another one: call model.eval() first"
            )

    def _scored_ids(self, pairs: list[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """(batch, length) ids and mask, left-padded, and the number of target tokens of each row."""
        import torch

        rows, lengths = [], []
        for prompt, target in pairs:
            target_ids = self.target_ids(prompt, target)
            rows.append(self._prompt_ids(prompt) + target_ids)
            lengths.append(len(target_ids))
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, width - len(row) :] = torch.tensor(row)
            mask[i, width - len(row) :] = 1
        return ids.to(self.device), mask.to(self.device), lengths

    def positions(self, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Position ids that skip the padding, for models that take them (as `generate` gives them)."""
        if "position_ids" not in inspect.signature(self.model.forward).parameters:
            return {}
        return {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


_SEEDING = threading.RLock()


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Sampling reads the process's one generator, so that seeded calls of several threads go one after the other."""
    if seed is None:
        yield
        return
    import torch

    with _SEEDING, torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
