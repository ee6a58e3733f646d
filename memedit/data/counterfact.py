"""CounterFact with ROME's fields, and what EasyEdit makes of it and of zsRE."""

from __future__ import annotations

from memedit.data.case import Case, Query
from memedit.data.fields import Record, answers, changed, filled, first, flat, grouped, numbered, text
from memedit.edit import Edit


def full(record: Record) -> Case:
    """CounterFact with ROME's fields (arXiv 2202.05262): one rewrite, paraphrases, neighbourhood.

    Its `attribute_prompts` and `generation_prompts` have no answer that could be right, and are left out.
    """
    rewrite = record["requested_rewrite"]
    old = (rewrite.get("target_true") or {}).get("str")
    target = rewrite["target_new"]["str"]
    edit = Edit(
        prompt=filled(rewrite["prompt"], text(rewrite["subject"])),
        target=target,
        subject=rewrite["subject"],
        old=changed(old, target),
        relation=rewrite.get("relation_id"),
        extra=numbered(record),
    )
    right = answers(edit)
    queries = [Query("edit", edit.prompt or "", right)]
    queries += [Query("paraphrase", p, right) for p in flat(record.get("paraphrase_prompts"))]
    queries += [Query("locality", p, (old or "",)) for p in flat(record.get("neighborhood_prompts"))]
    return Case(str(record.get("case_id", "")), edit, tuple(queries))


def short(record: Record) -> Case:
    """EasyEdit's fields: prompt, target_new, subject, and whatever queries there are.

    CounterFact's `rephrase_prompt` is often no paraphrase (it was made from a generation prompt): it is kept
    as a query of its kind, and its score has to be read with that in mind.
    """
    target, *aliases = flat(record["target_new"]) or ("",)
    subject = first(record["subject"])
    edit = Edit(
        prompt=filled(record["prompt"], subject or ""),
        target=target,
        subject=subject,
        target_aliases=tuple(aliases),
        old=changed(record.get("ground_truth"), target),
        extra=numbered(record),
    )
    right = answers(edit)
    queries = [Query("edit", edit.prompt or "", right)]
    queries += [Query("paraphrase", p, right) for p in flat(record.get("rephrase_prompt"))]
    queries += [Query("paraphrase", p, right) for p in flat(record.get("rephrase"))]
    known = flat(record.get("locality_ground_truth")) or ("",)
    queries += [Query("locality", p, known) for p in flat(record.get("locality_prompt"))]
    queries += grouped("locality", record.get("locality"))
    follows = flat(record.get("portability_ground_truth"))
    queries += [Query("portability", p, follows) for p in flat(record.get("portability_prompt"))]
    queries += grouped("portability", record.get("portability"))
    return Case(str(record.get("case_id", "")), edit, tuple(queries))
