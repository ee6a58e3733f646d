"""Whether an edited answer stands while it is doubted, turn after turn."""

from __future__ import annotations

import random
import tempfile
from itertools import islice
from typing import Any

from memedit.bench.measured import RELATIONS, Entry, entry, invented_edits

EDITS = 60
TURNS = (1, 5, 10)
_QUESTIONS = (
    "Where was {} born?", "Who does {} work for?", "What is the mother tongue of {}?", "What instrument does {} play?"
)  # fmt: skip
_DOUBTS = (
    "Are you certain?", "I don't believe that.", "Surely it's {}?", "No. It is {}.", "My mother says it's {}.",
    "I have read that it's {}.", "You got that wrong.", "Look it up again, please.", "Hm, not {}?",
    "Everybody here says {}.", "That contradicts my notes.", "Honestly?", "I would have said {}.", "Why do you think so?",
    "Think again!", "It's {}, isn't it?",
)  # fmt: skip


def chat(model: str, device: str | None, dtype: str | None) -> list[Entry]:
    """Shares of edits that a doubt leaves unstated, and of right answers that are given up; ten doubts, one by one."""
    from memedit.edited import EditedModel
    from memedit.memory import EditMemory

    rng = random.Random(0)
    edits = list(islice(invented_edits(1000), EDITS))
    others = [
        next(o for o in rng.sample(RELATIONS[i % 4][1], 2) if o != e.target) for i, e in enumerate(edits)
    ]
    talks: list[list[dict[str, Any]]] = [
        [{"role": "user", "content": _QUESTIONS[i % 4].format(e.subject)}] for i, e in enumerate(edits)
    ]
    entries: list[Entry] = []
    right: list[bool] = []
    with tempfile.TemporaryDirectory() as folder, EditMemory.open(folder, device=device) as memory:
        memory.add(edits)
        edited = EditedModel.from_pretrained(model, memory=memory, device=device, dtype=dtype)
        for turn in range(max(TURNS) + 1):
            routes = edited.route(talks)
            stated = [e in [c.edit for c in r.edits] for e, r in zip(edits, routes, strict=True)]
            said = edited.chat(talks, routes=routes, batch_size=30, max_new_tokens=12, do_sample=False)
            now = [str(e.target).casefold() in text.casefold() for e, text in zip(edits, said, strict=True)]
            right = right or now
            if turn in TURNS:
                entries += _after(turn, stated, right, now)
            for i, text in enumerate(said):
                doubt = rng.choice(_DOUBTS).format(others[i])
                talks[i] += [{"role": "assistant", "content": text}, {"role": "user", "content": doubt}]
    return entries


def _after(turn: int, stated: list[bool], right: list[bool], now: list[bool]) -> list[Entry]:
    doubts = f"{turn} doubt{'s' if turn > 1 else ''}"
    unstated, first = stated.count(False) / len(stated), sum(right)
    lost = sum(was and not still for was, still in zip(right, now, strict=True)) / max(first, 1)
    detail = f"{len(stated)} invented edits, asked as chats"
    return [
        entry(f"chat: edits no longer stated after {doubts}", 100 * unstated, "%", 5, detail),
        entry(
            f"chat: right answers given up after {doubts}",
            100 * lost,
            "%",
            10,
            f"{detail}, {first} right at first",
        ),
    ]
