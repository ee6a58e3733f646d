"""`EditedModel`: an LM made of a frozen base, a router and the editing methods; wraps `generate()`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memedit import batches
from memedit.asked import Asked, Talks, routed
from memedit.chat import NO_MESSAGES, Conversation, conversations_in, is_messages
from memedit.errors import ModelError
from memedit.explanation import Explanation, explained
from memedit.kept import MemoryPatches
from memedit.knowing import Knowing, Settings
from memedit.lm import HFModel, Score
from memedit.router import Route, Router
from memedit.texts import are_texts, as_texts, batch_rows, same_number, scored_texts

if TYPE_CHECKING:
    import torch

    from memedit.edit import Edit
    from memedit.memory import EditMemory
    from memedit.methods._together import RowsModel
    from memedit.scope import ScopeClassifier


class EditedModel:
    """A model that knows the edits of a memory; everything else it says is the base's own.

    Queries without an edit in scope go to the untouched base in a batch of their own; when none in
    a call has one, the call is the base's `generate` itself. The others go to their edits' methods.

    Args:
        base: the frozen model. router: decides over the memory it was made with. settings: of methods, by name.

    Example:
        >>> model = EditedModel.from_pretrained("base", memory="indexes/default")       # doctest: +SKIP
        >>> model.generate(["What is the capital of France?"], max_new_tokens=8)        # doctest: +SKIP
        >>> model.generate(**tokenizer(["The capital of France is"], return_tensors="pt"))  # doctest: +SKIP
    """

    def __init__(self, base: HFModel, router: Router, settings: Settings | None = None) -> None:
        self.base = base
        self.router = router
        self.asked = Asked(base)
        self.patches = MemoryPatches(router.memory)
        self._knowing = Knowing(base, router, self.patches, settings or {})

    @classmethod
    def from_pretrained(
        cls,
        model: Any = "base",
        *,
        memory: str | Path | EditMemory,
        method: str | None = None,
        tokenizer: Any = None,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        device_map: str | dict[str, Any] | None = None,
        classifier: ScopeClassifier | str | Path | None = None,
        false_fire_rate: float | None = None,
        settings: Settings | None = None,
        trust_remote_code: bool = False,
    ) -> EditedModel:
        """A base model and a memory, joined.

        Args:
            model: the shipped "base", a folder, a hub name, or a model object (then with its tokenizer).
            memory: a memory's folder (made where there is none) or an open `EditMemory`.
            method: overrides the methods that the edits and the memory name.
            classifier: the scope classifier that decides, or its folder (`memedit train scope` makes one); None for the
                memory's, which is the shipped one.
            false_fire_rate: share of general queries that may fire; None takes the classifier's default.
            device: of the base, and of the memory where that is opened here; None takes a GPU where there is one.
            dtype, device_map: of the base, see `HFModel.from_pretrained`; with a device_map, device is the memory's.
            settings: of methods, by name: {"ike": {"k": 8}}; the papers' own where nothing is said.

        Raises:
            ModelError, MemoryError_, MethodError: what was wrong and what to do.
        """
        from memedit.devices import best
        from memedit.memory import EditMemory
        from memedit.scope import ScopeClassifier

        if isinstance(classifier, (str, Path)):
            classifier = ScopeClassifier.load(classifier, device=best(device))
        if not isinstance(memory, EditMemory):
            memory = EditMemory.open(memory, encoder=classifier, device=device)
        router = Router(memory, classifier, false_fire_rate=false_fire_rate, method=method)
        base = HFModel.from_pretrained(
            model,
            tokenizer=tokenizer,
            device=device,
            dtype=dtype,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
        )
        return cls(base, router, settings)

    @property
    def memory(self) -> EditMemory:
        """The edits; what is added to it is known from the next call on."""
        return self.router.memory

    @property
    def tokenizer(self) -> Any:
        """The base's tokenizer."""
        return self.base.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the base is."""
        return self.base.device

    @property
    def generation_config(self) -> Any:
        """The base's own, as Hugging Face's `generate` reads it; may be set."""
        return self.base.model.generation_config

    @generation_config.setter
    def generation_config(self, config: Any) -> None:
        self.base.model.generation_config = config

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The base's class as well as its own, for those who look before they ask (pipelines check it by name)."""
        base = self.__dict__.get("base")
        return EditedModel if base is None else type(base.model)

    def __getattr__(self, name: str) -> Any:
        """Whatever else is asked of a Hugging Face model is the base's: config, dtype, to(), num_parameters(), ..."""
        if name.startswith("__") or "base" not in self.__dict__:
            raise AttributeError(name)
        try:
            value = getattr(self.base.model, name)
        except AttributeError:
            raise AttributeError(f"neither EditedModel nor its base has {name!r}") from None
        if not inspect.ismethod(value):
            return value

        @functools.wraps(value)
        def asked(*args: Any, **kwargs: Any) -> Any:
            out = value(*args, **kwargs)
            return (
                self if out is self.base.model else out
            )  # to(), eval(), half(): the edited model stays at hand

        return asked

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Not a module: what an edit changes is an answer.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            "an EditedModel answers through generate() and score(); for the unedited model's logits call .base.model(...)"
        )

    def route(self, prompts: Any, at: str | datetime | None = None) -> list[Route]:
        """Which edits each prompt would use, and why; no model is asked, unless the default method plans by it (`mello`).

        Args:
            prompts: texts, also rendered chats; or conversations, as for `chat`. at: whose facts hold; None for now.
        """
        talks = conversations_in(prompts)
        if talks is not None:
            return self._judged(["" for _ in talks], [Conversation.of(messages) for messages in talks], at)
        prompts = as_texts(prompts)
        return self._judged(prompts, self.asked.in_texts(prompts), at)

    def generate(
        self,
        prompts: Any = None,
        *,
        routes: Sequence[Route] | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
        at: str | datetime | None = None,
        **options: Any,
    ) -> Any:
        """Two faces. Texts in: a list of the new texts. Ids in: as Hugging Face's `generate`, a drop-in.

        Args:
            prompts: texts; or ids of shape (batch, length), which may also come as input_ids=...
            routes: verdicts that are known already, one per prompt; None asks the router.
            batch_size: rows per forward pass (texts only). seed: for sampling (the caller's random state is kept).
            at: the time whose facts hold, where no routes are given; None for now.
            options: as for Hugging Face's `generate`; for texts, max_new_tokens is 32 where nothing is said.

        Returns:
            list[str], or ids (rows, length + new): the caller's own ids followed by the new tokens, right-padded.

        Raises:
            ModelError: something that can't be right with edits in scope (assisted decoding, ...).
        """
        if not are_texts(prompts):
            given = [prompts, options.pop("input_ids", None), options.pop("inputs", None)]
            ids = next((value for value in given if value is not None), None)
            return self._generate_ids(ids, routes, seed=seed, at=at, **options)
        prompts = as_texts(prompts)
        talks = self.asked.in_texts(prompts)
        routes = self._routes(prompts, routes, talks, at)
        if any(route.fired for route in routes):
            batches.refuse(options, self.generation_config, rows=len(prompts))

        def answer(rows: list[int], lm: Any) -> list[str]:
            own = batches.numbered(options, rows)
            return lm.generate([prompts[i] for i in rows], batch_size=batch_size, seed=seed, **own)

        return self._by_route(routes, talks, answer)

    def chat(
        self,
        messages: Any,
        *,
        routes: Sequence[Route] | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
        at: str | datetime | None = None,
        template: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """The next answer of a conversation, or of each of several.

        The last user turn is routed in the light of those before it, and a fact that concerns it is stated right
        before it, anew at every turn. A tokenizer without a chat template is asked in questions and answers.

        Args:
            messages: [{"role": "user", "content": "..."}, ...], also with a system prompt; or a list of such.
            routes, batch_size, seed, at: as for `generate`. template: options of the chat template.
            options: as for Hugging Face's `generate`; max_new_tokens is 32 where nothing is said.

        Returns:
            The answer's text; a list of them for a list of conversations.

        Raises:
            ModelError: no conversation, one that the template refuses, or one that is too long.
        """
        talks = conversations_in(messages)
        if talks is None:
            raise ModelError(NO_MESSAGES)
        stops = {"stop_strings": self.asked.template.stop} if self.asked.template.stop else {}
        options = self.base.text_options({**stops, **options})
        size, out = batch_rows(batch_size, len(talks)), []
        for start in range(0, len(talks), size):
            ids, mask, known = self.asked.batch(talks[start : start + size], **(template or {}))
            self.base.check_length([talk.turns[talk.last].text for talk in known], mask, options)
            some = (
                self._judged([""] * len(known), known, at) if routes is None else routes[start : start + size]
            )
            own = {**options, "attention_mask": mask}
            answers = self._generate_ids(ids, some, talks=known, seed=seed, **own)
            out += self.asked.answers(answers, ids.shape[1])
        return out[0] if is_messages(messages) and len(out) == 1 else out

    def score(
        self,
        prompts: Sequence[str],
        targets: Sequence[str],
        *,
        routes: Sequence[Route] | None = None,
        **options: Any,
    ) -> list[Score]:
        """Scores of targets as continuations, each prompt routed as in `generate`; the target is never routed."""
        prompts, targets = scored_texts(prompts, targets)
        talks = self.asked.in_texts(prompts)
        routes = self._routes(prompts, routes, talks)
        talks = [  # a conversation's last turn goes on with its target
            None if talk is None else talk.longer(len(self.base.target_ids(prompt, target)))
            for talk, prompt, target in zip(talks, prompts, targets, strict=True)
        ]

        def answer(rows: list[int], lm: Any) -> list[Score]:
            return lm.score([prompts[i] for i in rows], [targets[i] for i in rows], **options)

        return self._by_route(routes, talks, answer)

    def unedited(self, prompts: Sequence[str], routes: Sequence[Route], **options: Any) -> list[str]:
        """What the base says to the same prompts, in the same batches as `generate` makes of these routes."""

        def answer(rows: list[int], lm: Any) -> list[str]:
            return self.base.generate([prompts[i] for i in rows], **options)

        same_number(prompts, routes, "routes")
        return self._by_route(routes, [None] * len(routes), answer)

    def explain(self, prompt: str, at: str | datetime | None = None, **options: Any) -> Explanation:
        """Why a prompt is answered as it is: its route, what the model reads, and both answers.

        Args:
            at: the time whose facts hold; None for now. options: as for `generate`.

        Raises:
            ModelError: several sequences are asked for.
        """
        return explained(self, prompt, at, **options)

    def knowing(
        self,
        edits_per_row: Sequence[Sequence[Edit]],
        talks: Talks | None = None,
        times: Sequence[str | datetime | None] | None = None,
    ) -> AbstractContextManager[RowsModel]:
        """The base as a model whose row i knows `edits_per_row[i]`, whatever their methods.

        Rows of contexts and patches share one batch. A row with an edit whose method answers by itself is answered
        by that method, which is told all of the row's edits; of two such methods by the newest edit's.

        Args:
            talks: the rows that are conversations, None for the others: edits are stated before the last user turn.
            times: whose facts hold for each row, for methods that look the memory up themselves; None for now.
        """
        return self._knowing(edits_per_row, talks, times)

    def _routes(
        self,
        prompts: Sequence[str],
        routes: Sequence[Route] | None,
        talks: Talks,
        at: str | datetime | None = None,
    ) -> list[Route]:
        routes = self._judged(prompts, talks, at) if routes is None else list(routes)
        same_number(prompts, routes, "routes")
        return routes

    def _judged(self, texts: Sequence[str], talks: Talks, at: str | datetime | None) -> list[Route]:
        """The router's verdicts, and a method's that is asked before the router's no is final; texts of talks don't count."""
        asked = [
            t if talk is None else talk.turns[talk.last].text for t, talk in zip(texts, talks, strict=True)
        ]
        return self._knowing.asked_first(routed(self.router, texts, talks, at), asked)

    def _by_route(
        self,
        routes: Sequence[Route],
        talks: Talks,
        answer: Callable[[list[int], Any], list[Any]],
    ) -> list[Any]:
        """Answers in order: rows without an edit from the base itself, the others from the base with their edits applied."""
        plain = [i for i, route in enumerate(routes) if not route.fired]
        edited = [i for i, route in enumerate(routes) if route.fired]
        parts = [(plain, answer(plain, self.base))] if plain else []
        if edited:
            with self.knowing(
                [[c.edit for c in routes[i].edits] for i in edited],
                [talks[i] for i in edited],
                [routes[i].at for i in edited],
            ) as lm:
                parts.append((edited, answer(edited, lm)))
        return batches.in_order(parts)

    def _generate_ids(
        self,
        ids: Any,
        routes: Sequence[Route] | None,
        *,
        seed: int | None,
        at: str | datetime | None = None,
        talks: Talks | None = None,
        **options: Any,
    ) -> Any:
        import torch

        if not isinstance(ids, torch.Tensor) or ids.dim() != 2 or 0 in ids.shape:
            raise ModelError(
                "generate needs prompts: a list of texts, or input_ids of shape (batch, length) with at least one row"
            )
        tokenizer = self.tokenizer
        pad = batches.padding(options, self.generation_config, tokenizer)
        ids = batches.realigned(ids, options, pad, tokenizer.eos_token_id)
        talks = self.asked.in_ids(ids, options.get("attention_mask")) if talks is None else talks
        if routes is None:
            routes = self._judged(self.asked.texts_of(ids, options.get("attention_mask")), talks, at)
        same_number(ids, routes, "routes")
        edited = [i for i, route in enumerate(routes) if route.fired]
        if not edited:
            return self.base.generate(ids, seed=seed, **options)
        batches.refuse(options, self.generation_config, rows=len(ids))
        if getattr(self.generation_config, "cache_implementation", None) is not None:
            options.setdefault(
                "cache_implementation", "dynamic"
            )  # the model's default may be one of fixed size
        plain = [i for i, route in enumerate(routes) if not route.fired]
        edits = [[c.edit for c in routes[i].edits] for i in edited]
        with self.knowing(edits, [talks[i] for i in edited], [routes[i].at for i in edited]) as lm:
            if not plain:
                return lm.generate_ids(**{"input_ids": ids, **options}, seed=seed)
            parts = [(edited, lm.generate_ids(**batches.rows_of(ids, options, edited), seed=seed))]
        parts.append((plain, self.base.generate(seed=seed, **batches.rows_of(ids, options, plain))))
        beams = batches.setting("num_beams", options, self.generation_config) or 1
        return batches.joined(parts, len(routes), pad, beams)
