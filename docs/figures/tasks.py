"""Print figures on regression, multi-label and pairs, each with a simple baseline beside it.

    python docs/figures/tasks.py regression tweets.csv [--seeds 0 1 2]
    python docs/figures/tasks.py multi-label Packages.xz
    python docs/figures/tasks.py pairs Packages.xz

`regression`: the columns text and sentiment of `tweets.csv`, 4,200 tweets with their mean human
rating from -4 to 4 (Hutto & Gilbert, ICWSM 2014). Each seed draws its own 80/20 split.

`Packages` is the index of a Debian release: dists/bookworm/main/binary-amd64/Packages.xz of any
mirror, or what /var/lib/apt/lists holds of it; plain, .gz or .xz. From the 63,440 packages of
bookworm come two sets:

`multi-label`: the one-line description of a program, and the tags that Debian's people gave it
(debtags) for what it is used for and works with: `use::converting`, `works-with::audio`. Tags that
at least 150 of the texts have are the labels; of each source, one package; a text may be without
labels. 4,811 texts, 19 labels. Each seed draws its own split, 65/15/20.

`pairs`: the one-line descriptions of two packages of different sources; does the first recommend,
suggest or enhance the second? 4,000 pairs, one half of them do. Every description stands in one
pair that does and in one that does not, on the same side, so one side alone says nothing; no
description and no source is in two splits (70/10/20, drawn by each seed).

Baselines (scikit-learn) see exactly the splits that bertkit sees: TF-IDF of words and pairs of
words, then ridge (its strength chosen by leave-one-out on train) or logistic regression. For pairs,
one reads the two texts joined, the other how alike they are: the cosine of their TF-IDF vectors (of
3 to 5 characters) and how many words they share.

With OMP_NUM_THREADS=1, seeds 0 1 2 take about 15 minutes (regression), 30 (multi-label) and 15
(pairs).
"""

from __future__ import annotations

import argparse
import gzip
import lzma
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from amazon import LINEAR
from loguru import logger
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    mean_absolute_error,
    roc_auc_score,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import bertkit
import bertkit.records
from bertkit.tasks import best_threshold

FACETS = ("use", "works-with")
RELATIONS = ("Recommends", "Suggests", "Enhances")
MIN_TEXTS = 150
"""Texts that a tag must have to be a label."""
PAIRS = 4000

Metrics = dict[str, float]
Stanza = dict[str, str]


def packages(path: Path) -> Iterator[Stanza]:
    """Yield the fields of each package of a Debian index; folded lines are joined."""
    openers: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
    with openers.get(path.suffix, open)(path, "rt", encoding="utf-8") as lines:
        fields: Stanza = {}
        name = ""
        for line in lines:
            if not line.strip():
                if fields:
                    yield fields
                fields = {}
            elif line[0] in " \t":
                # the first line of a description is the short one
                fields[name] += "" if name == "Description" else line.rstrip("\n")
            else:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields:
            yield fields


def source(package: Stanza) -> str:
    return package.get("Source", package["Package"]).split()[0]


def names(value: str) -> list[str]:
    """Return the names in a field: `a (>= 1.0), b | c:any` are a, b and c."""
    return [re.split(r"[\s(:]", part.strip())[0] for part in re.split(r"[,|]", value)]


def tagged(found: Iterator[Stanza], min_texts: int = MIN_TEXTS) -> pd.DataFrame:
    """Return columns text and tags, a list of names that may be empty."""
    seen: set[str] = set()
    rows = []
    for package in found:
        tags = {tag.strip() for tag in package.get("Tag", "").split(",")}
        # a facet that nobody has looked into yet has the tag `use::TODO`, which says nothing
        own = {tag for tag in tags if tag.split("::")[0] in FACETS and not tag.endswith("TODO")}
        keys = {f"source {source(package)}", package["Description"]}
        if "role::program" in tags and own and not keys & seen:
            seen |= keys
            rows.append((package["Description"], own))
    counts = Counter(tag for _, own in rows for tag in own)
    return pd.DataFrame({
        "text": [text for text, _ in rows],
        "tags": [sorted(tag for tag in own if counts[tag] >= min_texts) for _, own in rows],
    })  # fmt: skip


def related(found: Iterator[Stanza]) -> tuple[list[tuple[Stanza, Stanza]], set[tuple[str, str]]]:
    """Return pairs of packages of which the first names the second, and the names of all such.

    No description and no source is in two of the pairs.
    """
    known = {package["Package"]: package for package in found}
    edges = [
        (package, known[name])
        for package in known.values()
        for field in RELATIONS
        for name in names(package.get(field, ""))
        if name in known and source(known[name]) != source(package)
    ]
    all_names = {(first["Package"], second["Package"]) for first, second in edges}
    random.Random(0).shuffle(edges)
    seen: set[str] = set()
    pairs = []
    for first, second in edges:
        keys = {f"source {source(one)}" for one in (first, second)}
        keys |= {first["Description"], second["Description"]}
        if len(keys) == 4 and not keys & seen:
            seen |= keys
            pairs.append((first, second))
    return pairs, all_names


def with_unrelated(
    pairs: list[tuple[Stanza, Stanza]], all_names: set[tuple[str, str]]
) -> pd.DataFrame:
    """Return columns first, second and label: the pairs, and the same texts paired otherwise."""
    firsts, seconds = [a for a, _ in pairs], [b for _, b in pairs]
    for shift in range(1, len(pairs)):
        moved = seconds[shift:] + seconds[:shift]
        ids = [(a["Package"], b["Package"]) for a, b in zip(firsts, moved, strict=True)]
        if not any(pair in all_names or pair[::-1] in all_names for pair in ids):
            break
    else:
        raise SystemExit(f"{len(pairs)} pairs cannot be paired otherwise; take more")
    return pd.DataFrame({
        "first": [one["Description"] for one in firsts * 2],
        "second": [one["Description"] for one in seconds + moved],
        "label": ["related"] * len(pairs) + ["unrelated"] * len(pairs),
    })  # fmt: skip


def pair_splits(found: Iterator[Stanza], count: int, seed: int) -> dict[str, pd.DataFrame]:
    pairs, all_names = related(found)
    random.Random(seed).shuffle(pairs)
    pairs = pairs[: count // 2]
    ends = [0, round(0.7 * len(pairs)), round(0.8 * len(pairs)), len(pairs)]
    return {
        split: with_unrelated(pairs[start:end], all_names)
        for split, start, end in zip(bertkit.records.SPLITS, ends, ends[1:], strict=False)
    }


def splits(dataset: dict[str, Any], seed: int) -> bertkit.records.Splits:
    """Return the very splits that a run with this seed has."""
    from datasets import disable_progress_bars

    from bertkit.datasets.memory import Memory
    from bertkit.datasets.splits import load_splits

    disable_progress_bars()
    return load_splits(Memory(**dataset), bertkit.Context(seed=seed))


def words() -> TfidfVectorizer:
    return TfidfVectorizer(ngram_range=(1, 2))


def ridge(parts: bertkit.records.Splits) -> Metrics:
    assert parts.test is not None
    model = make_pipeline(words(), RidgeCV(alphas=(0.1, 0.3, 1, 3)))
    model.fit(parts.train["text"][:], np.ravel(parts.train["label"][:]))
    truth, found = np.ravel(parts.test["label"][:]), model.predict(parts.test["text"][:])
    return {
        "pearson": float(np.corrcoef(truth, found)[0, 1]),
        "mae": float(mean_absolute_error(truth, found)),
    }


def one_vs_rest(parts: bertkit.records.Splits) -> Metrics:
    """Score as bertkit does, thresholds chosen on validation by the same rule."""
    task = parts.task
    truth = {name: task.truth(task.targets(split["label"][:])) for name, split in parts.items()}
    # C=10 is better here than the default of 1
    model = make_pipeline(words(), OneVsRestClassifier(LogisticRegression(C=10, max_iter=1000)))
    model.fit(parts.train["text"][:], truth["train"])
    scores = {name: model.predict_proba(split["text"][:]) for name, split in parts.items()}
    chosen = map(best_threshold, scores["validation"].T, truth["validation"].T)
    limits = np.array([0.5 if limit is None else limit for limit in chosen])
    return {
        "average_precision": float(
            average_precision_score(truth["test"], scores["test"], average="macro")
        ),
        "f1": float(f1_score(truth["test"], scores["test"] >= limits, average="macro")),
    }


def joined(parts: bertkit.records.Splits) -> Metrics:
    def texts(split: Any) -> list[str]:
        return [f"{a} {b}" for a, b in zip(split["text"][:], split["text_pair"][:], strict=True)]

    return fit_and_score(make_pipeline(words(), LogisticRegression(max_iter=1000)), parts, texts)


def alike(parts: bertkit.records.Splits) -> Metrics:
    # parts of words, because a word that train lacks would count for nothing
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5))
    vectors.fit(parts.train["text"][:] + parts.train["text_pair"][:])

    def features(split: Any) -> np.ndarray[Any, Any]:
        pair = split["text"][:], split["text_pair"][:]
        first, second = (vectors.transform(side) for side in pair)
        cosine = np.asarray(first.multiply(second).sum(axis=1)).ravel()
        bags = [[set(re.findall(r"\w+", text.lower())) for text in side] for side in pair]
        shared = np.array([len(a & b) for a, b in zip(*bags, strict=True)])
        either = np.array([len(a | b) for a, b in zip(*bags, strict=True)])
        return np.stack([cosine, shared, shared / np.maximum(either, 1)], axis=1)

    return fit_and_score(make_pipeline(StandardScaler(), LogisticRegression()), parts, features)


def fit_and_score(model: Any, parts: bertkit.records.Splits, read: Callable[[Any], Any]) -> Metrics:
    assert parts.test is not None
    model.fit(read(parts.train), parts.train["label"][:])
    scores, truth = model.predict_proba(read(parts.test))[:, 1], parts.test["label"][:]
    return {
        "accuracy": float(accuracy_score(truth, scores >= 0.5)),
        "roc_auc": float(roc_auc_score(truth, scores)),
    }


def run(dataset: dict[str, Any], head: str, trainer: dict[str, Any], seed: int) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return bertkit.run(
            {
                "encoder": {"type": "minilm"},
                "dataset": dataset,
                "head": {"type": head},
                "trainer": {"type": "loop", **trainer},
                "metrics": METRICS[dataset["label"]],
                "compute": {"cache": str(Path(folder, "cache"))},
                "seed": seed,
                "output": str(Path(folder, "run")),
                "offline": True,
            }
        )


METRICS = {
    "sentiment": ["pearson", "mae"],
    "tags": ["average_precision", "f1"],
    "label": ["accuracy", "roc_auc"],
}
BASELINES: dict[str, dict[str, Callable[[bertkit.records.Splits], Metrics]]] = {
    "regression": {"TF-IDF + ridge": ridge},
    "multi-label": {"TF-IDF + logistic, one v. rest": one_vs_rest},
    "pairs": {"TF-IDF of both joined + logistic": joined, "likeness of the two + logistic": alike},
}
WEIGHTED = {"learning_rate": 1e-4, "class_weights": "balanced"}
RUNS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "regression": {"frozen-feature": ("frozen-feature", {}), "linear": ("linear", LINEAR)},
    "multi-label": {
        "frozen-feature": ("frozen-feature", {}),
        "linear, weights balanced": ("linear", {**LINEAR, **WEIGHTED, "epochs": 4}),
        "linear, 10 epochs": ("linear", {**LINEAR, "learning_rate": 1e-4, "epochs": 10}),
    },
    "pairs": {
        "frozen-feature": ("frozen-feature", {}),
        "linear": ("linear", {**LINEAR, "epochs": 4}),
    },
}
"""Type of head and options of `trainer`, by name; `frozen-feature` has its defaults."""


def dataset_of(task: str, path: Path, seed: int, texts: int | None) -> dict[str, Any]:
    """Return the spec's `dataset`; what `texts` keeps is the same for every seed."""
    if task == "pairs":
        data: Any = pair_splits(packages(path), texts or PAIRS, seed)
        return {"type": "memory", "data": data, "text": ["first", "second"], "label": "label"}
    rows = pd.read_csv(path) if task == "regression" else tagged(packages(path))
    rows = rows.sample(texts, random_state=0) if texts else rows
    if task == "regression":
        return {"type": "memory", "data": rows, "label": "sentiment", "validation": 0, "test": 0.2}
    return {"type": "memory", "data": rows, "label": "tags", "validation": 0.15, "test": 0.2}


def show(name: str, results: list[Metrics], more: str = "") -> None:
    words = []
    for key in results[0]:
        values = [result[key] for result in results]
        each = " ".join(f"{value:.4f}" for value in values)
        words.append(f"{key} {statistics.mean(values):.4f}  ({each})")
    print(f"{name:<34} {'  '.join(words)}  {more}".rstrip(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=list(BASELINES))
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", nargs="*", metavar="NAME", help="only these lines of bertkit")
    parser.add_argument("--texts", type=int, help="only so many texts, or pairs")
    options = parser.parse_args()
    runs = RUNS[options.task]
    asked = list(runs) if options.runs is None else options.runs
    if not set(asked) <= set(runs):
        parser.error(f"--runs: {options.task} has {', '.join(map(repr, runs))}")
    logger.remove()
    datasets = {
        seed: dataset_of(options.task, options.data, seed, options.texts) for seed in options.seeds
    }
    loaded = {seed: splits(dataset, seed) for seed, dataset in datasets.items()}
    some = next(iter(loaded.values()))
    print(
        ", ".join(f"{name} {split.num_rows}" for name, split in some.items()),
        f"texts; {len(some.task.labels)} labels; seeds {' '.join(map(str, options.seeds))}",
        flush=True,
    )
    for name, baseline in BASELINES[options.task].items():
        show(name, [baseline(parts) for parts in loaded.values()])
    for name in asked:
        results, seconds = [], []
        for seed, dataset in datasets.items():
            started = time.perf_counter()
            result = run(dataset, *runs[name], seed)
            seconds.append(time.perf_counter() - started)
            results.append({key: result.metrics["test"][key] for key in METRICS[dataset["label"]]})
            print(f"… {name}, seed {seed}: {results[-1]}", file=sys.stderr, flush=True)
        show(name, results, f"{statistics.median(seconds):.0f} s a run")


if __name__ == "__main__":
    main()
