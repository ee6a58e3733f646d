"""CounterFact with ROME's fields, and what EasyEdit makes of it and of zsRE."""

from __future__ import annotations

from memedit.data.case import Case, Query, QueryKind
from memedit.data.fields import Record, answers, changed, filled, first, flat, grouped, numbered, text
from memedit.edit import Edit


def full(record: Record) -> Case:
    """CounterFact with ROME's fields (arXiv 2202.05262): one rewrite, paraphrases, neighbourhood.

    Its `generation_prompts` have no answer that could be right: they are begun for fluency alone, each once (the file repeats
    them). Its `attribute_prompts` are left out.
    """
    rewrite = record["requested_rewrite"]
    old = first((rewrite.get("target_true") or {}).get("str"))
    edit = rewritten(rewrite, record)
    right = answers(edit)
    queries = [Query("edit", edit.prompt or "", right)]
    queries += [Query("paraphrase", p, right) for p in flat(record.get("paraphrase_prompts"))]
    queries += [Query("paraphrase", p, right) for p in flat(rewrite.get("question"))]
    queries += triplets(rewrite)
    queries += [Query("locality", p, (old or "",)) for p in flat(record.get("neighborhood_prompts"))]
    queries += [Query("locality", p, flat(record.get("loc_ans"))) for p in flat(record.get("loc"))]
    queries += [Query("generation", p) for p in dict.fromkeys(flat(record.get("generation_prompts")))]
    return Case(str(record.get("case_id", "")), edit, tuple(queries))


def rewritten(rewrite: Record, record: Record) -> Edit:
    """The edit of a `requested_rewrite`.

    AKEW (arXiv 2402.18909) adds a passage, `fact_new_uns`, which is then the edit's statement; its WikiUpdate writes the
    answers as `answer_new` and `answer_true`.
    """
    target = first(rewrite["target_new"]["str"] if "target_new" in rewrite else rewrite["answer_new"])
    old = (rewrite.get("target_true") or {}).get("str") or rewrite.get("answer_true")
    return Edit(
        prompt=filled(rewrite["prompt"], text(rewrite["subject"])),
        target=target,
        subject=rewrite["subject"],
        old=changed(old, target),
        statement=text(rewrite.get("fact_new_uns") or ""),
        relation=rewrite.get("relation_id"),
        extra=numbered(record),
    )


def triplets(rewrite: Record, of: int = 0) -> list[Query]:
    """Single facts of AKEW's passage as queries."""
    return [
        Query("portability", filled(one["prompt"], text(one["subject"])), flat(one["target"]), "passage", of)
        for one in rewrite.get("unsfact_triplets_GPT") or ()
    ]


def short(record: Record) -> Case:
    """EasyEdit's fields: prompt, target_new, subject, and whatever queries there are.

    CounterFact's `rephrase_prompt` is often no paraphrase (it was made from a generation prompt): it is kept
    as a query of its kind with the label "rephrase_prompt", which no score of paraphrases counts. Of zsRE and QAEdit,
    whose prompts are questions (CounterFact's never are), it is a paraphrase as any other.
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
    label = "" if (edit.prompt or "").rstrip().endswith("?") else "rephrase_prompt"
    queries += [Query("paraphrase", p, right, label) for p in flat(record.get("rephrase_prompt"))]
    queries += [Query("paraphrase", p, right) for p in flat(record.get("rephrase"))]
    known = flat(record.get("locality_ground_truth")) or ("",)
    queries += [Query("locality", p, known) for p in flat(record.get("locality_prompt"))]
    queries += _plain_or_grouped("locality", record)
    follows = flat(record.get("portability_ground_truth"))
    queries += [Query("portability", p, follows) for p in flat(record.get("portability_prompt"))]
    queries += _plain_or_grouped("portability", record)
    return Case(str(record.get("case_id", "")), edit, tuple(queries))


def _plain_or_grouped(kind: QueryKind, record: Record) -> list[Query]:
    """The queries of a field that is KnowEdit's object, or (QAEdit, arXiv 2502.11177) a question with its answer beside it."""
    given = record.get(kind)
    if not isinstance(given, (str, list)):
        return grouped(kind, given)
    known = flat(record.get(f"{kind}_ans")) or flat(record.get(f"{kind}_answer"))
    return [Query(kind, p, known) for p in flat(given)]
