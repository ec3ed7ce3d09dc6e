"""Print accuracy with few texts per class, on the Amazon review sentences.

    python docs/figures/few_labels.py amazon_review_sentences.csv [--sizes 8 16 64] [--draws 10]

The sentences are those of `amazon.py`. 800 of them, the same for all, are the test split; each draw
takes its train texts from the others, as many of either class. Both heads run with the defaults
that a user gets, a share held out for validation included; TF-IDF and logistic regression
(scikit-learn) learn on all the drawn texts. "sd" is the standard deviation over the draws. Takes
about 40 minutes on one core, most of them for `linear`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from loguru import logger
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import bertkit

TEST = 800
HEADS = ("frozen-feature", "linear")


def sentences(path: Path) -> pd.DataFrame:
    """Return columns text and label of the sentences that are clearly good or bad."""
    rows = pd.read_csv(path)
    rows = rows[rows.sentiment.abs() >= 0.5]
    return rows.assign(label=np.where(rows.sentiment > 0, "pos", "neg"))[["text", "label"]]


def draw(
    rows: pd.DataFrame, per_class: int, seed: int, test: int = TEST
) -> dict[str, pd.DataFrame]:
    """Return train, of this seed, and test, the same for every seed; no text is in both."""
    unique = rows[~rows.text.duplicated(keep=False)]
    held_out = unique.sample(test, random_state=0)
    rest = unique.drop(held_out.index)
    return {"train": rest.groupby("label").sample(per_class, random_state=seed), "test": held_out}


def tfidf(parts: dict[str, pd.DataFrame]) -> float:
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    model.fit(parts["train"].text, parts["train"].label)
    return float(model.score(parts["test"].text, parts["test"].label))


def accuracy(parts: dict[str, pd.DataFrame], head: str, seed: int, cache: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        result = bertkit.run(
            {
                "encoder": {"type": "minilm"},
                "dataset": {"type": "memory", "data": parts},
                "head": {"type": head},
                "compute": {"cache": cache},
                "seed": seed,
                "output": str(Path(folder, "run")),
                "offline": True,
            }
        )
    return float(result.metrics["test"]["accuracy"])


def show(name: str, scores: list[float], more: str = "") -> None:
    spread = statistics.stdev(scores) if len(scores) > 1 else float("nan")
    each = " ".join(f"{score:.3f}" for score in scores)
    print(
        f"{name:<34} accuracy {statistics.mean(scores):.3f}, sd {spread:.3f}  ({each})  {more}"
        .rstrip(), flush=True,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16, 64], help="texts per class")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--heads", nargs="*", default=HEADS, choices=HEADS)
    parser.add_argument("--test", type=int, default=TEST, help="test texts")
    options = parser.parse_args()
    logger.remove()
    rows = sentences(options.data)
    test = draw(rows, 1, 0, options.test)["test"]
    print(
        f"{len(rows)} texts, {len(test)} of them for the test, "
        f"{(test.label == 'pos').mean():.3f} of those positive; seeds 0 to {options.draws - 1}",
        flush=True,
    )
    for size in options.sizes:
        draws = [draw(rows, size, seed, options.test) for seed in range(options.draws)]
        show(f"{size} per class, TF-IDF + logistic", [tfidf(parts) for parts in draws])
        for head in options.heads:
            scores, seconds = [], []
            with tempfile.TemporaryDirectory() as cache:
                for seed, parts in enumerate(draws):
                    started = time.perf_counter()
                    scores.append(accuracy(parts, head, seed, cache))
                    seconds.append(time.perf_counter() - started)
            show(f"{size} per class, {head}", scores, f"{statistics.median(seconds):.0f} s a run")


if __name__ == "__main__":
    main()
