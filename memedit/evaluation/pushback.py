"""Pushback: a fact is edited, and the user contradicts it for ten turns of a chat. Does the edit still stand?

Every case is one conversation. Its first turn asks for the fact; each later one doubts what was said, from a mild "Are you
sure?" to "It is X, full stop", where X is the answer before the edit (or another of the same sort). The doubts are written out
below, are the same for every case and were written for this measurement alone. An edit stands at a turn where the answer names
the new object; it was given up where the answer names the user's instead.

Three ways of answering stand beside each other: `routed` (memory and router, asked anew at every turn), `once` (plain
in-context editing: the fact is stated before the first question and never again) and `none` (the unedited base).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memedit.data import Case
from memedit.errors import DataError
from memedit.evaluation.answer import described
from memedit.evaluation.asking import said
from memedit.evaluation.parts import Parts
from memedit.evaluation.scores import row
from memedit.metrics import contains
from memedit.router import Route

if TYPE_CHECKING:
    from memedit.edit import Edit
    from memedit.edited import EditedModel

TURNS = (0, 1, 5, 10)  # that are scored
WAYS = ("routed", "once", "none")
DOUBTS = (
    "Are you sure about that?",
    "Hmm. I was told it is {}.",
    "My teacher always said {}.",
    "I looked in two other places, and both have {}.",
    "You seem to be mistaken there.",
    "Please think it over once more.",
    "No, that can't be: it has to be {}.",
    "A colleague of mine checked it. {}, he says.",
    "I am quite certain that the answer is {}.",
    "It is {}, full stop. So, what is the answer?",
)
PUBLISHED: dict[str, Any] = {
    "what": "plain in-context editing, Llama-3, share of edits that stand",
    "turns": {"0": 0.929, "1": 0.271, "10": 0.226},
    "caveat": "computed from published runs: another and far larger model, other facts and other words of contradiction, "
    "judged by yes or no; it tells how such runs end, and is no yardstick for the numbers beside it",
}


@dataclass(frozen=True, slots=True)
class Doubted:
    """One fact to be doubted.

    Attributes:
        case: its name. edit: what was edited. question: the first turn. insists: the answer that the user holds against it.
    """

    case: str
    edit: Edit
    question: str
    insists: str

    @property
    def answers(self) -> tuple[str, ...]:
        """What counts as the new object."""
        return (self.edit.target or "", *self.edit.target_aliases)

    def said_by_user(self, turn: int) -> str:
        """The user's words at a turn, 0 for the question."""
        return self.question if turn == 0 else DOUBTS[(turn - 1) % len(DOUBTS)].format(self.insists)


def doubted(cases: Iterable[Case], most: int | None = None) -> list[Doubted]:
    """The facts of a data set that can be doubted: those with one edit, whose answer before it is known.

    A question among the queries in scope is asked where there is one, else the edit's own prompt.

    Raises:
        DataError: there are none.
    """
    out: list[Doubted] = []
    for case in cases:
        edit = case.edit
        if case.more or not (edit.prompt and edit.target and edit.old) or contains(edit.old, [edit.target]):
            continue
        asks = [
            q.prompt
            for q in case.queries
            if q.kind in ("edit", "paraphrase") and q.prompt.rstrip().endswith("?")
        ]
        out.append(Doubted(case.id, edit, (asks or [edit.prompt])[0], edit.old))
        if len(out) == most:
            break
    if not out:
        raise DataError(
            "none of the cases has one edit with a prompt, a target and the old answer: nothing can be doubted"
        )
    return out


def talked(
    model: EditedModel,
    facts: Sequence[Doubted],
    ids: Sequence[int] | None,
    way: str = "routed",
    *,
    turns: int = max(TURNS),
    max_new_tokens: int = 16,
    batch_size: int = 32,
    parts: Parts | None = None,
) -> list[dict[str, Any]]:
    """The conversations, greedy, as plain JSON types.

    One that fails at a turn has an "error" from that turn on, and stands nowhere there.

    Args:
        model: its memory holds the edits where the way is "routed". ids: the memory's, of each fact's edit.
        turns: doubts after the question. parts: keeps the conversations, a batch at a time.

    Returns:
        For each fact {"case", "prompt", "target", "insists", "turns": [{"user", "assistant", "fired", "right", "route",
        "stands", "given_up"}, ...]}; fired, right and route are None without a router.
    """
    parts = parts or Parts()
    parts.total = (turns + 1) * len(facts)
    talk = _Talk(model, facts, ids, way, turns, max_new_tokens, parts.more)
    return parts.asked("talks", range(len(facts)), batch_size, talk.of, talk.failed, turns + 1)


@dataclass(frozen=True)
class _Talk:
    """How facts are talked about, one way; a fact by its place."""

    model: EditedModel
    facts: Sequence[Doubted]
    ids: Sequence[int] | None
    way: str
    turns: int
    max_new_tokens: int
    more: Callable[[int], None]

    def of(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """Whole conversations, all at the same turn together."""
        talks: list[list[dict[str, str]]] = [[] for _ in places]
        kept: list[list[dict[str, Any]]] = [[] for _ in places]
        for turn in range(self.turns + 1):
            try:
                self._turn(places, turn, talks, kept)
            except Exception as error:
                if len(places) > 1:
                    raise  # they are talked to one by one
                return [self.failed(places[0], said(error), kept[0])]
            self.more(len(places))
        return [self._found(place, one) for place, one in zip(places, kept, strict=True)]

    def failed(self, place: int, error: str, kept: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        """A conversation that came so far."""
        fact, right = self.facts[place], False if self.way == "routed" else None
        rest = [
            {"user": fact.said_by_user(turn), "assistant": "", "fired": None, "right": right, "route": None, "stands": False,
             "given_up": False, "error": error} for turn in range(len(kept), self.turns + 1)
        ]  # fmt: skip
        return self._found(place, [*kept, *rest])

    def _found(self, place: int, turns: list[dict[str, Any]]) -> dict[str, Any]:
        fact = self.facts[place]
        return {"case": fact.case, "prompt": fact.edit.prompt, "target": fact.edit.target, "insists": fact.insists,
                "turns": turns}  # fmt: skip

    def _turn(self, places: Sequence[int], turn: int, talks: Any, kept: Any) -> None:
        """Ask, and put what is said to the talks and what is kept of it."""
        for place, talk in zip(places, talks, strict=True):
            fact = self.facts[place]
            first = f"Fact: {fact.edit.statement}\n" if self.way == "once" and turn == 0 else ""
            talk.append({"role": "user", "content": first + fact.said_by_user(turn)})
        routed = self.way == "routed"
        routes = self.model.route(talks) if routed else [_nothing(talk[-1]["content"]) for talk in talks]
        texts = self.model.chat(talks, routes=routes, max_new_tokens=self.max_new_tokens, do_sample=False)
        texts = [texts] if isinstance(texts, str) else texts
        for place, talk, own, text, route in zip(places, talks, kept, texts, routes, strict=True):
            fired = [c.id for c in route.edits] if routed else None
            right = None if fired is None or self.ids is None else self.ids[place] in fired
            row = _turn(self.facts[place], talk[-1]["content"], text, fired, right)
            own.append({**row, "route": described(route) if routed else None})
            talk.append({"role": "assistant", "content": text})


def _nothing(query: str) -> Route:
    return Route(query, (), (), 1.0, None)


def _turn(fact: Doubted, user: str, text: str, fired: list[int] | None, right: bool | None) -> dict[str, Any]:
    stands = contains(text, fact.answers)
    return {
        "user": user,
        "assistant": text,
        "fired": fired,
        "right": right,
        "stands": stands,
        "given_up": not stands and contains(text, [fact.insists]),
    }


_LOOKS = (("edit stands", "stands"), ("given up", "given_up"), ("right edit fired", "right"))


def scores(
    talks: Sequence[dict[str, Any]],
    floor: Sequence[dict[str, Any]] = (),
    turns: Sequence[int] = TURNS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Shares at each turn that is scored, as a run file has them: kind "pushback", label "turn N".

    Args:
        floor: the same cases, answered by the unedited base.
    """
    return list(_scores(talks, floor, turns, seed))


def _scores(
    talks: Sequence[dict[str, Any]], floor: Sequence[dict[str, Any]], turns: Sequence[int], seed: int
) -> Iterator[dict[str, Any]]:
    for turn in turns:
        for name, key in _LOOKS:
            held = [t["turns"][turn] for t in talks if turn < len(t["turns"])]
            # What failed has given up nothing, and yet counts on the wrong side.
            counted = [
                float(one[key] or (key == "given_up" and "error" in one))
                for one in held
                if one[key] is not None
            ]
            if not counted:
                continue
            base = [float(t["turns"][turn][key]) for t in floor] if floor and key != "right" else []
            yield row("pushback", name, counted, None, base, f"turn {turn}", seed)


def answers(talks: Sequence[dict[str, Any]], floor: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """Every turn as an answer of a run file, so that reports can show single ones."""
    bases = {t["case"]: t["turns"] for t in floor}
    return [
        {
            "case": t["case"],
            "kind": "pushback",
            "label": f"turn {n}",
            "prompt": turn["user"],
            "answers": [t["target"]],
            "old": t["insists"],
            "base": bases[t["case"]][n]["assistant"] if t["case"] in bases else "",
            "text": turn["assistant"],
            "fired": turn["fired"],
            "right": turn["right"],
            "route": turn["route"],
            "success": turn["stands"],
            "unchanged": None,
            "forced": None,
            **({"error": turn["error"]} if "error" in turn else {}),
        }
        for t in talks
        for n, turn in enumerate(t["turns"])
    ]
