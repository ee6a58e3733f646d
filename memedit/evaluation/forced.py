"""Teacher-forced scores: each answer is given to the model token by token, and looked up there.

This is what most papers report. It is easier than saying the answer: after every token the right one is put in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from memedit.evaluation.answer import Forced, Question
from memedit.lm import Score

Scorer = Callable[
    [Sequence[str], Sequence[str], Sequence[int]], Sequence[Score]
]  # prompts, targets, their rows


def targets(question: Question) -> dict[str, str]:
    """What is scored for a question, by name: "new" and "old", and out of scope "true", the answer that must stay.

    In scope "new" is what would be right there, which for what follows from an edit is not the edit's own target.
    """
    new = question.answers[0] if question.in_scope and question.answers else question.new
    found = {"new": new, "old": question.old}
    if question.kind == "old":
        found = {"new": question.new, "old": question.old or next(iter(question.answers), None)}
    if not question.in_scope:
        found["true"] = next(iter(question.answers), None)
    return {name: text for name, text in found.items() if text and text.strip()}


def forced(questions: Sequence[Question], edited: Scorer, base: Scorer) -> list[Forced | None]:
    """For each question [share of tokens that are the arg-max, log probability, tokens] of what `targets` names.

    Keys "new" and "old" are the edited model's, "base_new" and "base_old" the base's; "unchanged": the share of the true
    answer's positions at which the arg-max is the base's (KnowEdit's locality), out of scope alone.
    """
    todo: dict[tuple[int, str], None] = {}
    for row, question in enumerate(questions):
        todo.update(dict.fromkeys((row, text) for text in targets(question).values()))
    if not todo:
        return [None] * len(questions)
    prompts = [questions[row].prompt for row, _ in todo]
    texts, rows = [text for _, text in todo], [row for row, _ in todo]
    after = dict(zip(todo, edited(prompts, texts, rows), strict=True))
    before = dict(zip(todo, base(prompts, texts, rows), strict=True))
    out: list[Forced | None] = []
    for row, question in enumerate(questions):
        named = targets(question)
        found: dict[str, Any] = dict.fromkeys(("new", "old", "base_new", "base_old", "unchanged"))
        for name in named.keys() & {"new", "old"}:
            found[name] = _plain(after[row, named[name]])
            found[f"base_{name}"] = _plain(before[row, named[name]])
        if "true" in named:
            now, was = after[row, named["true"]].said, before[row, named["true"]].said
            found["unchanged"] = sum(a == b for a, b in zip(now, was, strict=True)) / len(was)
        out.append(found if named else None)
    return out


def _plain(score: Score) -> list[float]:
    return [round(score.agreement, 6), round(score.logprob, 6), len(score.agreed)]


def divergence(lm: Any, base: Any, prompts: Sequence[str], batch_size: int = 16) -> list[float]:
    """KL(base || lm) of the next token after each prompt, in nats; 0 where nothing changed.

    Args:
        lm: an `HFModel` or an `EditedModel`, which routes each prompt. base: the unedited `HFModel`.
    """
    import torch

    out: list[float] = []
    options: dict[str, Any] = {
        "max_new_tokens": 1, "do_sample": False, "return_dict_in_generate": True, "output_logits": True,
    }  # fmt: skip
    for start in range(0, len(prompts), batch_size):
        inputs = base.tokenize(prompts[start : start + batch_size])
        p, q = (
            torch.log_softmax(model.generate(**inputs, **options).logits[0].float(), -1)
            for model in (base, lm)
        )
        out += (p.exp() * (p - q)).sum(-1).clamp(min=0).tolist()
    return out
