"""The edited model as a model of EleutherAI's lm-evaluation-harness, so that any of its tasks runs over a memory.

Reference: Gao et al., "A framework for few-shot language model evaluation" (the package `lm-eval`, extra `lm-eval` here).

What a task asks is routed, and a fact in scope goes before the whole context, as everywhere in memedit; the continuation is
scored after it and never routed. A task's context also holds its instruction and its worked examples, which nobody asks: by
default only what follows the last blank line is routed. A text whose likelihood is asked for as a whole is routed as a whole.

The harness finds models by importing them: `memedit harness` and `python -m memedit.harness` do; the latter takes all options
of the `lm_eval` command itself.

Example:
    $ python -m memedit.harness --model memedit --model_args memory=indexes/default,method=ice --tasks lambada_openai
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from memedit.errors import DataError, MemeditError, ModelError
from memedit.lm import HFModel, Score
from memedit.router import Route
from memedit.texts import Verbatim

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
except ImportError as error:  # pragma: no cover - depends on what is installed
    raise ModelError(
        f"tasks of lm-evaluation-harness need the package lm-eval ({error}): pip install 'memedit[lm-eval]'"
    ) from None

AUTO_BATCH = 32  # rows where the harness says "auto"
QUERIES = ("last", "whole")
_TASKS = (
    "`python -m memedit.harness ls tasks` lists the harness's own; include_path names a folder with others"
)
PARTS = 8  # batches that are routed and put together in one go


class Harness(LM):  # type: ignore[misc]
    """Base, memory, router and method behind the three calls of the harness.

    Args:
        memory: the memory's folder, or an open `EditMemory`; None asks the unedited base.
        model: shipped name, folder or hub name of the base, or an `HFModel`. method: overrides the memory's.
        query: what of a context is routed: "last" (after the last blank line) or "whole".
        batch_size: rows of one forward pass; "auto" is 32. max_batch_size: at most so many.
        device, dtype, false_fire_rate, scope: as for `EditedModel.from_pretrained` (scope: a classifier's folder).
        max_gen_toks: new tokens where a task says nothing. seed: of sampling, for tasks that sample.

    Attributes:
        fired: how many of the queries asked so far had an edit in scope. asked: how many there were.

    Raises:
        MemeditError: no such memory, model or method; the message says what to do.
    """

    def __init__(
        self,
        memory: Any = None,
        model: Any = "base",
        method: str | None = None,
        query: str = "last",
        batch_size: int | str = 16,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        false_fire_rate: float | None = None,
        scope: str | None = None,
        max_gen_toks: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        from memedit.asked import Asked
        from memedit.edited import EditedModel

        if query not in QUERIES:
            raise DataError(f"query is {query!r}; it must be last or whole")
        self.query, self.max_gen_toks, self.seed = query, int(max_gen_toks), int(seed)
        self.batch_size = _rows(batch_size, max_batch_size)
        device = _there(device)
        self.base = HFModel.from_pretrained(model, device=device, dtype=dtype)
        self._chats = Asked(self.base)
        self.edited: EditedModel | None = None
        if memory is not None:
            rate = None if false_fire_rate is None else float(false_fire_rate)
            memory, classifier = _opened(memory, scope, device)
            self.edited = EditedModel.from_pretrained(
                self.base, memory=memory, method=method, classifier=classifier, false_fire_rate=rate
            )
        self.fired = self.asked = 0
        self._routes: dict[str, Route] = {}

    @property
    def device(self) -> Any:
        """Where the base is."""
        return self.base.device

    @property
    def tokenizer_name(self) -> str:
        """What the harness keeps rendered requests under."""
        return str(getattr(self.base.tokenizer, "name_or_path", "")).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The base's own template, where the harness is to use one."""
        return getattr(self.base.tokenizer, "chat_template", None) if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as the base's template writes it; the fact then goes before the last user turn.

        Raises:
            ModelError: the base has no chat template.
        """
        if not getattr(self.base.tokenizer, "chat_template", None):
            raise ModelError("the base has no chat template: leave --apply_chat_template out")
        return self.base.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside the results."""
        own: dict[str, Any] = {
            "model_num_parameters": sum(p.numel() for p in self.base.model.parameters()),
            "model_dtype": str(getattr(self.base.model, "dtype", "")),
        }
        if self.edited is not None:
            own |= {
                "edits_in_memory": len(self.edited.memory),
                "queries_asked": self.asked,
                "queries_fired": self.fired,
            }
        return own

    # -- the three calls

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each (context, continuation): natural log-probability, and whether greedy decoding says it."""
        pairs = []
        for context, continuation in (request.args for request in requests):
            # A word begins with its space, wherever a task has put that; a template's last line end is its own.
            bare = context.rstrip(" ") if self._is_chat(context) else context.rstrip()
            pairs.append((bare, context[len(bare) :] + continuation))
        routes = self._routed([context for context, _ in pairs])
        done = self._in_parts(pairs, routes, lambda some, own: self._scored(some, own), disable_tqdm)
        out = [(score.logprob, all(score.agreed)) for score in done]
        for request, value in zip(requests, out, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, value)
        return out

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, each of whose tokens is counted once; long ones are read in windows."""
        texts = [request.args[0] for request in requests]
        routes = self._routed(texts, whole=True)
        pairs: list[tuple[str, str]] = []
        owners: list[int] = []
        for i, text in enumerate(texts):
            windows = list(self._windows(text, self._stated(routes[i])))
            pairs += windows
            owners += [i] * len(windows)
        own = [routes[i] for i in owners]
        done = self._in_parts(pairs, own, lambda some, own: self._scored(some, own), disable_tqdm)
        out = [0.0] * len(texts)
        for i, score in zip(owners, done, strict=True):
            out[i] += score.logprob
        for request, value in zip(requests, out, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return out

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations up to a stop string (which is cut off), greedy unless the task samples."""
        by_kind: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            by_kind.setdefault(repr(request.args[1]), []).append(i)
        out = [""] * len(requests)
        for rows in by_kind.values():
            options = dict(normalize_gen_kwargs(requests[rows[0]].args[1], self.max_gen_toks))
            stop = [text for text in options.pop("until", []) if text]
            new = options.pop("max_gen_toks")
            if not options["do_sample"]:
                options = {k: v for k, v in options.items() if k not in ("temperature", "top_p", "top_k")}
            options |= {"max_new_tokens": new, **({"stop_strings": stop} if stop else {})}
            contexts = [requests[i].args[0] for i in rows]
            routes = self._routed(contexts)
            asked = [(self._cut(c, new + self._stated(r)), "") for c, r in zip(contexts, routes, strict=True)]

            def answer(some: list[tuple[str, str]], own: list[Route], options: Any = options) -> list[str]:
                return self._generated([prompt for prompt, _ in some], own, options)

            for i, text in zip(rows, self._in_parts(asked, routes, answer, disable_tqdm), strict=True):
                out[i] = postprocess_generated_text(text, stop, None)
                self.cache_hook.add_partial("generate_until", requests[i].args, out[i])
        return out

    # -- what is asked, and of whom

    def _routed(self, contexts: Sequence[str], whole: bool = False) -> list[Route]:
        """A route for each context, judged by what it asks; the same question is routed once."""
        asked = [self._asks(context, whole) for context in contexts]
        if self.edited is None:
            return [_nothing(query) for query in asked]
        new = [query for query in dict.fromkeys(asked) if query not in self._routes]
        blank = [query for query in new if not query.strip()]
        self._routes |= {query: _nothing(query) for query in blank}
        new = [query for query in new if query.strip()]
        for start in range(0, len(new), PARTS * self.batch_size):
            some = new[start : start + PARTS * self.batch_size]
            self._routes |= dict(zip(some, self.edited.route(some), strict=True))
        self.asked += len(new)
        self.fired += sum(self._routes[query].fired for query in new)
        return [self._routes[query] for query in asked]

    def _asks(self, context: str, whole: bool) -> str:
        """What of a context is routed; a rendered conversation is taken apart by the router itself."""
        if whole or self.query == "whole" or self._is_chat(context):
            return context
        return context.rstrip().rpartition("\n\n")[2]

    def _is_chat(self, context: str) -> bool:
        return self._chats.in_texts([context])[0] is not None

    def _stated(self, route: Route) -> int:
        """Tokens that are kept free for the facts of a route."""
        facts = [f"Fact: {candidate.edit.statement}\n" for candidate in route.edits]
        return sum(len(self.base.encode_context(fact)) for fact in facts)

    def _scored(self, pairs: list[tuple[str, str]], routes: list[Route]) -> list[Score]:
        targets = [Verbatim(target) for _, target in pairs]
        prompts = [
            self._cut(prompt, self._stated(route) + len(self.base.target_ids(prompt, target)))
            for (prompt, _), target, route in zip(pairs, targets, routes, strict=True)
        ]
        if self.edited is None:
            return self.base.score(prompts, targets, batch_size=self.batch_size)
        return self.edited.score(prompts, targets, routes=routes, batch_size=self.batch_size)

    def _generated(self, prompts: list[str], routes: list[Route], options: dict[str, Any]) -> list[str]:
        options = {**options, "batch_size": self.batch_size}
        if options["do_sample"]:
            options["seed"] = self.seed
        if self.edited is None:
            return self.base.generate(prompts, **options)
        return self.edited.generate(prompts, routes=routes, **options)

    def _in_parts(
        self,
        asked: list[tuple[str, str]],
        routes: list[Route],
        answer: Callable[[list[tuple[str, str]], list[Route]], Sequence[Any]],
        disable_tqdm: bool,
    ) -> list[Any]:
        """Answers in order; rows of like length go together, the longest first."""
        from tqdm import tqdm

        order = sorted(range(len(asked)), key=lambda i: -len(asked[i][0]) - len(asked[i][1]))
        out: dict[int, Any] = {}
        with tqdm(total=len(asked), disable=disable_tqdm, desc="memedit") as bar:
            for start in range(0, len(order), PARTS * self.batch_size):
                rows = order[start : start + PARTS * self.batch_size]
                values = answer([asked[i] for i in rows], [routes[i] for i in rows])
                out |= dict(zip(rows, values, strict=True))
                bar.update(len(rows))
        return [out[i] for i in range(len(asked))]

    # -- what the model has room for

    def _cut(self, prompt: str, others: int) -> str:
        """The end of a prompt, so that so many other tokens fit beside it; of tasks with long contexts the rest is lost.

        Raises:
            ModelError: the others alone are more than the model takes.
        """
        limit = self.base.context_length
        if limit is None or not prompt:
            return prompt
        if others >= limit:
            raise ModelError(
                f"a task asks for {others} tokens beside its context; the model takes {limit} in all"
            )
        room = limit - others
        while prompt:
            with self.base.tokenizing:
                ids = self.base.tokenizer(prompt)["input_ids"]
            if len(ids) <= room:
                break
            prompt = self.base.tokenizer.decode(ids[len(ids) - room :], skip_special_tokens=True)[1:]
        return prompt

    def _windows(self, text: str, stated: int) -> Iterator[tuple[str, str]]:
        """(what is read, what is scored) of a text: all of it at once, or piece after piece, each after the last token
        of the one before it.
        """
        limit = self.base.context_length
        with self.base.tokenizing:
            spans = self.base.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
                "offset_mapping"
            ]
        if not spans:
            return
        room = len(spans) if limit is None else max(1, limit - stated - 2)
        for start in range(0, len(spans), room):
            end = spans[min(start + room, len(spans)) - 1][1]
            begin = spans[start][0] if start else 0
            yield (text[spans[start - 1][0] : begin] if start else "", text[begin:end])


def _opened(memory: Any, scope: str | None, device: str | None) -> tuple[Any, Any]:
    """The memory, which must be there, and the classifier that another than the shipped one decides by."""
    from memedit.devices import best
    from memedit.memory import EditMemory
    from memedit.scope import ScopeClassifier

    classifier = None if scope is None else ScopeClassifier.load(scope, device=best(device))
    if isinstance(memory, (str, Path)):
        memory = EditMemory.open(memory, create=False, encoder=classifier, device=device)
    return memory, classifier


def _nothing(query: str) -> Route:
    """The route of what no edit is asked about."""
    return Route(query, (), (), 1.0, None)


def _there(device: str | None) -> str | None:
    """The device; the harness asks for CUDA where nobody said anything, and there may be none."""
    import torch

    return None if device and device.startswith("cuda") and not torch.cuda.is_available() else device


def _rows(batch_size: int | str, most: int | None) -> int:
    """The number of rows that the harness's own option means.

    Raises:
        DataError: no number.
    """
    if isinstance(batch_size, str) and batch_size.startswith("auto"):
        rows = AUTO_BATCH
    else:
        try:
            rows = int(batch_size)
        except ValueError:
            rows = 0
        if rows < 1:
            raise DataError(f'batch_size is {batch_size!r}; it must be a whole number, or "auto"')
    return min(rows, int(most)) if most else rows


def results_of(
    lm: Harness,
    tasks: Sequence[str],
    *,
    include_path: str | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
) -> dict[str, Any]:
    """What the harness finds: its own results, with "samples", every document and what was answered.

    Args:
        include_path: a folder with further task files. limit: documents of each task.

    Raises:
        DataError: no such task, or a task file that can't be used.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=include_path, include_defaults=False) if include_path else None
    if manager is None or any(
        not manager.match_tasks([task]) for task in tasks
    ):  # reading its thousands takes a while
        manager = TaskManager(include_path=include_path)
    missing = [task for task in tasks if not manager.match_tasks([task])]
    if missing or not tasks:
        if not missing:
            raise DataError(
                "no task is named; give one of the harness's, or one of your own with include_path"
            )
        near = difflib.get_close_matches(missing[0], manager.all_tasks, n=1)
        raise DataError(f"unknown task {missing[0]!r}; " + (f"did you mean {near[0]}?" if near else _TASKS))
    try:
        out = simple_evaluate(
            lm,
            tasks=list(tasks),
            limit=limit,
            num_fewshot=num_fewshot,
            task_manager=manager,
            bootstrap_iters=1000,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise DataError(
            f"lm-evaluation-harness can't run {', '.join(tasks)}: {type(error).__name__}: {error}"
        ) from error
    return dict(out or {})


def run() -> None:
    """The harness's own command, which knows the model `memedit`."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except MemeditError as error:
        raise SystemExit(f"error: {error}") from None


if (
    __name__ == "__main__"
):  # this module is another one then, which the harness should not find beside the first
    from memedit.harness import run as command

    command()
else:
    register_model("memedit")(Harness)
