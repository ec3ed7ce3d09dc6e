"""Print what fine-tuning methods gain over plain fine-tuning, on the Amazon review sentences.

    python docs/figures/methods.py amazon_review_sentences.csv [--seeds 0 1 2] [--methods plain …]

The sentences, splits and training of `amazon.py` (`linear`, 3 epochs): every method sees, for each
seed, the same train and test texts and the same batches as the plain run, which comes first.
"gain" is the mean difference of accuracy from it, and the difference of each seed. One test text
of 597 is 0.0017. Takes about an hour on one core.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
from amazon import LINEAR, tfidf
from few_labels import sentences
from loguru import logger

import bertkit

METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "layer_decay 0.9": ({"layer_decay": 0.9}, {}),
    "freeze_embeddings": ({"freeze_embeddings": True}, {}),
    "freeze_layers 3, freeze_embeddings": ({"freeze_layers": 3, "freeze_embeddings": True}, {}),
    "reinit_layers 1": ({"reinit_layers": 1}, {}),
    "hidden_dropout 0": ({"hidden_dropout": 0.0}, {}),
    "hidden_dropout 0.2": ({"hidden_dropout": 0.2}, {}),
    "label_smoothing 0.1": ({}, {"label_smoothing": 0.1}),
    "focal 2": ({}, {"focal": 2.0}),
}
"""Fields of `head` and of `trainer` by name."""


def accuracy(rows: pd.DataFrame, method: str, seed: int) -> float:
    head, trainer = METHODS[method]
    with tempfile.TemporaryDirectory() as folder:
        spec = {
            "encoder": {"type": "minilm"},
            "dataset": {"type": "memory", "data": rows, "validation": 0, "test": 0.2},
            "head": {"type": "linear", **head},
            "trainer": {"type": "loop", **LINEAR, **trainer},
            "metrics": ["accuracy"],
            "seed": seed,
            "output": str(Path(folder, "run")),
            "offline": True,
        }
        return float(bertkit.run(spec).metrics["test"]["accuracy"])


def show(name: str, scores: list[float], gains: list[float], more: str = "") -> None:
    each = " ".join(f"{score:.4f}" for score in scores)
    line = f"{name:<36} accuracy {statistics.mean(scores):.4f}  ({each})"
    if gains:
        differences = " ".join(f"{gain:+.4f}" for gain in gains)
        line += f"  gain {statistics.mean(gains):+.4f}  ({differences})"
    print(f"{line}  {more}".rstrip(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--texts", type=int, help="only so many of the sentences")
    options = parser.parse_args()
    logger.remove()
    rows = sentences(options.data)
    if options.texts:
        rows = rows.sample(options.texts, random_state=0)
    print(f"{len(rows)} texts, seeds {' '.join(map(str, options.seeds))}", flush=True)
    show("TF-IDF + logistic regression", [tfidf(rows, seed) for seed in options.seeds], [])
    plain: list[float] = []
    for method in options.methods:
        scores, seconds = [], []
        for seed in options.seeds:
            started = time.perf_counter()
            scores.append(accuracy(rows, method, seed))
            seconds.append(time.perf_counter() - started)
        if method == "plain":
            plain = scores
        pairs = zip(scores, plain, strict=True) if plain and method != "plain" else ()
        gains = [score - before for score, before in pairs]
        show(method, scores, gains, f"{statistics.median(seconds):.0f} s a run")


if __name__ == "__main__":
    main()
