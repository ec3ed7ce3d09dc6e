"""Print the README's figures on the Amazon review sentences (Hutto & Gilbert, ICWSM 2014).

    python docs/figures/amazon.py amazon_review_sentences.csv [--seeds 0 1 2] [--trainers loop hf]

The file has the columns id, text and sentiment, the mean human rating from -4 to 4. Sentences with
|sentiment| >= 0.5 are kept, and the sign is the label: 2,985 texts. Each seed draws its own
stratified 80/20 split. Beside bertkit stand two baselines of scikit-learn on the same splits.
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
import bertkit.records

LINEAR = {"epochs": 3, "batch_size": 16, "learning_rate": 5e-5, "schedule": "linear", "warmup": 0.1}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trainers", nargs="+", default=["loop", "hf"])
    options = parser.parse_args()
    logger.remove()
    rows = pd.read_csv(options.data)
    rows = rows[rows.sentiment.abs() >= 0.5]
    rows = rows.assign(label=np.where(rows.sentiment > 0, "pos", "neg"))[["text", "label"]]
    print(f"{len(rows)} texts, {(rows.label == 'pos').mean():.3f} of them positive")

    heads = {
        "linear": ({"type": "linear"}, LINEAR),
        "frozen-feature, mean": ({"type": "frozen-feature", "pooling": "mean"}, {}),
    }
    for name, (head, trainer) in heads.items():
        for kind in options.trainers:
            scores, seconds = [], []
            for seed in options.seeds:
                with tempfile.TemporaryDirectory() as folder:
                    started = time.perf_counter()
                    result = bertkit.run(
                        {
                            "encoder": {"type": "minilm"},
                            "dataset": {
                                "type": "memory", "data": rows, "validation": 0, "test": 0.2,
                            },
                            "head": head,
                            "trainer": {"type": kind, **trainer},
                            "metrics": ["accuracy"],
                            "seed": seed,
                            "output": str(Path(folder, "run")),
                            "offline": True,
                        }
                    )  # fmt: skip
                    seconds.append(time.perf_counter() - started)
                    scores.append(result.metrics["test"]["accuracy"])
            show(f"{name}, {kind}", scores, f"{statistics.median(seconds):.0f} s a run")
    show("TF-IDF + logistic regression", [tfidf(rows, seed) for seed in options.seeds])
    show("logistic regression on the features", [on_features(rows, s) for s in options.seeds])


def show(name: str, scores: list[float], more: str = "") -> None:
    each = " ".join(f"{score:.4f}" for score in scores)
    print(
        f"{name:<38} accuracy {statistics.mean(scores):.4f}  ({each})  {more}".rstrip(), flush=True
    )


def splits(rows: pd.DataFrame, seed: int) -> bertkit.records.Splits:
    """Return the very splits that a run with this seed has."""
    from bertkit.datasets.memory import Memory
    from bertkit.datasets.splits import load_splits

    return load_splits(Memory(data=rows, validation=0, test=0.2), bertkit.Context(seed=seed))


def tfidf(rows: pd.DataFrame, seed: int) -> float:
    parts = splits(rows, seed)
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    model.fit(parts.train["text"][:], parts.train["label"][:])
    return float(model.score(parts.test["text"][:], parts.test["label"][:]))


def on_features(rows: pd.DataFrame, seed: int) -> float:
    from bertkit.heads.frozen_feature import FrozenFeature
    from bertkit.registry import registry
    from bertkit.text.long_text import LongText
    from bertkit.text.tokenize import TextEncoder, fit_policy, tokenize

    parts = splits(rows, seed)
    context = bertkit.Context(seed=seed, splits=parts)
    encoder, tokenizer = registry().find("encoder", "minilm")().load(context)
    text_encoder = TextEncoder(tokenizer, fit_policy(LongText(), encoder, tokenizer))
    head = FrozenFeature(pooling="mean")
    module = head.build(encoder, parts.task, context)
    features = {}
    for name, split in parts.items():
        targets = parts.task.targets(split["label"][:])
        tokens = tokenize(split, name, text_encoder, targets, context)
        encoded = head.encode(module, tokens, context)
        features[name] = encoded.matrix.numpy(), encoded.labels
    model = LogisticRegression(max_iter=2000).fit(*features["train"])
    return float(model.score(*features["test"]))


if __name__ == "__main__":
    main()
