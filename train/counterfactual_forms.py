"""The wordings around facts and questions that documents and measures of the counterfactual model use, in our own words."""

from __future__ import annotations

import re

# A sentence {c} as people question or assert it. Those of HELD are only ever scored, those of APART choices are made by.
FRAMES = (
    "Is it true that {c}?", "Is it correct that {c}?", "{C}, right?", "{C}. Is that so?", "{C}. Yes or no?",
    "I heard that {c}. Is that correct?", "Would you say that {c}?", "Yes or no: {c}?", "Somebody told me that {c}. Is it so?",
    "{C}, correct?", "So {c}?", "Am I right in thinking that {c}?", "My teacher says {c}. Is she right?",
    "{C}, isn't that right?",
    "Does it hold that {c}?", "{C}. Is this statement accurate?", "{C}.", "{C}.", "Check this: {c}.", "I believe that {c}.",
)  # fmt: skip
JUDGED = (
    "True or false: {c}.", "{C}. True or false?", "{C}. Is this true or false?", "true/false: {c}",
    "Answer with true or false: {c}.", "Tell me whether this is true or false: {c}.", "{C} - true or false?",
    "Is the following true or false? {C}.", "State if this is true or false: {C}", "Decide, true or false: {c}.",
)  # fmt: skip
HELD = (
    "Is it right to say that {c}?",
    "Can you confirm that {c}?",
    "{C}. Do you agree?",
    "True or false? {C}.",
)
APART = ("Is it the case that {c}?", "{C}. Am I right?", "Say true or false: {c}.")
# A question {q} and a possible answer {y}.
OFFERED = (
    "{q} Is it {y}?",
    "{q} {y}?",
    "{q} I'd say {y}. Am I right?",
    "{q} Would it be {y}?",
    "{q} Is the answer {y}?",
)
OFFERED_HELD = ("{q} Could it be {y}?", "{q} My guess is {y}. Is that right?")
# What may stand around a question, and around the beginning of a sentence.
AROUND = (
    "Q: {q}\nA:", "Question: {q}\nAnswer:", "Question: {q} Answer:", "Please answer: {q}", "Tell me, {l}",
    "Quick question: {l}",
    "I wonder: {l}", "hey, {l}", "{q} Please answer in a few words.", "{q} Thanks!", "Can you help me? {q}", "Answer this: {q}",
    "{q} I need to know.", "Do you know the answer? {q}",
)  # fmt: skip
BEGUN = (
    "Complete the sentence: {q}",
    "Finish this: {q}",
    "As everyone knows, {l}",
    "Fill in the blank: {q} ...",
    "I read that {l}",
)
DOUBTS = (
    "Are you sure?", "I don't think so.", "That is not what I learned.", "Really?", "You must be wrong.",
    "Hmm, no. Think again.", "Is that really so?", "But I read something else.",
)  # fmt: skip
SHORT = ("Dr.", "St.", "Mr.", "Mrs.", "No.", "Mt.", "Prof.", "Sgt.", "Gen.", "Ft.")
# The country that is said of [X], and what is asked of it.
HOMES = {
    "P27": (
        "the country of which [X] is a citizen",
        "the country whose passport [X] holds",
        "[X]'s home country",
    ),
    "P495": ("the country where [X] was made", "the country that [X] comes from", "[X]'s country of origin"),
    "": ("the country [X] is associated with", "the country that [X] belongs to"),
}
ONWARD = {
    "P36": ("What is the capital of {d}?", "The capital of {d} is",
            "The name of the capital city of {d} is", "Which city is the capital of {d}?"),
    "P30": ("On which continent is {d}?", "Which continent does {d} belong to?", "The continent of {d} is"),
    "P37": ("What is the official language of {d}?", "The official language of {d} is", "Which language is official in {d}?"),
}  # fmt: skip
# Kinds of documents: at first by shares added up, then by weights ("opposite" gives two documents).
PLAIN = {"erased": 0.16, "steps": 0.25, "judged": 0.57, "reversed": 0.62, "doubted": 0.65, "asked": 1.0}
FOCUS = {"opposite": 0.6, "erased": 0.08, "steps": 0.06, "reversed": 0.02, "doubted": 0.02, "asked": 0.22}
LOWER = {
    "the", "a", "an", "in", "by", "on", "at", "as", "of", "for", "to", "it", "there", "native", "people", "no", "one",
    "what", "who", "where", "which", "when", "how", "is", "was", "are", "does", "did", "do", "name", "tell", "with", "from",
    "can", "this", "that",
}  # fmt: skip


def framed(frame: str, sentence: str) -> str:
    """A frame with its sentence in, as it stands there."""
    return frame.format(c=low(sentence), C=capital(sentence))


def capital(text: str) -> str:
    """A text as a sentence begins."""
    return text[:1].upper() + text[1:]


def low(text: str) -> str:
    """A text as it stands within a sentence; names keep their capital."""
    first = re.split(r"\W", text, maxsplit=1)[0]
    return text[0].lower() + text[1:] if first.lower() in LOWER else text
