"""A small run file as `memedit eval` writes it: several methods, ways, modes, data sets and sizes; the same each time."""

from __future__ import annotations

import random
from typing import Any

from memedit.metrics import bootstrap

KINDS = (
    ("edit", ""), ("paraphrase", ""), ("portability", "Subject_Aliasing"), ("portability", "Reasoning"),
    ("locality", "Relation_Specificity"), ("unrelated", ""),
)  # fmt: skip
CITIES = "Lyon Turin Oslo Quito Accra Minsk Bergen Lagos".split()


def chance(method: str, way: str, kind: str, size: int, when: str) -> float:
    """How often a method is right: routed ones hold, merged ones collapse with the number of edits."""
    if method == "none":
        return 1.0 if kind in ("locality", "unrelated") else 0.1
    good = {"edit": 0.97, "paraphrase": 0.88, "portability": 0.55, "locality": 0.95, "unrelated": 0.99}[kind]
    if method.startswith("oracle"):
        return min(1.0, good + 0.03)
    if way == "merged" and when == "after-all":
        return good / (1 + size / 15)
    return good


def answers(
    rng: random.Random, data: str, method: str, way: str, size: int, when: str
) -> list[dict[str, Any]]:
    out = []
    for number in range(size):
        new, old = CITIES[number % 8], CITIES[(number + 3) % 8]
        for kind, label in KINDS:
            right = rng.random() < chance(method, way, kind, size, when)
            still = kind in ("locality", "unrelated")
            base = f" {old}, a city known for its {number}th harbour."
            text = (base if right else f" {new} <b>|") if still else (f" {new}." if right else base)
            routed = way == "routed" and method != "none"
            hit = routed and (kind in ("edit", "paraphrase", "portability")) == right
            out.append({
                "case": f"{data}-{number}", "kind": kind, "label": label,
                "prompt": f"{kind} {label} of the town {number} in {data} is", "answers": [] if still else [new],
                "old": old, "base": base, "text": text, "fired": ([number] if hit else []) if way == "routed" else None,
                "right": None if still or not routed else hit,
                "route": route(method, hit) if routed else None,
                "success": None if still else right, "unchanged": right if still else text == base,
                "forced": None if still else {"new": [1.0 if right else 0.6, -0.2], "old": [0.2, -3.0],
                                              "base_new": [0.4, -4.0], "base_old": [0.9, -0.3], "unchanged": 0.5},
            })  # fmt: skip
    return out


def route(method: str, hit: bool) -> dict[str, Any]:
    sure, scope, why = (
        (0.98, "direct", "same subject and relation") if hit else (0.02, "out", "another subject")
    )
    return {"probability": sure, "threshold": 0.5, "class": scope, "method": method, "why": why}


def scores(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Scores of the answers: per kind and label, and per kind with all labels together."""
    out = []
    for kind, label in dict.fromkeys([*KINDS, ("portability", ""), ("locality", "")]):
        of = [a for a in given if a["kind"] == kind and label in ("", a["label"])]
        still = kind in ("locality", "unrelated")
        value, low, high = bootstrap([float(a["unchanged" if still else "success"]) for a in of], rounds=200)
        one = {"kind": kind, "label": label, "low": low, "high": high, "n": len(of)}
        out.append(
            {
                **one,
                "score": "unchanged" if still else "success",
                "value": value,
                "floor": 1.0 if still else 0.1,
            }
        )
        if not still:
            agreement = [a["forced"]["new"][0] for a in of]
            value, low, high = bootstrap(agreement, rounds=200)
            out.append({**one, "score": "success_tf", "value": value, "low": low, "high": high, "floor": 0.4})
    fluency = {"kind": "edit", "label": "", "score": "fluency", "value": 5.4, "low": 5.3, "high": 5.5}
    return [*out, {**fluency, "floor": 5.6, "n": len(given)}]


def run(
    data: str, method: str, way: str = "routed", mode: str = "all", when: str = "after-all", size: int = 8, seed: int = 0
) -> dict[str, Any]:  # fmt: skip
    rng = random.Random(f"{data} {method} {way} {mode} {when} {size} {seed}")
    given = answers(rng, data, method, way, size, when)
    merged = way == "merged"
    return {
        "data": data, "method": method, "settings": {}, "way": way, "mode": mode, "when": when, "edits_in_memory": size,
        "seconds": {"adding": 0.4, "preparing": 30.0 if merged else 0.0, "routing": 0.0 if merged else 2.5,
                    "generating": 4.0 + size, "scoring": 1.5},
        "cases_per_second": 12.5, "scores": scores(given),
        "drift": drift(merged * size) if method != "none" and when == "after-all" else None,
        "failed": [{"case": f"{data}-3", "error": "no such | subject"}] if method == "rome" and merged else [],
        "answers": given,
    }  # fmt: skip


def drift(written: int) -> dict[str, float]:
    """Of a model with so many edits in its weights."""
    rise = {
        "perplexity": 14.0 * (1 + written**2 / 20),
        "accuracy": 0.6 / (1 + written / 30),
        "kl": 0.02 * written,
    }
    return {**rise, "perplexity_base": 14.0, "accuracy_base": 0.6}


def run_file(seed: int = 0) -> dict[str, Any]:
    """Two data sets, six methods, four sizes, one goal missed."""
    runs = []
    for data in ("counterfact-val", "wiki_recent"):
        runs += [run(data, method, size=24, seed=seed) for method in ("none", "ice", "serac", "oracle:ice")]
        for size in (2, 8, 24):
            runs += [
                run(data, "rome", "merged", "sequential", when, size, seed)
                for when in ("after-each", "after-all")
            ]
    runs += [run("counterfact-val", "ice", size=size, seed=seed) for size in (2, 8)]
    runs += [
        run("counterfact-val", "rome", size=24, seed=seed),
        run("wiki_recent", "ft-m", "merged", "single", size=8, seed=seed),
    ]
    misses, first = [], 0
    for one in runs:
        places = [
            first + i for i, a in enumerate(one["answers"]) if a["kind"] == "paraphrase" and not a["success"]
        ]
        misses += places if one["method"] == "ice" else []
        first += len(one["answers"])
    made = {
        "memedit": "0.1",
        "command": "memedit eval --data counterfact-val",
        "date": "2026-01-02T03:04:05",
        "seed": 0,
    }
    return {
        "format": 1, **made, "machine": "2 CPU cores, no GPU", "decoding": {"max_new_tokens": 16, "greedy": True},
        "model": {"name": "base", "digest": "abc123", "parameters": 1234567},
        "data": [{"name": name, "file": f"{name}.json", "sha256": "f" * 64, "format": "counterfact", "cases": 24, "edits": 24,
                  "left_out": 2} for name in ("counterfact-val", "wiki_recent")],
        "runs": runs,
        "goals": [
            {"what": "ice on counterfact-val: edit success", "value": 0.97, "goal": 0.96, "met": True, "examples": []},
            {"what": "ice on counterfact-val: paraphrases", "value": 0.86, "goal": 0.88, "met": False, "examples": misses[:3]},
        ],
    }  # fmt: skip
