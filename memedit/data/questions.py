"""Sets that give a fact as a row of questions: HalluEditBench, WikiBigEdit, the editing attacks."""

from __future__ import annotations

from memedit.data.case import Case, Query
from memedit.data.fields import Record, answers, changed, first, flat, named, text
from memedit.edit import Edit

_HOPS = range(2, 7)


def hallu(record: Record) -> Case:
    """HalluEditBench (arXiv 2410.16251): a fact that a model got wrong, asked in many ways.

    Its two-hop to six-hop questions have answers of their own; a locality question has none, since it must stay as it was.
    """
    question = text(record["question"])
    target = first(record.get("object")) or first(record.get("label"))
    subject = first(record.get("subject"))
    edit = Edit(
        prompt=question, target=target, subject=named(subject, question), relation=record.get("relation")
    )
    right = answers(edit)
    queries = [Query("edit", question, right)]
    queries += [Query("paraphrase", ask, right) for ask in flat(record.get("paraphrased_question"))]
    for key, known, label in (
        ("yes_question", ("Yes",), "yes"),
        ("no_question", ("No",), "no"),
        ("multiple_choice_with_letters", flat(record.get("multiple_choice_labels")), "multiple_choice"),
    ):
        queries += [Query("portability", ask, known, label) for ask in flat(record.get(key))]
    if subject:
        asks = flat(record.get("reversed_relation_question"))
        queries += [Query("reversal", ask, (subject,), "reversed_relation") for ask in asks]
    for hops in _HOPS:
        known = flat(record.get(f"answer_{hops}hop"))
        asks = flat(record.get(f"question_{hops}hop"))
        queries += [Query("multi-hop", ask, known, f"{hops}-hop", None) for ask in asks]
    queries += [Query("locality", ask) for ask in flat(record.get("locality_question"))]
    return Case("", edit, tuple(queries))


def wikibig(record: Record) -> Case:
    """WikiBigEdit (arXiv 2503.05683): changes of Wikidata as questions, by a persona's words too, and two hops away.

    A relation may have several values at once, so it is not taken: by it one would pass for the other's successor.
    """
    question = text(record["update"])
    target = first(record["ans"])
    edit = Edit(
        prompt=question,
        target=target,
        subject=named(first(record.get("subject")), question),
        old=changed(record.get("ground_truth"), target),
    )
    right = answers(edit)
    queries = [Query("edit", question, right)]
    queries += [Query("paraphrase", ask, right) for ask in flat(record.get("rephrase"))]
    queries += [Query("paraphrase", ask, right, "personas") for ask in flat(record.get("personas"))]
    far = flat(record.get("mhop_ans"))
    queries += [Query("multi-hop", ask, far, "2-hop", None) for ask in flat(record.get("mhop"))]
    known = flat(record.get("loc_ans"))
    queries += [Query("locality", ask, known) for ask in flat(record.get("loc"))]
    return Case(str(record.get("tag") or ""), edit, tuple(queries))


def attack(record: Record) -> Case:
    """Editing attacks (arXiv 2407.20224): false claims, as a sentence and as questions.

    Their relations ("can help") are no keys of one fact, and are not taken.
    """
    question = text(record["questions"])
    edit = Edit(
        prompt=question,
        target=text(record["targets"]),
        statement=text(record["counterfacts"]),
        subject=named(first(record.get("subjects")), question),
    )
    right = answers(edit)
    queries = [Query("edit", question, right)]
    queries += [Query("paraphrase", ask, right) for ask in flat(record.get("paraphrased_questions"))]
    queries += [Query("portability", ask, right) for ask in flat(record.get("portability_questions"))]
    return Case("", edit, tuple(queries))
