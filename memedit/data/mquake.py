"""MQuAKE: several edits, and questions that need all of them."""

from __future__ import annotations

from memedit.data.case import Case, Query
from memedit.data.counterfact import rewritten, triplets
from memedit.data.fields import Record, filled, flat, text
from memedit.edit import Edit
from memedit.errors import EditError


def mquake(record: Record) -> Case:
    """A case of MQuAKE-CF, -CF-3k, -T and their later versions (arXiv 2305.14795).

    Each requested rewrite is an edit. Other names of the answers come from the single hops and go to the
    queries; the edits stay the same from case to case, so that repeats are seen as such.
    """
    names = {
        (asked, hop["answer"]): (hop["answer"], *flat(hop.get("answer_alias")))
        for hop in record.get("new_single_hops") or ()
        for asked in (hop.get("question"), hop.get("cloze"))
    }
    edits: list[Edit] = []
    queries: list[Query] = []
    for place, rewrite in enumerate(record["requested_rewrite"]):
        edit = rewritten(rewrite, record)
        prompt, target = filled(rewrite["prompt"], rewrite["subject"]), edit.target or ""
        edits.append(edit)
        right = names.get((prompt, target)) or names.get((rewrite.get("question"), target)) or (target,)
        queries.append(Query("edit", prompt, right, of=place))
        queries += [Query("paraphrase", q, right, of=place) for q in flat(rewrite.get("question"))]
        queries += triplets(rewrite, place)
    if not edits:
        raise EditError("the case requests no rewrite")
    last = (*flat(record.get("new_answer")), *flat(record.get("new_answer_alias")))
    hops = record.get("new_single_hops") or ()
    label = f"{len(hops)}-hop" if hops else ""
    queries += [Query("multi-hop", q, last, label, None) for q in flat(record.get("questions"))]
    queries += [
        Query("hop", text(hop["question"]), (hop["answer"], *flat(hop.get("answer_alias"))), of=None)
        for hop in hops
    ]
    return Case(str(record.get("case_id", "")), edits[0], tuple(queries), tuple(edits[1:]))
