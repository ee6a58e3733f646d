"""MeLLo: a question of several steps is taken apart, and each step is looked up in the memory.

Reference: Zhong et al., "MQuAKE: Assessing Knowledge Editing in Language Models via Multi-Hop Questions", arXiv 2305.14795,
section 5: the model plans a sub-question, answers it, is shown the nearest fact of the memory, takes that fact's answer
where it contradicts its own, and goes on until it has a final answer, which is what is said.

What is ours: which fact concerns a sub-question is decided by the router (the scope classifier), where the paper takes
the nearest by cosine and asks the model whether it contradicts. Bases below 100 M parameters, which can't plan, have
questions taken apart by their words (`_chains.py`). The final answer is also stated as a fact before the query: `score`
reads it there, and with say="fact" the base says it in its own way.

A row falls back to stating its edits, and those that its hops met, before the query (`ice`), where no plan can be read or
the hops run out; where no hop meets the memory, and nothing concerns the row, it is the base's own. `counts` says how
often, and each row's steps say why.

Needs: a statement; nothing is prepared or stored; the base's weights are not touched. Without a memory to look up (outside
an `EditedModel`) the row's own edits are the memory, and words decide.

Example:
    >>> method = load_method("mello", plan="chain")                          # doctest: +SKIP
    >>> with method.applied(base, [[edit]]) as model:                        # doctest: +SKIP
    ...     model.generate(["What is the mayor of the capital of France?"])
"""

from __future__ import annotations

import copy
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from memedit.edit import Edit
from memedit.errors import MethodError
from memedit.methods import _chains, _plans
from memedit.methods._hops import Hit, Hop, HoppingModel, Trace
from memedit.methods._splice import Piece
from memedit.methods.base import EditMethod
from memedit.methods.ice import ICE
from memedit.methods.patched import SMALL
from memedit.subjects import content, find

if TYPE_CHECKING:
    from memedit.chat import Conversation
    from memedit.lm import HFModel

PLANS = ("model", "chain")
NEW_TOKENS = 40  # of a line of a plan, or of an answer to a sub-question
KEPT = 512  # lines that a base has written are kept, since the same plan is made for the verdict and for the answer


# (questions, the time whose facts hold) -> for each question the edits that answer it, oldest first
Lookup = Callable[[Sequence[str], "str | datetime | None"], Sequence[Sequence[Hit]]]


@dataclass(frozen=True)
class _Own:
    edit: Edit
    reason: str = "its subject is named, and more"


class MeLLo(EditMethod):
    """Sub-questions, each looked up in the memory; the final answer is stated before the query.

    Args:
        plan: "model": the base plans, as in the paper; "chain": by the question's words; None: by the words where the base
            has fewer than 100 M parameters. hops: at most so many sub-questions. out: whether it is also asked
            about queries that the router says concern no edit. say: "answer": the final answer is what comes out; "fact": it is
            stated, and the base answers. template: the demonstrations of a plan, in `_plans`' form.
        lookup: the memory; None takes each row's own edits for it.

    Attributes:
        counts: how many rows came to which end: "settled", or why not.

    Raises:
        MethodError: a setting that is none.
    """

    name = "mello"

    def __init__(
        self,
        plan: str | None = None,
        hops: int = 4,
        out: bool = True,
        say: str = "answer",
        template: str | None = None,
        lookup: Lookup | None = None,
    ) -> None:
        if plan is not None and plan not in PLANS:
            raise MethodError(f"mello.plan is {plan!r}; it must be {' or '.join(PLANS)}, or left out")
        if not isinstance(hops, int) or isinstance(hops, bool) or not 1 <= hops <= 16:
            raise MethodError(f"mello.hops is {hops!r}; it must be a whole number from 1 to 16")
        if not isinstance(out, bool):
            raise MethodError(f"mello.out is {out!r}; it must be true or false")
        if say not in ("answer", "fact"):
            raise MethodError(f"mello.say is {say!r}; it must be answer or fact")
        if template is not None and (not isinstance(template, str) or _plans.ASK not in template):
            raise MethodError(
                f"mello.template shows no line that begins with {_plans.ASK!r}; docs/methods.md has the form"
            )
        self.plan, self.hops, self.out, self.say = plan, hops, out, say
        self.template = _plans.TEMPLATE if template is None else template.rstrip("\n") + "\n\n"
        self.lookup = lookup
        self.moment: str | datetime | None = None
        self.counts: Counter[str] = Counter()

    def at(self, moment: str | datetime | None) -> MeLLo:
        """The same method, which looks up facts that hold at another time."""
        other = copy.copy(self)
        other.moment = moment
        return other

    def context(self, edits: Sequence[Edit]) -> list[Piece]:
        """What a row falls back to: one line per edit, oldest first, as `ice` states them."""
        return ICE().context(edits)

    def found(self, base: HFModel, questions: Sequence[str]) -> list[list[Hit]]:
        """The edits that the hops of each question meet; none where it is one hop, or the method is not to be asked."""
        if not self.out or not questions:
            return [[] for _ in questions]
        traces = self.traced(base, questions, [()] * len(questions))
        return [trace.hits if trace.settled or trace.erased else [] for trace in traces]

    def traced(
        self, base: HFModel, questions: Sequence[str], edits_per_row: Sequence[Sequence[Edit]]
    ) -> list[Trace]:
        """How each question is taken apart; all rows take their steps together."""
        lookup = self._lookup(edits_per_row)
        if self._plans_by_model(base):
            traces = [Trace(q, _plans.begun(q, self.template)) for q in questions]
            step = self._planned_step
        else:
            traces = [Trace(q, " ".join(q.split())) for q in questions]
            step = self._chain_step
        for _ in range(self.hops):
            going = [i for i, trace in enumerate(traces) if trace.going]
            if not going:
                break
            step(base, traces, going, lookup)
        going = [i for i, trace in enumerate(traces) if trace.going]
        self._ended(base, traces, going, lookup)
        done = [i for i, trace in enumerate(traces) if trace.answer is not None]
        for i, whole in zip(done, lookup([(i, traces[i].question) for i in done]), strict=True):
            met = {hit.edit.content_hash for hit in traces[i].hits}
            if any(hit.edit.content_hash not in met for hit in whole):
                traces[i].answer, traces[i].why = None, "the memory answers the question as it stands"
        return traces

    @contextmanager
    def applied(
        self,
        base: HFModel,
        edits_per_row: Sequence[Sequence[Edit]],
        talks: Sequence[Conversation | None] | None = None,
    ) -> Iterator[HoppingModel]:
        """A model that takes apart the questions of the rows with edits, and answers all rows in one batch.

        Raises:
            MethodError: an edit without a statement.
        """
        for edit in (edit for edits in edits_per_row for edit in edits):
            self.check(edit)
        yield HoppingModel(base, self, edits_per_row, talks)

    def came_to(self, trace: Trace, edits: Sequence[Edit]) -> tuple[list[Piece], str | None, tuple[str, ...]]:
        """What a row reads before its prompt, what it says (None: what it will), and its steps in words; counted."""
        steps = [str(hop) for hop in trace.hops]
        if trace.settled:
            assert trace.answer is not None
            self.counts["settled"] += 1
            fact = Piece(f"Fact: {_chains.as_statement(trace.question, trace.answer)}\n")
            said = trace.answer if self.say == "answer" else None
            return [fact], said, (*steps, f"final answer: {trace.answer}")
        known = {edit.content_hash for edit in edits}
        met = [hit.edit for hit in trace.hits if hit.edit.content_hash not in known]
        end = trace.why or "no hop met the memory"
        self.counts[end] += 1
        return self.context([*met, *edits]), None, (*steps, f"answered in context: {end}")

    # -- steps

    def _chain_step(self, base: HFModel, traces: Sequence[Trace], going: Sequence[int], lookup: _Ask) -> None:
        """The innermost description of each row is answered and put in."""
        asking: list[tuple[int, tuple[int, int], str]] = []
        for i in going:
            span = _chains.innermost(traces[i].text)
            if span is None:
                continue
            asking.append((i, span, _chains.asked_alone(traces[i].text[slice(*span)])))
        for i in set(going) - {i for i, _, _ in asking}:
            if not traces[i].hops:
                traces[i].why = "the question is one hop"
        hops = self._answered(base, [(i, question) for i, _, question in asking], lookup)
        for i, span, _ in asking:
            hop = hops[i]
            if hop is None:
                traces[i].why = "the model gave no short answer to a sub-question"
                continue
            traces[i].add(hop, _chains.put_in(traces[i].text, span, hop.taken))

    def _planned_step(
        self, base: HFModel, traces: Sequence[Trace], going: Sequence[int], lookup: _Ask
    ) -> None:
        """Each row's next line is read: a sub-question, which is answered and looked up, or the final answer."""
        room = [i for i in going if self._has_room(base, traces[i])]
        lines = self._said(base, [traces[i].text for i in room], stop=True)
        asking: list[tuple[int, str]] = []
        for i, line in zip(room, lines, strict=True):
            read = _plans.planned(line)
            if read is None:
                traces[i].why = "no plan could be read"
            elif read[0] == "final":
                traces[i].answer = read[1]
            elif any(hop.question == read[1] for hop in traces[i].hops):
                traces[i].why = "the plan goes in circles"
            else:
                asking.append((i, read[1]))
        begun = [f"{traces[i].text}{_plans.ASK} {question}\n{_plans.SAY}" for i, question in asking]
        said = self._said(base, begun, stop=True)
        found = lookup(asking)
        for (i, question), start, text, hits in zip(asking, begun, said, found, strict=True):
            own = _plans.short(text)
            taken = self._of_fact(base, question, hits) if hits else own
            if taken is None:
                traces[i].why = "the model gave no short answer to a sub-question"
                continue
            facts = " ".join(hit.edit.statement for hit in hits) or _plans.NOTHING
            text = f"{start} {own or taken}\n{_plans.FOUND} {facts}\n{_plans.TAKEN} {taken}\n"
            traces[i].add(Hop(question, own, tuple(hits), taken), text)

    def _ended(self, base: HFModel, traces: Sequence[Trace], going: Sequence[int], lookup: _Ask) -> None:
        """What is done when the hops are over: a plan by words asks what is left of the question; another has failed."""
        if self._plans_by_model(base):
            room = [i for i in going if self._has_room(base, traces[i])]
            for i, line in zip(
                room, self._said(base, [traces[i].text for i in room], stop=True), strict=True
            ):
                read = _plans.planned(line)
                if read is not None and read[0] == "final":
                    traces[i].answer = read[1]
                else:
                    traces[i].why = f"no final answer within {self.hops} hops"
            return
        hops = self._answered(base, [(i, traces[i].text) for i in going], lookup)
        for i in going:
            hop = hops[i]
            if hop is None:
                traces[i].why = "the model gave no short answer to what was left of the question"
            else:
                traces[i].add(hop, traces[i].text)
                traces[i].answer = hop.taken

    def _answered(
        self, base: HFModel, asking: Sequence[tuple[int, str]], lookup: _Ask
    ) -> dict[int, Hop | None]:
        """Each row's sub-question, answered by the memory where it is in it, else by the base; None: by neither."""
        found = dict(zip((i for i, _ in asking), lookup(asking), strict=True))
        alone = [(i, question) for i, question in asking if not found[i]]
        texts = self._said(base, [_asked(question) for _, question in alone])
        said = {i: _plans.short(text) for (i, _), text in zip(alone, texts, strict=True)}
        out: dict[int, Hop | None] = {}
        for i, question in asking:
            taken = self._of_fact(base, question, found[i]) if found[i] else said[i]
            out[i] = None if taken is None else Hop(question, said.get(i), tuple(found[i]), taken)
        return out

    def _of_fact(self, base: HFModel, question: str, hits: Sequence[Hit]) -> str | None:
        """What the newest of some facts answers; read out of it by the base where the edit is only a statement."""
        newest = hits[-1].edit
        if newest.target is not None or newest.kind == "erase":
            return newest.target or "(withheld)"
        (text,) = self._said(base, [f"Fact: {newest.statement}\n{_asked(question)}"])
        return _plans.short(text)

    # -- the base and the memory

    def _said(self, base: HFModel, prompts: Sequence[str], stop: bool = False) -> list[str]:
        """The base's greedy continuations; what it wrote to the same text before is not asked again."""
        kept = _written(base)
        found = {p: text for p in prompts for text in [kept.get((p, stop))] if text is not None}
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in found]
        if new:
            options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "num_beams": 1}
            options |= {"stop_strings": ["\n"]} if stop else {}
            for prompt, text in zip(new, base.generate(new, **options), strict=True):
                found[prompt] = kept[prompt, stop] = text
            while len(kept) > KEPT:
                kept.popitem(last=False)
        return [found[prompt] for prompt in prompts]

    def _has_room(self, base: HFModel, trace: Trace) -> bool:
        """Whether the plan so far, a sub-question and an answer fit the model; where not, the plan is over."""
        limit = base.context_length
        if limit is not None and len(base.encode_context(trace.text)) + 3 * NEW_TOKENS > limit:
            trace.why = f"the {limit} tokens that the model takes have no room for the plan"
        return trace.going

    def _plans_by_model(self, base: HFModel) -> bool:
        if self.plan is not None:
            return self.plan == "model"
        return sum(p.numel() for p in base.model.parameters()) >= SMALL

    def _lookup(self, edits_per_row: Sequence[Sequence[Edit]]) -> _Ask:
        """Asks the memory about (row, question) pairs; without one, the row's own edits."""

        def ask(asking: Sequence[tuple[int, str]]) -> list[Sequence[Hit]]:
            if not asking:
                return []
            if self.lookup is not None:
                return list(self.lookup([question for _, question in asking], self.moment))
            return [[_Own(e) for e in edits_per_row[i] if _asks_for(question, e)] for i, question in asking]

        return ask


_Ask = Callable[[Sequence[tuple[int, str]]], list[Sequence[Hit]]]


def _asked(question: str) -> str:
    """A question as models of any size read it; a text that goes on stays as it is."""
    return f"Question: {question}\nAnswer:" if question.rstrip().endswith("?") else question


def _asks_for(question: str, edit: Edit) -> bool:
    """Whether a question names an edit's subject and has another word of its prompt: the rule without a router."""
    said = edit.prompt or edit.statement
    named = [name for name in edit.names if find(name, question).share == 1]
    others = content(said) - {word for name in edit.names for word in content(name)}
    return bool(named) and bool((others or content(said)) & content(question))


_WRITING = threading.Lock()


def _written(base: HFModel) -> OrderedDict[tuple[str, bool], str]:
    """What a base has written to which text, as its weights are now."""
    from memedit.methods._watch import kept_beside

    with _WRITING:
        kept: OrderedDict[tuple[str, bool], str] = kept_beside(base).setdefault("mello", OrderedDict())
        return kept
