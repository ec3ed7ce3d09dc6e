"""The sets and baselines behind the figures of docs/figures; the training is bertkit's own."""

import gzip
import importlib
import lzma
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bertkit.heads.linear import Linear
from bertkit.registry import registry
from bertkit.text.long_text import LongText
from bertkit.trainers.loop import Loop

FIGURES = Path(__file__).parents[2] / "docs" / "figures"

INDEX = """\
Package: cutter
Version: 1.0
Description: cuts long files
Recommends: paster (>= 2.0) | gluer, holder:any
Tag: role::program, use::editing,
 works-with::file
Section: utils

Package: paster
Source: glue (2.1)
Description: puts files together
 A longer text that not every index has.
 .
 Another paragraph of it.
Tag: role::program, use::TODO, use::editing
"""


@pytest.fixture(scope="module")
def figure() -> Iterator[Callable[[str], ModuleType]]:
    """Import a script of docs/figures, as Python does when it is run."""
    sys.path.insert(0, str(FIGURES))
    yield importlib.import_module
    sys.path.remove(str(FIGURES))


def package(name: str, **fields: str) -> dict[str, str]:
    return {"Package": name, "Description": f"about {name}", **fields}


# Debian's index


@pytest.mark.parametrize(("suffix", "opener"), [("", open), (".gz", gzip.open), (".xz", lzma.open)])
def test_an_index_is_read_plain_and_compressed(
    figure: Any, tmp_path: Path, suffix: str, opener: Any
) -> None:
    path = tmp_path / f"Packages{suffix}"
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(INDEX)
    first, second = figure("tasks").packages(path)
    assert first["Tag"] == "role::program, use::editing, works-with::file"
    assert first["Section"] == "utils"
    assert second["Description"] == "puts files together"
    assert figure("tasks").source(first) == "cutter"
    assert figure("tasks").source(second) == "glue"


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("", [""]),
        ("a", ["a"]),
        ("paster (>= 2.0) | gluer, holder:any", ["paster", "gluer", "holder"]),
        ("lib(x), b", ["lib", "b"]),
    ],
)
def test_names_of_a_relation_come_without_versions(
    figure: Any, field: str, expected: list[str]
) -> None:
    assert figure("tasks").names(field) == expected


def test_programs_with_tags_of_the_facets_become_multi_label_rows(figure: Any) -> None:
    found = [
        package("a", Tag="role::program, use::editing, interface::x11"),
        package("b", Tag="role::program, use::editing, works-with::text, use::TODO"),
        package("c", Tag="role::program, use::printing, use::TODO"),
        package("library", Tag="role::shared-lib, use::editing"),
        package("untagged"),
        package("elsewhere", Tag="role::program, interface::x11"),
        package("sibling", Source="a (1.0)", Tag="role::program, use::editing"),
        package("twin", Description="about b", Tag="role::program, use::editing"),
    ]
    rows = figure("tasks").tagged(iter(found), min_texts=2)
    assert list(zip(rows.text, rows.tags, strict=True)) == [
        ("about a", ["use::editing"]),
        ("about b", ["use::editing"]),
        ("about c", []),
    ]


# pairs


def test_related_packages_are_of_two_sources_and_stand_in_one_pair(figure: Any) -> None:
    found = [
        package("a", Suggests="b, a-doc, nowhere"),
        package("a-doc", Source="a"),
        package("b", Recommends="c"),
        package("c", Enhances="d | b"),
        package("d", Depends="a"),
        package("twin", Description="about d", Suggests="d"),
    ]
    pairs, named = figure("tasks").related(iter(found))
    assert named == {("a", "b"), ("b", "c"), ("c", "d"), ("c", "b"), ("twin", "d")}
    stand = [one["Package"] for pair in pairs for one in pair]
    assert len(stand) == len(set(stand)) >= 2
    assert {(a["Package"], b["Package"]) for a, b in pairs} <= named - {("twin", "d")}


def web(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Return packages that each suggest a few others."""
    rng = random.Random(seed)
    names = [f"p{i}" for i in range(count)]
    return [package(name, Suggests=", ".join(rng.sample(names, 3))) for name in names]


@pytest.mark.parametrize("seed", range(5))
def test_one_side_of_a_pair_says_nothing_and_the_unrelated_are_unrelated(
    figure: Any, seed: int
) -> None:
    pairs, named = figure("tasks").related(iter(web(80, seed)))
    rows = figure("tasks").with_unrelated(pairs, named)
    for side in ("first", "second"):
        related, unrelated = (
            sorted(rows[rows.label == label][side]) for label in ("related", "unrelated")
        )
        assert related == unrelated
        assert len(set(related)) == len(related) >= 10
    for row in rows.itertuples():
        ids = row.first.removeprefix("about "), row.second.removeprefix("about ")
        assert (ids in named or ids[::-1] in named) == (row.label == "related")


def test_pairs_that_all_name_one_another_cannot_be_paired_otherwise(figure: Any) -> None:
    names = [f"p{i}" for i in range(6)]
    found = [package(name, Suggests=", ".join(names)) for name in names]
    with pytest.raises(SystemExit, match="cannot be paired otherwise"):
        figure("tasks").with_unrelated(*figure("tasks").related(iter(found)))


def test_splits_of_pairs_share_no_text_and_are_drawn_by_the_seed(figure: Any) -> None:
    splits, again, other = (
        figure("tasks").pair_splits(iter(web(300)), 160, seed) for seed in (1, 1, 2)
    )
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [112, 16, 32]
    texts = [{*frame["first"], *frame["second"]} for frame in splits.values()]
    assert sum(map(len, texts)) == len(set().union(*texts))
    assert splits["test"].equals(again["test"])
    assert not splits["test"].equals(other["test"])


# baselines


def test_ridge_finds_numbers_that_words_tell(figure: Any) -> None:
    rng = random.Random(0)
    words = {"awful": -3.0, "bad": -1.5, "fine": 1.5, "great": 3.0}
    rows = [(f"{word} {rng.choice('abcdefgh')}x", words[word]) for word in list(words) * 20]
    data = pd.DataFrame(rows, columns=["text", "sentiment"]).drop_duplicates()
    dataset = {"type": "memory", "data": data, "label": "sentiment", "validation": 0, "test": 0.2}
    found = figure("tasks").ridge(figure("tasks").splits(dataset, 0))
    assert found["pearson"] > 0.95
    assert found["mae"] < 1  # 2.2 for a constant


def test_one_against_the_rest_gives_the_labels_that_words_tell(figure: Any) -> None:
    rng = random.Random(0)
    rows = []
    for _ in range(150):
        tags = sorted(tag for tag in ("use::red", "use::green", "use::blue") if rng.random() < 0.4)
        noise = " ".join(rng.choices([f"w{i}" for i in range(40)], k=3))
        rows.append((" ".join([noise, *(tag[5:] for tag in tags)]), tags))
    data = pd.DataFrame(rows, columns=["text", "tags"]).drop_duplicates("text")
    dataset = {"type": "memory", "data": data, "label": "tags", "validation": 0.2, "test": 0.2}
    found = figure("tasks").one_vs_rest(figure("tasks").splits(dataset, 0))
    assert found["average_precision"] > 0.98
    assert found["f1"] > 0.95


def test_likeness_tells_pairs_where_joined_texts_do_not(figure: Any) -> None:
    rng = random.Random(0)
    topics = [f"{a}{b}" for a in ("lumen", "porta", "vesti") for b in rng.sample(range(99), 60)]
    frames = {}
    for split, own in {"train": topics[:90], "test": topics[90:]}.items():
        moved = own[1:] + own[:1]
        frames[split] = pd.DataFrame(
            [(f"reads {a}", f"writes {b}", "related") for a, b in zip(own, own, strict=True)]
            + [(f"reads {a}", f"writes {b}", "unrelated") for a, b in zip(own, moved, strict=True)],
            columns=["first", "second", "label"],
        )
    dataset = {
        "type": "memory", "data": frames, "text": ["first", "second"], "label": "label",
        "validation": 0,
    }  # fmt: skip
    parts = figure("tasks").splits(dataset, 0)
    assert figure("tasks").alike(parts)["accuracy"] > 0.95
    assert 0.3 < figure("tasks").joined(parts)["accuracy"] < 0.7


# few labels


@pytest.fixture
def rated() -> pd.DataFrame:
    """Return sentences of three words, with a rating."""
    ratings = np.linspace(-3, 3, 400)
    return pd.DataFrame({"text": [f"word{i} of it." for i in range(400)], "sentiment": ratings})


def test_draws_differ_and_the_test_split_stays_and_shares_no_text(
    figure: Any, tmp_path: Path, rated: pd.DataFrame
) -> None:
    few_labels = figure("few_labels")
    twice = pd.concat([rated, rated.tail(3)])
    twice.to_csv(tmp_path / "a.csv")
    rows = few_labels.sentences(tmp_path / "a.csv")
    assert set(rows[rows.label == "neg"].text) == set(rated[rated.sentiment <= -0.5].text)
    draws = [few_labels.draw(rows, 8, seed, test=50) for seed in (0, 1, 0)]
    for parts in draws:
        assert Counter(parts["train"].label) == {"pos": 8, "neg": 8}
        assert parts["test"].equals(draws[0]["test"])
        assert not set(parts["train"].text) & set(parts["test"].text)
    assert not set(twice.text.tail(3)) & {text for parts in draws for text in parts["test"].text}
    assert draws[0]["train"].equals(draws[2]["train"])
    assert not draws[0]["train"].equals(draws[1]["train"])


# long texts


def test_a_document_has_its_evidence_together_anywhere_in_filler(
    figure: Any, rated: pd.DataFrame
) -> None:
    long_texts = figure("long_texts")
    counts = {"train": 60, "test": 20}
    made = long_texts.documents(pd.concat([rated, rated]), 0, counts, tokens=64)
    rating = dict(zip(rated.text, rated.sentiment, strict=True))
    used, places = {}, []
    for split, frame in made.items():
        assert Counter(frame.label) == {"pos": counts[split] // 2, "neg": counts[split] // 2}
        used[split] = set()
        for row in frame.itertuples():
            sentences = [f"{part}." for part in row.text.split(". ")]
            sentences[-1] = sentences[-1][:-1]
            used[split] |= set(sentences)
            assert 60 <= long_texts.size(row.text) <= 64
            assert len(set(sentences)) == len(sentences)
            strong = [i for i, one in enumerate(sentences) if abs(rating[one]) > 2]
            assert strong == list(range(strong[0], strong[0] + 5))
            assert {rating[sentences[i]] > 0 for i in strong} == {row.label == "pos"}
            assert all(abs(rating[one]) < 0.3 for i, one in enumerate(sentences) if i not in strong)
            places.append(strong[0] / (len(sentences) - 5))
    assert not used["train"] & used["test"]
    assert min(places) == 0
    assert max(places) == 1
    assert 0.35 < np.mean(places) < 0.65
    assert long_texts.documents(rated, 0, counts, tokens=64)["test"].equals(made["test"])


def test_the_parent_of_the_measured_processes_is_small() -> None:
    code = "import sys; import long_texts; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FIGURES, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "long_texts" in loaded
    assert not loaded & {"torch", "pandas", "numpy", "sklearn", "bertkit", "datasets"}


# options


def test_the_methods_and_policies_that_are_measured_exist(figure: Any) -> None:
    methods = figure("methods")
    plain = Linear(), Loop(**methods.LINEAR)
    for name, (head, trainer) in methods.METHODS.items():
        built = Linear(**head), Loop(**methods.LINEAR, **trainer)
        assert (built == plain) == (name == "plain")
    for task, runs in figure("tasks").RUNS.items():
        assert task in figure("tasks").BASELINES
        for head, trainer in runs.values():
            assert registry().find("head", head)
            assert Loop(**trainer).type == "loop"
    for policy in figure("long_texts").POLICIES.values():
        assert LongText(**policy).keep == policy["keep"]
