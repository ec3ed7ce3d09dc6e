"""The JSON Schema of a spec: valid, described, of one mind with RunSpec, read by editors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import Field, ValidationError

import bertkit
from bertkit.cli import main
from bertkit.registry import Registry, use
from bertkit.spec import RunSpec, schema
from tests.generated_specs import ANYTHING, SENSIBLE, documents

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
SMALL = {"encoder": "some-encoder", "dataset": "reviews.csv"}
RULES = {"value_error", "metric_names", "best"}
"""Mistakes in what several fields say together, which a JSON Schema does not know."""


@pytest.fixture(autouse=True)
def no_plugins() -> Iterator[None]:
    use(Registry(plugins=False))
    yield
    use(None)


@pytest.fixture
def validator(no_plugins: None) -> Draft202012Validator:
    return Draft202012Validator(schema())


def properties(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every field of a schema with its place, those of all branches too."""
    inner = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in inner:
        place = f"{path}/{key}"
        if path.endswith("/properties"):
            yield place, value
        if isinstance(value, (dict, list)):
            yield from properties(value, place)


# The schema itself


def test_it_is_a_valid_schema_of_draft_2020_12() -> None:
    found = schema()
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(found)


def test_every_field_of_every_type_has_a_description() -> None:
    fields = dict(properties(schema()))
    assert len(fields) > 150
    assert [path for path, field in fields.items() if not field.get("description")] == []


def test_every_built_in_is_a_branch_and_the_default_is_the_first() -> None:
    found = schema()["properties"]
    names = {
        kind: [branch["title"] for branch in found[kind]["oneOf"] if "title" in branch]
        for kind in ("encoder", "dataset", "head", "trainer")
    }
    assert names == {
        "encoder": ["pretrained", "scratch"],
        "dataset": ["files", "hub", "disk", "inline"],
        "head": ["linear", "frozen-feature"],
        "trainer": ["loop", "hf"],
    }
    metrics = found["metrics"]["anyOf"][0]["items"]["oneOf"]
    assert len(metrics) == 15
    assert metrics[-1]["enum"] == [branch["title"] for branch in metrics[:-1]]


def test_it_refuses_unknown_keys_at_every_level() -> None:
    def closed(node: Any) -> Iterator[bool]:
        if isinstance(node, dict):
            if "properties" in node:
                yield node.get("additionalProperties") is False
            for inner in node.values():
                yield from closed(inner)
        elif isinstance(node, list):
            for inner in node:
                yield from closed(inner)

    found = list(closed(schema()))
    assert len(found) > 20
    assert all(found)


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["schema"])
    assert json.loads(capsys.readouterr().out) == schema()


# Of one mind with RunSpec


TYPE_LEVEL: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"encoder": {"name": "x"}}, True),
    ({"encoder": {"type": "pretrained", "name": "x", "revision": None}}, True),
    ({"encoder": {"type": "scratch", "layers": 1}}, True),
    ({"encoder": {"layers": 1}}, False),
    ({"encoder": ""}, False),
    ({"encoder": 3}, False),
    ({"encoder": None}, False),
    ({"encoder": {}}, False),
    ({"encoder": {"type": "pretraind", "name": "x"}}, False),
    ({"dataset": {"train": ["a.csv", "b.csv"]}}, True),
    ({"dataset": {"train": "a.csv", "test": 0.2}}, True),
    ({"dataset": {"train": "a.csv", "test": 0}}, True),
    ({"dataset": {"train": "a.csv", "test": 1}}, False),
    ({"dataset": {"train": "a.csv", "test": "0.2"}}, True),  # a file of that name
    ({"dataset": {"train": "a.csv", "test": True}}, False),
    ({"dataset": {"train": ""}}, False),
    ({"dataset": {"train": [""]}}, False),
    ({"dataset": {"type": "hub", "name": "a/b", "test": "holdout"}}, True),
    ({"dataset": {"type": "hub"}}, False),
    ({"dataset": {"type": "inline", "train": [{"text": "a", "label": 1}]}}, True),
    ({"dataset": {"type": "inline", "train": [{"text": "a", "label": True}]}}, False),
    ({"dataset": {"type": "inline", "train": [{"text": "a"}]}}, False),
    ({"dataset": {"train": "a.csv", "labels": {"0": "bad", "1": "good"}}}, True),
    ({"dataset": {"train": "a.csv", "labels": "bad"}}, False),
    ({"dataset": {"train": "a.csv", "labels": [0, 1]}}, True),
    ({"dataset": {"train": "a.csv", "labels": {"0": False, "1": True}}}, True),
    ({"dataset": {"train": "a.csv", "labels": [None, "good"]}}, False),
    ({"dataset": {"train": "a.csv", "labels": [["a"], ["b"]]}}, False),
    ({"dataset": {"type": "inline", "train": [{"text": "a", "label": 1.5}]}}, True),
    ({"dataset": {"type": "inline", "train": [{"text": "a", "label": []}]}}, True),
    ({"dataset": {"type": "inline", "train": [{"text": "a", "label": ["x", 1, 0.5]}]}}, True),
    ({"dataset": {"type": "inline", "train": [{"text": "a", "label": [None]}]}}, False),
    ({"dataset": {"type": "inline", "train": [{"text": ["a", "b"], "label": 1}]}}, True),
    ({"dataset": {"type": "inline", "train": [{"text": ["a"], "label": 1}]}}, False),
    ({"dataset": {"train": "a.csv", "text": ["question", "answer"]}}, True),
    ({"dataset": {"train": "a.csv", "text": ["question"]}}, False),
    ({"dataset": {"train": "a.csv", "text": ["a", "b", "c"]}}, False),
    ({"dataset": {"train": "a.csv", "label": ["sports"]}}, True),
    ({"dataset": {"train": "a.csv", "label": ["a", "b", "c"]}}, True),
    ({"dataset": {"train": "a.csv", "label": []}}, False),
    ({"dataset": {"train": "a.csv", "separator": "|"}}, True),
    ({"dataset": {"train": "a.csv", "separator": ""}}, False),
    ({"dataset": {"train": []}}, False),
    ({"dataset": {"train": "a.csv", "test": []}}, False),
    ({"trainer": {"type": "hf", "extra": [1]}}, False),
    ({"dataset": {"train": "a.csv", "sample": {"train": 0}}}, False),
    ({"dataset": {"train": "a.csv", "sample": None}}, True),
    ({"head": "frozen-feature"}, True),
    ({"head": "frozen_feature"}, False),
    ({"head": {}}, True),
    ({"head": {"pooling": "cls"}}, False),
    ({"head": {"type": "frozen-feature", "pooling": "max"}}, False),
    ({"trainer": {"epochs": 1, "learning_rate": 1}}, True),
    ({"trainer": {"epochs": "1"}}, False),
    ({"trainer": {"epochs": True}}, False),
    ({"trainer": {"epochs": 1.5}}, False),
    ({"trainer": {"epochs": 0}}, False),
    ({"trainer": {"learning_rate": 0}}, False),
    ({"trainer": {"learning_rate": "1e-5"}}, False),
    ({"trainer": {"clip": None, "evaluate": None, "best": None}}, True),
    ({"trainer": {"batch_size": None}}, False),
    ({"trainer": {"evaluate": {"steps": 3}}}, True),
    ({"trainer": {"evaluate": 3}}, False),
    ({"trainer": {"early_stopping": {"patience": 2}}}, True),
    ({"trainer": {"early_stopping": 2}}, True),
    ({"trainer": {"early_stopping": 0}}, False),
    ({"trainer": {"early_stopping": True}}, False),
    ({"trainer": {"early_stopping": "2"}}, False),
    ({"trainer": {"extra": {}}}, False),
    ({"trainer": {"type": "hf", "extra": {"gradient_checkpointing": True}}}, True),
    ({"trainer": {"class_weights": "balanced", "sampling": {"a": 2, "b": 0}}}, True),
    ({"trainer": {"class_weights": "balance"}}, False),
    ({"trainer": {"class_weights": {"a": -1}}}, False),
    ({"trainer": {"sampling": [1, 2]}}, False),
    ({"trainer": {"focal": 2, "label_smoothing": 0.1}}, True),
    ({"trainer": {"focal": -1}}, False),
    ({"trainer": {"label_smoothing": 1}}, False),
    ({"head": {"layer_decay": 0.9, "freeze_layers": 2, "reinit_layers": 1}}, True),
    ({"head": {"freeze_embeddings": True, "hidden_dropout": 0, "classifier_dropout": None}}, True),
    ({"head": {"layer_decay": 0}}, False),
    ({"head": {"attention_dropout": 1}}, False),
    ({"metrics": ["accuracy", {"type": "f1", "average": "micro"}]}, True),
    ({"metrics": None}, True),
    ({"metrics": []}, False),
    ({"metrics": "accuracy"}, False),
    ({"metrics": [{"average": "micro"}]}, False),
    ({"metrics": ["acuracy"]}, False),
    ({"long_text": {"keep": "head+tail", "head": 128}}, True),
    ({"long_text": {"keep": "windows", "stride": 64, "pool": "max", "max_windows": 4}}, True),
    ({"long_text": {"keep": "windows", "stride": 0}}, False),
    ({"long_text": {"keep": "windows", "pool": "sum"}}, False),
    ({"long_text": {"keep": "head", "cut": "second"}}, True),
    ({"long_text": {"cut": "third"}}, False),
    ({"long_text": None}, False),
    ({"long_text": {"max_length": 3}}, False),
    ({"compute": {"device": "cuda"}}, True),
    ({"compute": {"device": "gpu"}}, False),
    ({"seed": 2**32 - 1}, True),
    ({"seed": 2**32}, False),
    ({"seed": None}, False),
    ({"output": None}, True),
    ({"output": ""}, False),
    ({"offline": "yes"}, False),
    ({"offline": 1}, False),
    ({"task": "single_label"}, True),
    ({"task": "regression"}, True),
    ({"task": {"type": "multi_label", "thresholds": "validation"}}, True),
    ({"task": {"type": "multi_label", "thresholds": {"a": 0.5}}}, True),
    ({"task": {"type": "multi_label", "thresholds": 1}}, True),
    ({"task": {"type": "multi_label", "thresholds": 1.5}}, False),
    ({"task": {"type": "multi_label", "thresholds": "auto"}}, False),
    ({"task": {"thresholds": 0.5}}, False),
    ({"task": "ranking"}, False),
    ({"task": None}, True),
    ({"sede": 1}, False),
]


def accepted(raw: Any) -> bool:
    """Say whether RunSpec takes the types of a document, whatever its fields say together."""
    try:
        RunSpec.model_validate(raw)
    except ValidationError as error:
        return {item["type"] for item in error.errors()} <= RULES
    return True


@pytest.mark.parametrize(("fields", "good"), TYPE_LEVEL)
def test_schema_and_spec_take_and_refuse_the_same(
    validator: Draft202012Validator, fields: dict[str, Any], good: bool
) -> None:
    raw = {**SMALL, **fields}
    assert (validator.is_valid(raw), accepted(raw)) == (good, good)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_schema_and_spec_agree_on_generated_specs_also_with_one_value_replaced(
    data: st.DataObject,
) -> None:
    found = schema()
    checker = Draft202012Validator(found)
    raw = data.draw(documents(found, SENSIBLE))
    assert checker.is_valid(raw)
    assert accepted(raw)

    changed = json.loads(json.dumps(raw))
    node = changed
    while True:
        key = data.draw(
            st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node)))
        )
        if isinstance(node[key], (dict, list)) and node[key] and data.draw(st.booleans()):
            node = node[key]
            continue
        node[key] = data.draw(ANYTHING | st.just([]) | st.just({}) | st.just(0.5))
        break
    assert checker.is_valid(changed) == accepted(changed)


# Components of others


class Tweets(bertkit.DatasetLoader):
    """Tweets of one author."""

    type: Literal["tweets"] = "tweets"
    author: str = Field(description="Whose tweets.")
    limit: int = Field(100, ge=1, description="How many.")


class Opaque(bertkit.Head):
    """A head whose options no JSON Schema can say."""

    type: Literal["opaque"] = "opaque"
    function: Any = Field(default_factory=lambda: print)
    kinds: ClassVar[tuple[str, ...]] = ()
    module: type = Field(default=int)

    @classmethod
    def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
        raise TypeError("not to be said")


class Plugin:
    @bertkit.hookimpl
    def bertkit_datasets(self) -> list[type]:
        return [Tweets]

    @bertkit.hookimpl
    def bertkit_heads(self) -> list[type]:
        return [Opaque]


class Point:
    """An entry point as `importlib.metadata` gives it."""

    name = "theirs"
    dist = None

    def load(self) -> Plugin:
        return Plugin()


@pytest.fixture
def with_plugin(no_plugins: None) -> None:
    use(Registry(entry_points=lambda: [Point()]))  # type: ignore[list-item]


def test_the_fields_of_a_plugin_appear_with_their_descriptions(with_plugin: None) -> None:
    branches = {one.get("title"): one for one in schema()["properties"]["dataset"]["oneOf"]}
    tweets = branches["tweets"]
    assert tweets["description"] == "Tweets of one author."
    assert tweets["required"] == ["type", "author"]
    assert tweets["properties"]["limit"]["description"] == "How many."
    validator = Draft202012Validator(schema())
    good = {"encoder": "x", "dataset": {"type": "tweets", "author": "me"}}
    assert validator.is_valid(good)
    assert not validator.is_valid({"encoder": "x", "dataset": {"type": "tweets"}})
    assert RunSpec.model_validate(good).dataset == Tweets(author="me")


def test_a_mistake_inside_a_plugin_has_its_place(with_plugin: None) -> None:
    with pytest.raises(bertkit.SpecError) as caught:
        RunSpec.parse({"encoder": "x", "dataset": {"type": "tweets", "author": "me", "limit": 0}})
    assert str(caught.value) == "spec: dataset.limit: found 0; expected 1 or more"


def test_a_component_that_cannot_be_described_leaves_the_others_described(
    with_plugin: None,
) -> None:
    branches = {one.get("title"): one for one in schema()["properties"]["head"]["oneOf"]}
    assert "pooling" in branches["frozen-feature"]["properties"]
    assert branches["opaque"]["$comment"].endswith("not to be said")
    validator = Draft202012Validator(schema())
    assert validator.is_valid({**SMALL, "head": {"type": "opaque", "whatever": 1}})
    assert not validator.is_valid({**SMALL, "head": {"type": "opaq"}})


# A YAML language server, as editors run it


class LanguageServer:
    """yaml-language-server on standard input and output, with one schema for all files."""

    def __init__(self, command: list[str], schema_file: Path) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=schema_file.parent
        )
        self.settings = {
            "schemas": {schema_file.as_uri(): ["*.yaml"]},
            "schemaStore": {"enable": False},
            "validate": True,
        }
        self.folder = schema_file.parent
        self.opened = 0
        start = {"processId": None, "rootUri": None, "capabilities": {}}
        self.write({"id": "start", "method": "initialize", "params": start})
        while self.read().get("id") != "start":
            pass
        self.write({"method": "initialized", "params": {}})
        self.write(
            {
                "method": "workspace/didChangeConfiguration",
                "params": {"settings": {"yaml": self.settings}},
            }
        )

    def write(self, message: dict[str, Any]) -> None:
        assert self.process.stdin
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.process.stdin.flush()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        length = 0
        while line := self.process.stdout.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        assert length, "the language server has ended"
        message: dict[str, Any] = json.loads(self.process.stdout.read(length))
        return message

    def problems(self, text: str) -> list[tuple[int, str]]:
        """Return line (from 1) and message of everything that an editor would underline."""
        self.opened += 1
        uri = (self.folder / f"{self.opened}.yaml").as_uri()
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self.write({"method": "textDocument/didOpen", "params": {"textDocument": document}})
        while True:
            message = self.read()
            if message.get("method") == "workspace/configuration":
                asked = [item["section"] for item in message["params"]["items"]]
                result = [self.settings if section == "yaml" else None for section in asked]
                self.write({"id": message["id"], "result": result})
            elif message.get("method") == "textDocument/publishDiagnostics":
                if message["params"]["uri"] == uri:
                    found = message["params"]["diagnostics"]
                    return [(one["range"]["start"]["line"] + 1, one["message"]) for one in found]
            elif "id" in message and "method" in message:
                self.write({"id": message["id"], "result": None})


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageServer]:
    """A language server with the schema that `bertkit schema` prints here, plugins and all."""
    script = os.environ.get("BERTKIT_YAML_LANGUAGE_SERVER") or shutil.which("yaml-language-server")
    node = shutil.which("node")
    if not script or not node:
        pytest.skip(
            "needs node, and the npm package yaml-language-server, on PATH or with its script in "
            "BERTKIT_YAML_LANGUAGE_SERVER"
        )
    use(None)
    file = tmp_path_factory.mktemp("editor") / "schema.json"
    file.write_text(json.dumps(schema()))
    server = LanguageServer([node, str(Path(script).resolve()), "--stdio"], file)
    yield server
    server.process.kill()
    server.process.communicate()


@pytest.mark.parametrize(
    "example", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: str(path.relative_to(EXAMPLES))
)
def test_an_editor_finds_nothing_in_an_example(editor: LanguageServer, example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    assert editor.problems(text) == []
    assert editor.problems(text.replace("encoder:", "encodr:", 1)) != []


TYPOS: dict[str, tuple[int, str]] = {
    "encodr: bert\n": (1, "Property encodr is not allowed."),
    "trainer: {epoch: 3}\n": (1, "Property epoch is not allowed."),
    "trainer:\n  type: hf\n  epoch: 3\n": (3, "Property epoch is not allowed."),
    "trainer: {type: lop}\n": (1, 'Value must be "loop" | "hf".'),
    "head: liner\n": (1, 'Value is not accepted. Valid values: "linear", "frozen-feature".'),
    "head: {type: frozen-feature, poling: cls}\n": (1, "Property poling is not allowed."),
    "metrics:\n  - {type: f1, averge: macro}\n": (2, "Property averge is not allowed."),
    "long_text: {kep: head}\n": (1, "Property kep is not allowed."),
    "trainer: {epochs: three}\n": (1, 'Incorrect type. Expected "integer | null".'),
    "seed: -1\n": (1, "Value is below the minimum of 0."),
}


@pytest.mark.parametrize("typo", TYPOS)
def test_an_editor_underlines_a_typo(editor: LanguageServer, typo: str) -> None:
    line, message = TYPOS[typo]
    text = "encoder: bert\ndataset: reviews.csv\n" + typo
    assert editor.problems(text) == [(line + 2, message)]
