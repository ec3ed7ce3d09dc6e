"""Datasets of the hub, through the real client libraries and a hub on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import make_encoder, reviews
from tests.loopback_hub import LoopbackHub

ROWS = "text,label\n很好,1\n太差,0\n"
CONFIGS = """---
configs:
  - config_name: short
    data_files: [{split: train, path: short.csv}]
  - config_name: long
    data_files: [{split: train, path: long.csv}]
---
"""

# A child asks for each case and prints what came of it, as JSON on the last line.
ASK = """
import json, os, warnings
warnings.simplefilter("error")
from bertkit.compute import network, quiet_libraries
from bertkit.datasets.hub import Hub
from bertkit.errors import DataError
from bertkit.records import Context
found, STEPS = {}, globals().get("STEPS", {})
for case, (options, offline) in CASES.items():
    notes = {}
    try:
        STEPS.get(case, lambda: None)()
        with network(offline), quiet_libraries():
            splits = Hub(**options).load(Context(offline=offline, note=notes.__setitem__))
            rows = {name: split["text"][:] for name, split in splits.items()}
        found[case] = {"rows": rows, "revision": notes["dataset_revision"], "error": ""}
    except DataError as error:
        found[case] = {"rows": {}, "revision": None, "error": str(error)}
print("\\n" + json.dumps(found))
"""

Options = dict[str, str]


class Found(NamedTuple):
    rows: dict[str, list[str]]
    revision: str | None
    error: str


def ask(
    hub: LoopbackHub, home: Path, cases: dict[str, Options | tuple[Options, bool]], *,
    offline: bool = False, before: str = "",
) -> dict[str, Found]:  # fmt: skip
    """Ask in a child; a case is its options, or these and whether it is offline."""
    asked = {
        name: case if isinstance(case, tuple) else (case, offline) for name, case in cases.items()
    }
    done = hub.python(f"{before}\nCASES = {asked!r}\n{ASK}", home)
    assert done.returncode == 0, done.stderr
    talk = [line for line in done.stderr.splitlines() if "Failed to read file" not in line]
    assert talk == []  # the guard refused nothing, and the libraries are quiet
    answers = json.loads(done.stdout.splitlines()[-1])
    return {case: Found(**answer) for case, answer in answers.items()}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / "datasets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    root = tmp_path_factory.mktemp("hub")
    write(
        root,
        {
            "org/plain/train.csv": ROWS,
            "org/plain/test.csv": "text,label\n还行,1\n",
            "org/card/README.md": "# Reviews\n",
            "org/card/train.csv": ROWS,
            "org/two/README.md": CONFIGS,
            "org/two/short.csv": ROWS,
            "org/two/long.csv": ROWS + "一般,1\n",
            "org/script/script.py": "print('never')\n",
            "org/none/README.md": "# Nothing yet\n",
            "org/broken/train.csv": 'text,label\na,1,2\nb\n"',
        },
    )
    with LoopbackHub(root) as hub:
        hub.tag("org/card", "v1.0")
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


CASES: dict[str, Options] = {
    "splits by the names of files": {"name": "org/plain"},
    "with a card": {"name": "org/card"},
    "a configuration": {"name": "org/two", "config": "long"},
    "a tag": {"name": "org/card", "revision": "v1.0"},
    "a branch": {"name": "org/card", "revision": "main"},
}
MISTAKES: dict[str, tuple[Options, str]] = {
    "no configuration": ({"name": "org/two"},
        "dataset.name: org/two cannot be read (Config name is missing. Please pick one among the "
        "available configs: ['short', 'long'] Example of usage: `load_dataset('org/two', "
        "'short')`); set dataset.config"),
    "another configuration": ({"name": "org/two", "config": "lon"},
        "dataset.name: org/two cannot be read (BuilderConfig 'lon' not found. Available: ['short', "
        "'long']); set dataset.config"),
    "another revision": ({"name": "org/card", "revision": "v2.0"},
        "dataset.revision: org/card has no revision v2.0"),
    "another name": ({"name": "org/pain"},
        "dataset.name: org/pain: no such dataset on the hub, and no such folder here; check the "
        "name (what is private needs a token: `hf auth login`)"),
    "the name of a format": ({"name": "csv"},
        "dataset.name: csv: no such dataset on the hub, and no such folder here; check the name "
        "(what is private needs a token: `hf auth login`)"),
    "no name": ({"name": "two words"},
        "dataset.name: two words is neither a folder nor a name on the hub (Repo id must use "
        "alphanumeric chars, '-', '_' or '.'. The name cannot start or end with '-' or '.' and the "
        "maximum length is 96: 'two words'.)"),
    "a loading script": ({"name": "org/script"},
        "dataset.name: org/script cannot be read (Dataset scripts are no longer supported, but "
        "found script.py)"),
    "no data": ({"name": "org/none"}, "dataset.name: org/none cannot be read (The directory at hf"),
    "broken data": ({"name": "org/broken"},
        "dataset.name: org/broken cannot be read (An error occurred while generating the dataset "
        "Error tokenizing data. C error: EOF inside string starting at row 3)"),
}  # fmt: skip


@pytest.fixture(scope="module")
def online(hub: LoopbackHub, home: Path) -> dict[str, Found]:
    mistakes = {case: options for case, (options, _) in MISTAKES.items()}
    return ask(hub, home, CASES | mistakes)


@pytest.mark.field("dataset.hub.name")
@pytest.mark.field("dataset.hub.config")
@pytest.mark.field("dataset.hub.revision")
def test_splits_come_down_and_the_commit_is_noted(online, hub):
    two = ["很好", "太差"]
    sha = {name: hub.sha(f"org/{name}", "datasets") for name in ("plain", "card", "two")}
    assert {case: online[case] for case in CASES} == {
        "splits by the names of files": Found({"train": two, "test": ["还行"]}, sha["plain"], ""),
        "with a card": Found({"train": two}, sha["card"], ""),
        "a configuration": Found({"train": [*two, "一般"]}, sha["two"], ""),
        "a tag": Found({"train": two}, sha["card"], ""),
        "a branch": Found({"train": two}, sha["card"], ""),
    }


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_refused_with_its_remedy(online, case):
    message = MISTAKES[case][1]
    assert online[case].error[: len(message)] == message
    assert len(online[case].error.splitlines()) == 1


@pytest.mark.field("offline")
def test_offline_the_cache_answers_and_the_hub_is_not_asked(online, hub, home):
    before = len(hub.requests)
    others = {
        "another configuration": {"name": "org/two", "config": "lon"},
        "another revision": {"name": "org/card", "revision": "v2.0"},
        "another name": {"name": "org/pain"},
        "the name of a format": {"name": "csv"},
    }
    found = ask(hub, home, CASES | others, offline=True)
    assert len(hub.requests) == before
    assert {case: found[case] for case in CASES} == {case: online[case] for case in CASES}
    missing = "is not in the cache; run once with the network, or give a folder"
    assert {case: found[case].error for case in others} == {
        "another configuration":
            "dataset.name: org/two cannot be read (Couldn't find cache for org/two for config "
            "'lon' Available configs in the cache: ['long']); set dataset.config",
        "another revision":
            f"dataset.name: org/card: the run is offline, and its revision v2.0 {missing}",
        "another name": f"dataset.name: org/pain: the run is offline, and it {missing}",
        "the name of a format": f"dataset.name: csv: the run is offline, and it {missing}",
    }  # fmt: skip


def test_a_hub_that_is_not_there(hub, tmp_path):
    with LoopbackHub(tmp_path) as gone:
        pass
    found = ask(gone, tmp_path / "home", {"plain": {"name": "org/plain"}})
    assert found["plain"].error == (
        "dataset.name: org/plain: the hub cannot be reached, and it is not in the cache; run once "
        "with the network, or give a folder"
    )


def test_a_folder_of_the_same_name_is_not_taken_for_the_dataset(hub, home, online, tmp_path):
    """The datasets library would read it, without a word."""
    (tmp_path / "org" / "card").mkdir(parents=True)
    (tmp_path / "org" / "card" / "train.csv").write_text("text,label\nelse,1\n")
    before = f"import os; os.chdir({str(tmp_path)!r})"
    found = ask(hub, home, {"card": {"name": "org/card"}}, before=before)
    sha = hub.sha("org/card", "datasets")
    assert found["card"].error.startswith(
        f"dataset.name: org/card: commit {sha} was asked for, but the datasets library has read "
    )


def test_a_newer_copy_in_the_cache_is_not_taken_for_an_older_revision(tmp_path):
    """Offline the datasets library reads the newest copy, whatever the revision."""
    write(tmp_path / "hub", {"org/moving/README.md": "#\n", "org/moving/train.csv": ROWS})
    file = tmp_path / "hub" / "datasets" / "org" / "moving" / "train.csv"
    newer = f"""
def newer():
    with open({str(file)!r}, "a") as file:
        file.write("一般,1\\n")
STEPS = {{"newer": newer}}
"""
    main = {"name": "org/moving"}
    with LoopbackHub(tmp_path / "hub") as hub:
        commit = hub.sha("org/moving", "datasets")
        cases = {"older": (main, False), "newer": (main, False), "offline": (main, True)}
        cases["older, offline"] = ({**main, "revision": commit}, True)
        found = ask(hub, tmp_path / "home", cases, before=newer)
        last = hub.sha("org/moving", "datasets")
    assert (found["older"].revision, len(found["older"].rows["train"])) == (commit, 2)
    assert (found["newer"].revision, len(found["newer"].rows["train"])) == (last, 3)
    assert found["offline"] == found["newer"]
    assert found["older, offline"].error.startswith(
        f"dataset.name: org/moving: commit {commit} was asked for, but the datasets library has "
        "read "
    )
    assert last in found["older, offline"].error


def test_private_and_gated_datasets_need_a_token(tmp_path):
    write(tmp_path / "hub", {"org/secret/README.md": "#", "org/secret/train.csv": ROWS})
    secret = {"name": "org/secret"}
    tokens = """
import os
def use(token):
    return lambda: os.environ.update(HF_TOKEN=token)
STEPS = {token: use(token) for token in ("wrong", "right")}
"""
    with LoopbackHub(tmp_path / "hub") as hub:
        hub.require_token("right", gated=True)
        gated = ask(hub, tmp_path / "home", {"gated": secret})["gated"]
        hub.require_token("right")
        cases = {"none": secret, "wrong": secret, "right": secret}
        found = ask(hub, tmp_path / "home", cases, before=tokens)
    assert gated.error == (
        "dataset.name: org/secret: its owner lets in only those who asked; ask on its page on the "
        "hub, then log in: `hf auth login`"
    )
    assert found["none"].error.endswith("(what is private needs a token: `hf auth login`)")
    assert found["wrong"].error.startswith(
        "dataset.name: org/secret cannot be downloaded (Client error '401 Unauthorized' for url"
    )
    assert found["right"].rows == {"train": ["很好", "太差"]}


# A whole run, with everything in the cache and no socket at all.
FETCH = """
from bertkit.compute import hub_snapshot
from bertkit.datasets.hub import Hub
from bertkit.encoders.pretrained import WANTED
from bertkit.errors import ModelError
from bertkit.records import Context
Hub(name="org/reviews").load(Context())
hub_snapshot("org/tiny", None, WANTED, kind="encoder", offline=False, error=ModelError)
"""
RUN = """
import json, sys
def refuse(event, args):
    if event.startswith("socket."):
        raise OSError(f"a socket was opened: {event} {args}")
sys.addaudithook(refuse)
import bertkit
result = bertkit.run(json.loads(SPEC))
print("\\n" + json.dumps([result.provenance, result.metrics]))
"""


@pytest.mark.field("offline")
def test_a_run_offline_opens_no_socket(tmp_path):
    rows = [f"{row['text']},{row['label']}\n" for row in reviews(24)]
    write(tmp_path / "hub", {"org/reviews/train.csv": "text,label\n" + "".join(rows)})
    make_encoder(tmp_path / "hub" / "models" / "org" / "tiny")
    spec = {
        "encoder": "org/tiny",
        "dataset": {"type": "hub", "name": "org/reviews", "test": 0.2},
        "trainer": {"max_steps": 2, "batch_size": 8, "precision": "fp32"},
        "offline": True,
        "output": str(tmp_path / "run"),
    }
    with LoopbackHub(tmp_path / "hub") as hub:
        fetched = hub.python(FETCH, tmp_path / "home")
        assert fetched.returncode == 0, fetched.stderr
        code = f"SPEC = {json.dumps(spec)!r}\n{RUN}"
        done = hub.python(code, tmp_path / "home", BERTKIT_CACHE=str(tmp_path / "cache"))
        assert done.returncode == 0, done.stderr
        provenance, metrics = json.loads(done.stdout.splitlines()[-1])
        assert provenance["dataset_revision"] == hub.sha("org/reviews", "datasets")
        assert provenance["encoder_revision"] == hub.sha("org/tiny")
    assert sorted(metrics) == ["test", "validation"]
