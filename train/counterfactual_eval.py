"""How the counterfactual model is measured: facts of subjects it never saw, free generation, the right edit handed to it.

Two parts are built alike: *apart*, from facts that were kept apart from training, by which choices are made; and *scored*,
CounterFact val, zsRE 1k's dev rows and CounterFact-Hard's dev questions, which only the card's table is made of. An
answer counts when, normalised, it starts with the object at a word boundary; a claim's, when it starts with the right verdict.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from counterfactual_bank import bare
from counterfactual_data import Part, Sources, part_of
from counterfactual_forms import APART, HELD, HOMES, OFFERED_HELD, ONWARD, framed

from memedit.edit import Edit
from memedit.errors import EditError
from memedit.methods import load_method
from memedit.methods.ice import REFUSAL
from memedit.metrics import contains, starts_with
from memedit.scope_eval.known import alias

NEW_TOKENS = 16
# What the issue of a row is called in the table, and the share to reach.
CLAIMED = "yes/no and claims"
TARGETS = {
    "own prompt": 0.97, "paraphrase": 0.93, CLAIMED: 0.88, "erased: refused": 0.95, "erased: old answer given": 0.02,
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """One query under one edit: of which score and set it is, and what counts."""

    score: str
    source: str
    edit: Edit
    query: str
    gold: tuple[str, ...]
    old: str = ""


def questions(s: Sources, part: Part, limit: int = 0, seed: int = 1) -> list[Question]:
    """All questions of a part; with a limit, at most so many of each score and set, drawn by the seed."""
    rng = random.Random(seed)
    found = [*_relational(s, part, rng), *_steps(s, part, rng)]
    if part == "scored":
        found += [*_zsre(s, rng), *_natural(s)]
    groups = defaultdict(list)
    for q in found:
        groups[q.score, q.source].append(q)
    return [
        q for some in groups.values() for q in (rng.sample(some, limit) if 0 < limit < len(some) else some)
    ]


def _edit(**fields: Any) -> Edit | None:
    try:
        return Edit(**fields)
    except EditError:
        return None


def _facts(s: Sources, part: Part, rng: random.Random) -> list[tuple[str, str, str, str, str]]:
    """(ParaRel's id, prompt, subject, false object, true object) of a part."""
    out = []
    if part == "apart":
        for number, facts in s.apart.items():
            forms = s.knowledge.trained.get(number)
            for fact in facts if forms else ():
                false = rng.choice([o for o in s.objects[number] if o != fact.obj] or [s.any_object[0]])
                out.append(
                    (number, rng.choice(forms).replace("[X]", fact.subject), fact.subject, false, fact.obj)
                )  # type: ignore[arg-type]
        return out
    relation_of = {bare(form): number for number, forms in s.knowledge.trained.items() for form in forms}
    relation_of |= {bare(form): number for number, form in s.knowledge.held_out.items()}
    seen = set()
    for row in s.data.rows("counterfact/counterfact-val.json"):
        if (row["subject"], row["prompt"]) not in seen:
            seen.add((row["subject"], row["prompt"]))
            number = relation_of.get(bare(row["prompt"].replace(row["subject"], "[X]")), "")
            out.append((number, row["prompt"], row["subject"], row["target_new"], row["ground_truth"]))
    return out


def _relational(s: Sources, part: Part, rng: random.Random) -> list[Question]:
    """Own prompts, held-out patterns, held-out yes/no forms and claims, and all of it withheld."""
    source = "CounterFact val" if part == "scored" else "kept apart"
    frames, out = HELD if part == "scored" else APART, []
    facts = _facts(s, part, rng)
    like = defaultdict(set)
    for number, _, _, false, _ in facts:
        like[number].add(false)
    for number, prompt, subject, obj, old in facts:
        edit = _edit(prompt=prompt, target=obj, subject=subject, old=old)
        withheld = _edit(prompt=prompt, subject=subject, old=old, kind="erase")
        if edit is None or withheld is None:
            continue
        forms = s.held[part].get(number, {})
        asked = [prompt]
        out.append(Question("own prompt", source, edit, prompt, (obj,), old))
        pattern = forms.get("pattern", "").replace("[X]", subject)
        if pattern and pattern != prompt:
            asked.append(pattern)
            out.append(Question("paraphrase", f"{source}, held-out pattern", edit, pattern, (obj,), old))
        out += [Question("erased", source, withheld, query, (REFUSAL,), old) for query in asked]
        others = sorted(like[number] - {obj})
        for right in (True, False):
            said = obj if right else old if rng.random() < 0.5 or not others else rng.choice(others)
            verdict = ("Yes",) if right else ("No",)
            for name in ("yes_no", "claim"):
                if name in forms:
                    query = forms[name].replace("[X]", subject).replace("[Y]", said)
                    out.append(Question(CLAIMED, f"{source}, held-out form", edit, query, verdict, old))
            frame = rng.choice(frames)
            if "true or false" in frame.lower():
                verdict = ("True",) if right else ("False",)
            query = framed(frame, f"{prompt} {said}")
            out.append(Question(CLAIMED, f"{source}, own prompt in a frame", edit, query, verdict, old))
    return out


def _zsre(s: Sources, rng: random.Random) -> list[Question]:
    out = []
    for row in s.data.rows("zsre/zsre_mend_train-1k.json", "dev"):
        prompt, subject, obj, old = row["src"], row["subject"], row["alt"], row["pred"]
        edit = _edit(prompt=prompt, target=obj, subject=subject, old=old)
        withheld = _edit(prompt=prompt, subject=subject, old=old, kind="erase")
        if edit is None or withheld is None:
            continue
        out.append(Question("own prompt", "zsRE dev", edit, prompt, (obj,), old))
        out.append(Question("paraphrase", "zsRE dev, rephrase", edit, row["rephrase"], (obj,), old))
        for said, verdict in ((obj, "Yes"), (old, "No")):
            query = rng.choice(OFFERED_HELD).format(q=prompt, y=said)
            out.append(Question(CLAIMED, "zsRE dev, answer offered", edit, query, (verdict,), old))
        out += [
            Question("erased", "zsRE dev", withheld, q, (REFUSAL,), old) for q in (prompt, row["rephrase"])
        ]
    return out


def _natural(s: Sources) -> list[Question]:
    """CounterFact-Hard's edits as sentences, asked by its questions; the first of them withheld."""
    out = []
    for row in s.data.rows("eren/counterfact_hard_dev.json"):
        edit = _edit(statement=row["edit_statement"], subject=row["subject_name"])
        asked = dict.fromkeys(query for query, _ in row["edit_scope"])
        if edit is None or not asked:
            continue
        for query, obj in dict.fromkeys((q, a) for q, a in row["edit_scope"]):
            out.append(Question("paraphrase", "CounterFact-Hard dev, questions", edit, query, (obj,)))
        withheld = _edit(prompt=next(iter(asked)), kind="erase")
        old = row["edit_scope_true_ans"][0]
        if withheld is not None:
            out += [Question("erased", "CounterFact-Hard dev", withheld, q, (REFUSAL,), old) for q in asked]
    return out


def _steps(s: Sources, part: Part, rng: random.Random) -> list[Question]:
    """Queries that need the edit on the way: a country's capital, continent, language; and the sets' own."""
    out = []
    for number, home in ((n, h) for n, homes in HOMES.items() if n for h in homes[:1]):
        pattern = next(iter(s.knowledge.trained[number]))
        for fact in _subjects_of(s, part, number):
            country = rng.choice(sorted(s.countries))
            step = rng.choice(sorted(s.countries[country]))
            edit = _edit(prompt=pattern.replace("[X]", fact), target=country, subject=fact)
            query = ONWARD[step][0].format(d=home.replace("[X]", fact))
            if edit is not None:
                gold = (s.countries[country][step],)
                out.append(
                    Question("one step on", "a country's capital, continent, language", edit, query, gold)
                )
    if part == "scored":
        for name in ("wiki_counterfact", "wiki_recent"):
            for row in s.data.rows(f"knowedit/{name}_train.json", "dev"):
                edit = _edit(prompt=row["prompt"], target=row["target_new"], subject=row["subject"])
                for q in (row.get("portability") or {}).get("Reasoning", ()) if edit is not None else ():
                    truth = q["ground_truth"]
                    gold = tuple([truth] if isinstance(truth, str) else _flat(truth))
                    if gold and alias(row["prompt"], row["subject"], q["prompt"]) is None:
                        out.append(Question("one step on", f"{name} dev, reasoning", edit, q["prompt"], gold))
    return out


def _flat(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [t for v in value or () for t in _flat(v)]


def _subjects_of(s: Sources, part: Part, number: str) -> list[str]:
    if part == "apart":
        return [fact.subject for fact in s.apart[number]]
    rows = s.data.rows("pararel/triples_scope_train.jsonl", "dev")
    return sorted(
        {
            r["sub_label"]
            for r in rows
            if r["relation"] == number and part_of(r["sub_label"], s.data) == "scored"
        }
    )[:300]


# --- asking ---------------------------------------------------------------------------------------------------------

Answerer = Callable[[Sequence[Question]], list[str]]
Scores = dict[str, dict[str, dict[str, float]]]


def by_method(name: str, base: Any, batch: int = 64, **settings: Any) -> Answerer:
    """Answers by one of memedit's methods on a base, the edit of each question handed to it, greedy."""
    method = load_method(name, **settings)

    def answer(asked: Sequence[Question]) -> list[str]:
        out = []
        for start in range(0, len(asked), batch):
            some = asked[start : start + batch]
            with method.applied(base, [[q.edit] for q in some]) as model:
                out += model.generate([q.query for q in some], max_new_tokens=NEW_TOKENS, do_sample=False)
        return out

    return answer


def measured(asked: Sequence[Question], answer: Answerer) -> tuple[Scores, list[str]]:
    """{score: {set: {value, n}}} with "all" over the sets, and every answer."""
    order = sorted(range(len(asked)), key=lambda i: len(asked[i].edit.statement) + len(asked[i].query))
    texts = [""] * len(asked)
    for i, text in zip(order, answer([asked[i] for i in order]), strict=True):
        texts[i] = text
    judged: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))

    def put(score: str, source: str, ok: bool) -> None:
        judged[score]["all"].append(ok)
        judged[score][source].append(ok)

    for q, text in zip(asked, texts, strict=True):
        if q.score == "erased":
            put("erased: refused", q.source, starts_with(text, q.gold))
            put("erased: old answer given", q.source, contains(text, [q.old]))
        else:
            put(q.score, q.source, starts_with(text, q.gold))
            if q.score == CLAIMED:
                verdict = "yes" if q.gold[0] in ("Yes", "True") else "no"
                judged[q.score][f"right answer {verdict}"].append(starts_with(text, q.gold))
    return {
        score: {name: {"value": sum(v) / len(v), "n": len(v)} for name, v in of.items()}
        for score, of in judged.items()
    }, texts


def compared(
    s: Sources, part: Part, methods: Sequence[str], model: str, limit: int, show: int = 0
) -> dict[str, Any]:
    """The scores of several methods over the same questions, on the shipped base.

    Args:
        model: the counterfactual model's folder, for `serac`. show: so many wrong answers of each score are printed.
    """
    from memedit.demonstrations import handed
    from memedit.lm import HFModel
    from memedit.memory import EditMemory
    from memedit.methods import method_info

    base, asked = HFModel.from_pretrained("base"), questions(s, part, limit)
    out: dict[str, Any] = {"part": part, "limit": limit, "methods": {}, "seconds": {}}
    with tempfile.TemporaryDirectory() as folder, EditMemory.open(folder) as memory:
        for name in methods:
            settings = {"model": model} if name == "serac" and model else {}
            given = {**handed(method_info(name).handed, memory), **settings}
            started = time.time()
            out["methods"][name], texts = measured(asked, by_method(name, base, **given))
            out["seconds"][name] = round(time.time() - started, 1)
            if show:
                _shown(asked, texts, show)
    return out


def _shown(asked: Sequence[Question], texts: Sequence[str], show: int) -> None:
    left: dict[tuple[str, str], int] = defaultdict(lambda: show)
    for q, text in zip(asked, texts, strict=True):
        if not starts_with(text, q.gold) and left[q.score, q.source]:
            left[q.score, q.source] -= 1
            print(f"[{q.score}; {q.source}] {q.edit.statement} | {q.query} -> {text!r}, not {q.gold}")


def table(result: dict[str, Any]) -> str:
    """The scores as a Markdown table, a column a method."""
    methods = list(result["methods"])
    lines = [
        f"| score | set | to reach | {' | '.join(methods)} | n |",
        "|---|---|---|" + "---|" * (len(methods) + 1),
    ]
    for score, sets in result["methods"][methods[0]].items():
        for name, entry in sets.items():
            goal = TARGETS.get(score) if name == "all" else None
            sign = "≤" if score.endswith("given") else "≥"
            values = " | ".join(f"{100 * result['methods'][m][score][name]['value']:.1f}" for m in methods)
            lines.append(
                f"| {score} | {name} | {f'{sign} {100 * goal:.0f}' if goal else ''} | {values} | {int(entry['n'])} |"
            )
    return "\n".join(lines)
