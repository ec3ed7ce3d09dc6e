"""Print what `long_text.keep` does where the evidence lies anywhere in a long text.

    python docs/figures/long_texts.py amazon_review_sentences.csv [--variants 'linear head' …]

A made set of the Amazon review sentences (Hutto & Gilbert, ICWSM 2014; mean human rating from -4 to
4): each document has some 2,000 tokens of sentences that say little (|sentiment| < 0.3) and, at one
place drawn evenly from all there are, five sentences together that are clearly good, or clearly
bad (|sentiment| > 2). Which of the two is the label. 300 documents to train on and 200 for the
test, half of them good; no sentence is in both. So the evidence is plain, and only its place is
not: one end of 128 tokens shows nothing of it in nine documents of ten.

Each variant runs in a process of its own, one after the other, so that the peak memory is its own;
it is that of the whole process, Python and libraries included. Features are cached between
variants as in any run: `windows mean` computes those that `windows max` and `windows attention`
find. With OMP_NUM_THREADS=1 the whole takes about 35 minutes, one half of them for
`linear windows max`.
"""

# Only light modules here: on Linux a child's peak memory starts with what its parent holds.
from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

TOKENS = 2000
EVIDENCE = 5
"""Sentences of the label's sign in a document."""
WEAK, STRONG = 0.3, 2.0
"""|sentiment| of filler is below the one, that of evidence above the other."""
COUNTS = {"train": 300, "test": 200}
WINDOWS = {"keep": "windows", "max_length": 128, "stride": 100, "max_windows": 32}
POLICIES: dict[str, dict[str, Any]] = {
    "head": {"keep": "head", "max_length": 128},
    "tail": {"keep": "tail", "max_length": 128},
    "head+tail": {"keep": "head+tail", "max_length": 128},
    "head of 512": {"keep": "head", "max_length": 512},
    "windows mean": {**WINDOWS, "pool": "mean"},
    "windows max": {**WINDOWS, "pool": "max"},
    "windows attention": {**WINDOWS, "pool": "attention"},
}
BASELINE = "TF-IDF + logistic regression"
VARIANTS = [
    BASELINE,
    *(f"frozen-feature {policy}" for policy in POLICIES),
    *(f"linear {policy}" for policy in ("head", "tail", "head+tail", "windows max")),
]
KNOWN = [
    BASELINE,
    *(f"{head} {name}" for head in ("frozen-feature", "linear") for name in POLICIES),
]
LINEAR = {"epochs": 3, "batch_size": 4, "learning_rate": 5e-5}
"""A batch of 4 documents is 80 windows."""


def documents(
    rows: pd.DataFrame, seed: int, counts: dict[str, int], tokens: int = TOKENS
) -> dict[str, pd.DataFrame]:
    """Return train and test, columns text and label.

    Args:
        rows: columns text and sentiment.
        seed: of every draw.
        counts: documents of each split.
        tokens: words and punctuation marks of a document, about.
    """
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(seed)
    rows = rows.drop_duplicates("text")
    in_train = rng.random(len(rows)) < 0.6
    result = {}
    for split, count in counts.items():
        own = rows[in_train if split == "train" else ~in_train]
        filler = own[own.sentiment.abs() < WEAK].text.to_numpy()
        strong = {
            "pos": own[own.sentiment > STRONG].text.to_numpy(),
            "neg": own[own.sentiment < -STRONG].text.to_numpy(),
        }
        labels = [("pos", "neg")[i % 2] for i in range(count)]
        texts = [document(filler, strong[label], tokens, rng) for label in labels]
        result[split] = pd.DataFrame({"text": texts, "label": labels})
    return result


def document(
    filler: np.ndarray[Any, Any],
    strong: np.ndarray[Any, Any],
    tokens: int,
    rng: np.random.Generator,
) -> str:
    evidence = " ".join(rng.choice(strong, EVIDENCE, replace=False))
    left = tokens - size(evidence)
    sentences: list[str] = []
    for sentence in rng.permutation(filler):
        left -= size(sentence)
        if left < 0:
            break
        sentences.append(sentence)
    sentences.insert(int(rng.integers(len(sentences) + 1)), evidence)
    return " ".join(sentences)


def size(text: str) -> int:
    """Count words and punctuation marks; word pieces are some 5 % more."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def measure(variant: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what a variant reaches and takes; this process is its own."""
    import pandas as pd
    from loguru import logger

    logger.remove()
    counts = dict(zip(COUNTS, options.texts, strict=True))
    frames = documents(pd.read_csv(options.data), options.seed, counts, options.tokens)
    started = time.perf_counter()
    if variant == BASELINE:
        from bertkit.compute import peak_memory

        return {
            "accuracy": tfidf(frames),
            "seconds": time.perf_counter() - started,
            "memory": peak_memory(),
            "cached": False,
        }
    import bertkit

    head, _, policy = variant.partition(" ")
    with tempfile.TemporaryDirectory() as folder:
        result = bertkit.run(
            {
                "encoder": {"type": "minilm"},
                "dataset": {"type": "memory", "data": frames, "validation": 0},
                "long_text": POLICIES[policy],
                "head": {"type": head},
                "trainer": {"type": "loop", **(LINEAR if head == "linear" else {})},
                "metrics": ["accuracy"],
                "compute": {"cache": options.cache},
                "seed": options.seed,
                "output": str(Path(folder, "run")),
                "offline": True,
            }
        )
    return {
        "accuracy": result.metrics["test"]["accuracy"],
        "seconds": time.perf_counter() - started,
        "memory": result.training["peak_memory_bytes"],
        "cached": "hit" in str(result.data.get("feature_cache")),
    }


def tfidf(frames: dict[str, pd.DataFrame]) -> float:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    model.fit(frames["train"].text, frames["train"].label)
    return float(model.score(frames["test"].text, frames["test"].label))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=KNOWN, metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", type=int, nargs=2, default=list(COUNTS.values()))
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of a document, about")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options)))
        return
    train, test = options.texts
    print(
        f"{train} documents of {options.tokens} tokens, {test} more for the test; "
        f"seed {options.seed}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as cache:
        for name in options.variants:
            command = [sys.executable, __file__, str(options.data), "--measure", name]
            command += ["--seed", str(options.seed), "--cache", cache]
            command += ["--texts", str(train), str(test), "--tokens", str(options.tokens)]
            child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(child.stdout.splitlines()[-1])
            cached = "  (features cached)" if found["cached"] else ""
            print(
                f"{name:<34} accuracy {found['accuracy']:.4f}  {found['seconds']:5.0f} s"
                f"  peak {found['memory'] / 2**30:.2f} GiB{cached}",
                flush=True,
            )


if __name__ == "__main__":
    main()
