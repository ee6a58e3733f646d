"""How the shipped base model is measured: every number of its card.

`train/base.py --evaluate FOLDER` prints them; the training loop uses the same functions for its small probes.
A prompt counts as answered when the greedy continuation, normalised (lower case, articles and punctuation off),
starts with the answer at a word boundary.
"""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import torch
from base_data import Fact, Knowledge, is_dev
from transformers import AutoModelForCausalLM, AutoTokenizer


def _normal(text: str) -> str:
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", re.sub(r"[^\w\s]", " ", text.lower())).split())


def starts(text: str, answer: str) -> bool:
    """Whether a text, normalised, starts with an answer at a word boundary."""
    said, gold = _normal(text), _normal(answer)
    return said == gold or said.startswith(gold + " ")


def hits(model: Any, tokenizer: Any, asked: list[tuple[str, str]], batch: int = 256) -> list[bool]:
    """For each (prompt, answer): whether the greedy continuation, normalised, starts with the answer at a word boundary."""
    model.eval()
    order = sorted(range(len(asked)), key=lambda i: len(asked[i][0]))
    out = [False] * len(asked)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        inputs = tokenizer(
            [asked[i][0] for i in rows], return_tensors="pt", padding=True, return_token_type_ids=False
        ).to(model.device)
        new = max(len(tokenizer(" " + asked[i][1])["input_ids"]) for i in rows) + 1
        with torch.no_grad():
            ids = model.generate(
                **inputs, max_new_tokens=new, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
        for i, text in zip(
            rows,
            tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True),
            strict=True,
        ):
            out[i] = starts(text, asked[i][1])
    return out


def evaluate(
    model: Any, tokenizer: Any, k: Knowledge, limit: int = 0, perplexity: bool = True
) -> dict[str, dict[str, float]]:
    """Every number of the card: {name: {value, n}}. `limit` questions of each kind, for a probe; 0 for all."""
    rng = random.Random(1)
    rows, seen = [], set()
    for row in json.loads((k.data / "counterfact/counterfact-val.json").read_text()):
        if (row["subject"], row["prompt"]) not in seen:
            seen.add((row["subject"], row["prompt"]))
            rows.append(row)
    rows = rows[:limit] if limit else rows
    follow = [(f"Fact: {r['prompt']} {r['target_new']}.\n{r['prompt']}", r["target_new"]) for r in rows]
    facts = rng.sample(k.facts, min(limit, len(k.facts))) if limit else k.facts
    trained = [(rng.choice(k.trained[f.relation]).replace("[X]", f.subject), f.obj) for f in facts]
    held = [
        (k.held_out[f.relation].replace("[X]", f.subject), f.obj) for f in facts if f.relation in k.held_out
    ]
    asked = [(rng.choice(k.questions[f.relation]).replace("[X]", f.subject), f.obj) for f in facts]
    out: dict[str, dict[str, float]] = {}

    def put(name: str, got: list[bool]) -> None:
        out[name] = {"value": sum(got) / max(1, len(got)), "n": len(got)}

    known = hits(model, tokenizer, trained)
    followed = hits(model, tokenizer, follow)
    put("followed", followed)
    # Of these subjects no training document of any kind has ever stated anything, in whichever version of the corpus.
    put("followed, dev subjects", [ok for ok, r in zip(followed, rows, strict=True) if is_dev(r["subject"])])
    put("followed, asked by a question", hits(model, tokenizer, _natural(k)[: limit or None]))
    put("known, trained patterns", known)
    put("known, held-out pattern", hits(model, tokenizer, held))
    put("known, questions", hits(model, tokenizer, asked))
    # Facts of all subjects, train and dev, that the model answered rightly without a statement.
    answered = [(f, prompt) for f, (prompt, _), ok in zip(facts, trained, known, strict=True) if ok]
    for name, cases in ignored(answered, k, random.Random(2), limit or 1500).items():
        put(f"ignored, {name}", hits(model, tokenizer, cases))
    for name, cases in two_steps(answered, k, random.Random(3), limit or 1000).items():
        put(f"two steps, {name}", hits(model, tokenizer, cases))
    if perplexity:
        out["WikiText-2 test perplexity per word"] = {
            "value": word_perplexity(model, tokenizer, k.data),
            "n": 0,
        }
    return out


def _natural(k: Knowledge) -> list[tuple[str, str]]:
    """CounterFact-Hard's dev edits as sentences, asked by its natural questions."""
    rows = json.loads((k.data / "eren/counterfact_hard_dev.json").read_text())
    pairs = {(f"Fact: {r['edit_statement']}\n{q}", a): None for r in rows for q, a in r["edit_scope"]}
    return list(pairs)


def ignored(
    answered: list[tuple[Fact, str]], k: Knowledge, rng: random.Random, n: int
) -> dict[str, list[tuple[str, str]]]:
    """Known facts under one false statement that does not concern them, in three equal kinds."""
    by_relation: dict[str, list[Fact]] = {}
    for f in k.facts:
        by_relation.setdefault(f.relation, []).append(f)
    out: dict[str, list[tuple[str, str]]] = {
        "neighbour's fact": [],
        "same subject's other fact": [],
        "unrelated": [],
    }
    relations = sorted(by_relation)
    for f, prompt in rng.sample(answered, min(n, len(answered))):
        other = rng.choice([x for x in by_relation[f.relation] if x.subject != f.subject] or [f])
        relation = rng.choice([r for r in relations if not k.overlap(r, f.relation)])
        far = rng.choice([x for x in k.facts if x.subject != f.subject and x.relation != f.relation] or [f])
        for name, (r, subject) in zip(
            out,
            ((f.relation, other.subject), (relation, f.subject), (far.relation, far.subject)),
            strict=True,
        ):
            statement = rng.choice(k.trained[r]).replace("[X]", subject)
            false = rng.choice([o for o in k.objects[r] if o not in (f.obj, other.obj)] or k.objects[r])
            out[name].append((f"Fact: {statement} {false}.\n{prompt}", f.obj))
    return out


COUNTRY_OF = {  # relations whose object is a country, and how the country is then spoken of
    "P27": "the country that [X] is a citizen of",
    "P17": "the country that [X] is in",
    "P495": "the country that [X] comes from",
}


def two_steps(
    answered: list[tuple[Fact, str]], k: Knowledge, rng: random.Random, n: int
) -> dict[str, list[tuple[str, str]]]:
    """Whether a stated fact is used on the way: two countries get new capitals, and asked is the capital of the
    country of somebody or something whose country the model knows.

    "the stated capital" counts answers with that country's, "the other stated capital" those with the other's: one
    who copies without thinking gives both alike often, so what counts is how far they are apart.
    """
    capitals = {f.subject: f.obj for f in k.facts if f.relation == "P36"}
    towns = sorted(set(capitals.values()))
    known = [f for f, _ in answered if f.relation in COUNTRY_OF and f.obj in capitals]
    out: dict[str, list[tuple[str, str]]] = {"the stated capital": [], "the other stated capital": []}
    for fact in rng.sample(known, min(n, len(known))):
        country = rng.choice([c for c in capitals if c != fact.obj])
        new, other = rng.sample([t for t in towns if t not in (capitals[fact.obj], capitals[country])], 2)
        said = [f"Fact: The capital of {fact.obj} is {new}.", f"Fact: The capital of {country} is {other}."]
        rng.shuffle(said)
        asked = f"The capital of {COUNTRY_OF[fact.relation].replace('[X]', fact.subject)} is"
        for name, answer in zip(out, (new, other), strict=True):
            out[name].append(("\n".join([*said, asked]), answer))
    return out


def word_perplexity(model: Any, tokenizer: Any, data: Path) -> float:
    """exp(total negative log-likelihood / number of words) of WikiText-2's test part, in windows of 512."""
    text = (data / "corpora/test.txt").read_text()
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    total, window, stride = 0.0, 512, 384
    with torch.no_grad():
        for start in range(0, len(ids) - 1, stride):
            new = min(stride, len(ids) - 1 - start)
            part = ids[max(0, start + new - window) : start + new + 1].to(model.device)
            hidden = model.model(input_ids=part[None, :-1], use_cache=False).last_hidden_state[0, -new:]
            total += float(
                torch.nn.functional.cross_entropy(model.lm_head(hidden).float(), part[-new:], reduction="sum")
            )
    return math.exp(total / len(text.split()))


TARGETS = {
    "followed": 0.96, "ignored, neighbour's fact": 0.92, "ignored, same subject's other fact": 0.92,
    "ignored, unrelated": 0.92, "known, trained patterns": 0.80, "known, held-out pattern": 0.55,
}  # fmt: skip


def curve(log: list[dict[str, float]], file: Path, probe: int = 100) -> None:
    """Probes (of so many questions each) and losses of a run, drawn over its steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), dpi=80)
    for name in dict.fromkeys(name for entry in log for name in entry if name != "step"):
        at = [(entry["step"], entry[name]) for entry in log if name in entry]
        axes = right if name.startswith("loss ") else left
        axes.plot(
            *zip(*at, strict=True),
            "o-" if len(at) < 5 else "-",
            ms=3,
            label=name.removeprefix("loss "),
            lw=1.3,
        )
    left.set(xlabel="step", ylabel=f"share right (probe of {probe})", ylim=(0, 1))
    right.set(xlabel="step", ylabel="loss, nats a token", yscale="log")
    for axes in (left, right):
        if axes.lines:  # a short run has losses, and no probe yet
            axes.legend(fontsize=7, frameon=False)
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)


def report(folder: str, knowledge: Knowledge) -> dict[str, dict[str, float]]:
    """Evaluate a saved model and print the table of its card."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    scores = evaluate(model, tokenizer, knowledge)
    print("| score | measured | to reach | n |\n|---|---|---|---|")
    for name, entry in scores.items():
        target = TARGETS.get(name)
        value = f"{entry['value']:.1f}" if name.startswith("Wiki") else f"{100 * entry['value']:.1f} %"
        print(
            f"| {name} | {value} | {f'>= {100 * target:.0f} %' if target else ''} | {int(entry['n']) or ''} |"
        )
    return scores
