"""Lenses and trees: with the calibration, what turns the encoder and a pair model into a scope classifier.

Everything here is made on relations that the pair model never saw, so that its word is weighed as it deserves.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memedit.combiner import Trees
from memedit.encoder import Encoder, MiniLM
from memedit.memory.snapshot import write_durably
from memedit.pairs import PairModel
from memedit.scope import (
    FEATURES,
    FORMAT,
    KNOWN_SUBJECT,
    PAIR_FEATURES,
    TREES,
    ScopeClassifier,
)
from memedit.training.calibration import CombinerSettings, both_sides, calibrate, gate, platt, thresholds
from memedit.training.cases import IN_SCOPE, Case
from memedit.training.worlds import DIRECT, RIPPLE, UNKNOWN, Pairs, Step, read, worlds
from memedit.wording import Pair

if TYPE_CHECKING:
    import torch

RISING = {
    "share", "whole", "cos_masked", "lens_masked", "lens_whole", "cos_statement", "cos_prompt", "cos_best",
    "overlap_edit", "contains_prompt", "pair_direct", "pair_lead",
}  # fmt: skip
FALLING = {"strangers", "rank", "extended"}


def untrained(encoder: Encoder, folder: Path, lower: int) -> ScopeClassifier:
    """The encoder with lenses that change nothing and trees that know nothing."""
    inner = getattr(encoder, "encoder", encoder)
    made: dict[str, Any] = {
        "format": FORMAT,
        "features": list(FEATURES + PAIR_FEATURES),
        "encoder": {
            "name": encoder.name, "dim": encoder.dim, "digest": encoder.digest, "shipped": isinstance(inner, MiniLM),
        },
        "pair": {"lower": lower, "digest": encoder.digest if isinstance(inner, MiniLM) else ""},
        "platt": {kind: [1.0, 0.0] for kind in TREES},
        "gate": [-30.0, 60.0],
    }  # fmt: skip
    plain = dict.fromkeys(("masked", "whole"), np.eye(encoder.dim, dtype=np.float32))
    return ScopeClassifier(made, {kind: Trees.nothing() for kind in TREES}, plain, folder, encoder)


def combine(
    classifier: ScopeClassifier,
    parts: Sequence[Sequence[Case]],
    general: Sequence[Sequence[str]],
    settings: CombinerSettings,
    step: Step | None = None,
) -> Pairs:
    """Grind the lenses, fit the trees, calibrate; the classifier, which has its pair model, is changed in place.

    Returns the pairs that the trees learned from, with PAIR_FEATURES.

    Args:
        parts: cases for the lenses, for the trees, for calibration; no two share a relation.
        general: questions that concern no edit: for the trees, for calibration, for the thresholds.
    """
    ground, grown, apart = parts
    made = classifier.settings
    classifier.lenses = lenses(classifier, ground, settings, step)
    shape = (settings.sizes, settings.queries, settings.nearest, settings.seed)
    pairs = worlds(classifier, grown, general[0], *shape, step)
    unseen = worlds(classifier, apart, general[1], *shape, step)
    classifier.trees["near"] = fit(pairs, (pairs.label == DIRECT) | (pairs.label == RIPPLE), settings)
    made["platt"]["near"] = platt(
        classifier.trees["near"](unseen.table), unseen.label == DIRECT, unseen, even=False
    )
    made["gate"] = gate(classifier.trees["near"](unseen.table), unseen)
    pairs = read(classifier, pairs, step)
    weigh(classifier, pairs, settings)
    calibrate(classifier, unseen, step)
    made["thresholds"] |= thresholds(classifier, facts(*parts), general[2], settings, step)
    made["probes"] = classifier.probes()
    return pairs


def weigh(classifier: ScopeClassifier, pairs: Pairs, settings: CombinerSettings) -> None:
    """The trees that weigh the pair model's word: direct or not, with and without a told subject; and if not, ripple or not."""
    told = pairs.table[:, KNOWN_SUBJECT] > 0
    enough = both_sides(pairs[~told])
    for kind, label, of in (
        ("direct", DIRECT, np.ones(len(told), bool)),
        ("untold", DIRECT, ~told if enough else np.ones(len(told), bool)),
        ("ripple", RIPPLE, pairs.label != DIRECT),
    ):
        some = pairs[of]
        classifier.trees[kind] = fit(some, some.label == label, settings)


def facts(*parts: Sequence[Case]) -> list[Case]:
    """All cases but users' questions, which general questions may resemble."""
    return [case for some in parts for case in some if case.source not in ("natural", "written")]


# ---------------------------------------------------------------- the lenses


def lenses(
    classifier: ScopeClassifier, cases: Sequence[Case], settings: CombinerSettings, step: Step | None = None
) -> dict[str, np.ndarray]:
    """Two linear maps (dim, dim), from the identity: "masked" learns which masked texts ask for one relation, "whole"
    which query asks for which edit."""
    rng = random.Random(settings.seed)
    found = [(case, query) for case in cases for query in case.queries if query.kind != "general"]
    rng.shuffle(found)
    masked: list[tuple[str, str, float, str]] = []
    whole: list[tuple[str, str, float, str]] = []
    for case, query in found:
        if len(masked) >= settings.ground:
            break
        _, asked, hidden = classifier.texts(case.edit)
        pair = Pair(query.text, case.edit)
        row = (float(query.kind in IN_SCOPE), case.source)
        if len(whole) < settings.ground // 2:
            whole.append((query.text, asked, *row))
        if pair.masked_query:
            masked.append((pair.masked_query, pair.masked_edit or hidden, *row))
    out: dict[str, np.ndarray] = {}
    for name, some in (("masked", masked), ("whole", whole)):
        if step:
            step(f"lens for {name} texts", len(out), 2)
        out[name] = lens(classifier, some, settings)
    return out


def lens(
    classifier: ScopeClassifier, pairs: list[tuple[str, str, float, str]], settings: CombinerSettings
) -> np.ndarray:
    """A map under which cosines tell pairs apart: logistic loss, sources by the root of their pairs, both answers alike."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, normalize

    torch.manual_seed(settings.seed)
    a, b = (torch.from_numpy(classifier.encode([str(pair[i]) for pair in pairs])) for i in (0, 1))
    label = torch.tensor([pair[2] for pair in pairs])
    weight = np.zeros(len(pairs))
    for value in (0.0, 1.0):
        mine = np.array([pair[2] == value for pair in pairs])
        if not mine.any():
            continue
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
            losses = binary_cross_entropy_with_logits(logits, label[rows], reduction="none")
            steps.zero_grad()
            (losses * scale[rows]).mean().backward()
            steps.step()
    return np.asarray(map_.detach().numpy().astype(np.float16).astype(np.float32))


# ---------------------------------------------------------------- the trees


def fit(pairs: Pairs, target: np.ndarray, settings: CombinerSettings) -> Trees:
    """Gradient-boosted trees; features that can only speak for (or against) an edit are held to it."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    known = pairs.label != UNKNOWN
    names = (FEATURES + PAIR_FEATURES)[: pairs.table.shape[1]]
    model = HistGradientBoostingClassifier(
        max_iter=settings.trees,
        max_leaf_nodes=settings.leaves,
        learning_rate=settings.rate,
        min_samples_leaf=40,
        l2_regularization=5.0,
        monotonic_cst=[1 if f in RISING else -1 if f in FALLING else 0 for f in names],
        early_stopping=False,
        random_state=settings.seed,
    )
    model.fit(pairs.table[known], target[known], sample_weight=pairs.weights()[known])
    return arrays_of(model)


def arrays_of(model: Any) -> Trees:
    """scikit-learn's trees as arrays; leaves point at themselves."""
    trees = [predictors[0].nodes for predictors in model._predictors]
    shape = (len(trees), max(len(nodes) for nodes in trees))
    arrays: dict[str, np.ndarray] = {
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


# ---------------------------------------------------------------- the folder


def write(
    classifier: ScopeClassifier, folder: Path, weights: Mapping[str, torch.Tensor], about: Mapping[str, Any]
) -> None:
    """scope.json, combiner.safetensors and pair.safetensors; the encoder's files stay where they are."""
    import torch
    from safetensors.numpy import save
    from safetensors.torch import save as save_torch

    arrays = {f"lens_{name}": lens.astype(np.float16) for name, lens in classifier.lenses.items()}
    for kind, trees in classifier.trees.items():
        arrays |= {f"{kind}.{name}": array for name, array in trees.arrays.items()}
    rounded = {name: value.to(torch.bfloat16).contiguous() for name, value in weights.items()}
    text = json.dumps({**classifier.settings, "trained_with": dict(about)}, indent=1, default=str)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in (
        ("pair.safetensors", save_torch(rounded)),
        ("combiner.safetensors", save(arrays)),
        ("scope.json", (text + "\n").encode()),  # last: a folder without it is none
    ):
        write_durably(folder / name, data)


def put_pair_model(classifier: ScopeClassifier, weights: Mapping[str, torch.Tensor], encoder: MiniLM) -> None:
    """Give the classifier a pair model, rounded as it will be shipped."""
    import torch

    rounded = {name: value.to(torch.bfloat16).float() for name, value in weights.items()}
    classifier.__dict__["pairs"] = PairModel(encoder, rounded, int(classifier.settings["pair"]["lower"]))
