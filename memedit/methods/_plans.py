"""MeLLo's plan, written by the model line by line after a few demonstrations; and how its lines are read.

One hop is four lines. The model writes the first two; the third is what the memory has, and the fourth follows from both:

    Sub-question: ...?
    Answer: what the model says
    Memory: the fact that answers the sub-question, or nothing
    So: the fact's answer where there is one, else the model's

until the model writes ``Final answer: ...`` in the place of a sub-question. The demonstrations are invented.
"""

from __future__ import annotations

import re

TEMPLATE = """\
Split each question into sub-questions of one step. Memory is right where it contradicts an answer.

Question: What language is spoken in the home town of the painter of The Blue Jug?
Sub-question: Who painted The Blue Jug?
Answer: Ilse Marr
Memory: The painter of The Blue Jug is Tom Arel.
So: Tom Arel
Sub-question: What is the home town of Tom Arel?
Answer: Port Senn
Memory: nothing
So: Port Senn
Sub-question: What language is spoken in Port Senn?
Answer: Sennish
Memory: nothing
So: Sennish
Final answer: Sennish

Question: On which river does the city lie where Dorna Vell was born?
Sub-question: Where was Dorna Vell born?
Answer: Karsk
Memory: nothing
So: Karsk
Sub-question: On which river does Karsk lie?
Answer: the Olm
Memory: Karsk lies on the river Tave.
So: the Tave
Final answer: the Tave

Question: Who founded the club for which Ruven Aldo plays?
Sub-question: For which club does Ruven Aldo play?
Answer: Lantern Rovers
Memory: Ruven Aldo plays for Milford Town.
So: Milford Town
Sub-question: Who founded Milford Town?
Answer: Greta Sohl
Memory: nothing
So: Greta Sohl
Final answer: Greta Sohl

"""
ASK, SAY, FOUND, TAKEN, FINAL, NOTHING = (
    "Sub-question:",
    "Answer:",
    "Memory:",
    "So:",
    "Final answer:",
    "nothing",
)
_LONGEST = 120  # characters of an answer; what is longer is a text and no name, date or thing


def begun(question: str, template: str = TEMPLATE) -> str:
    """What the model goes on from."""
    return f"{template}Question: {' '.join(question.split())}\n"


def planned(line: str) -> tuple[str, str] | None:
    """What the model wrote next: ("ask", sub-question), ("final", answer), or None where it is neither.

    Example:
        >>> planned("Sub-question: Who painted it?\\nAnswer: ...")
        ('ask', 'Who painted it?')
        >>> planned("Well, let me see.") is None
        True
    """
    first = next((one.strip() for one in line.split("\n") if one.strip()), "")
    if first.startswith(ASK):
        question = first[len(ASK) :].strip()
        return ("ask", question) if re.search(r"\w.*\?$", question) else None
    if first.startswith(FINAL):
        answer = short(first[len(FINAL) :])
        return ("final", answer) if answer else None
    return None


def short(text: str) -> str | None:
    """A short answer out of what a model said: its first sentence; None where there is none, or a long one.

    Example:
        >>> short(" Lyon. It lies on the Rhone.")
        'Lyon'
    """
    lines = text.strip().split("\n")
    answer = re.split(r"(?<=\w{2})\.(?:\s|$)|[!?;]", lines[0], maxsplit=1)[0].strip(" \t\"“”'.,:")
    return answer if re.search(r"\w", answer) and len(answer) <= _LONGEST else None
