"""Discovery and look-up: with plugins that pip has installed, good ones and all sorts of others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

import bertkit
from bertkit.errors import AmbiguousComponentError, UnknownComponentError, suggest
from bertkit.heads.linear import Linear
from bertkit.records import RunResult
from bertkit.registry import Registry, registry, use
from tests.conftest import make_encoder

FIXTURES = Path(__file__).parent / "fixtures" / "plugins"
COMMAND = [sys.executable, "-c", "from bertkit.cli import main; main()"]


class Place:
    """An environment with every fixture plugin installed, and a folder to work in."""

    def __init__(self, plugins: Path, folder: Path) -> None:
        self.plugins, self.folder = plugins, folder

    def python(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        paths = [str(self.plugins), *filter(None, [os.environ.get("PYTHONPATH")])]
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
        return subprocess.run(
            arguments, cwd=self.folder, env=variables, capture_output=True, text=True, check=False
        )

    def bertkit(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.python(*COMMAND, *arguments, **environment)

    def spec(self, **fields: Any) -> str:
        raw = {
            "encoder": str(self.folder / "encoder"),
            "dataset": {"type": "weather", "test": 0.25},
            "head": "frozen-feature",
            "trainer": {"epochs": 2},
            "metrics": ["accuracy"],
            "compute": {"device": "cpu"},
            "offline": True,
            "output": "run",
        }
        (self.folder / "run.yaml").write_text(json.dumps({**raw, **fields}))
        return "run.yaml"


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every fixture plugin, installed by pip without network."""
    folder = tmp_path_factory.mktemp("plugins")
    shutil.copytree(FIXTURES, folder / "sources")  # pip builds inside the source folder
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            "--no-index", "--no-deps", "--no-build-isolation", "--target", folder / "installed",
            *sorted((folder / "sources").iterdir()),
        ],
        check=True,
    )  # fmt: skip
    return folder / "installed"


@pytest.fixture
def place(plugins: Path, tmp_path: Path) -> Place:
    return Place(plugins, tmp_path)


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    yield
    use(None)


# Listing


PROBLEMS = {
    "raises": "RuntimeError: the weather service is closed",
    "exits": "SystemExit: no licence",
    "gone": "ModuleNotFoundError: No module named 'bertkit_gone'",
    "shadow": "dataset `files` is the name of a built-in; rename it",
    "misspelt": "`bertkit_dataset` is not a hook of bertkit. Did you mean `bertkit_datasets`?",
    "signature": "can not be found in the hookspec",
    "junk": "bertkit_datasets returned generator, not a list of classes",
}


def test_the_list_shows_every_component_and_every_problem(place: Place) -> None:
    done = place.bertkit("plugins", "list")
    assert done.returncode == 0
    header, *rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert header == ["kind", "name", "distribution", "version", "file"]
    by_name = {(kind, name, dist): (version, file) for kind, name, dist, version, file in rows}
    assert by_name["dataset", "weather", "bertkit-weather"] == (
        "1.2",
        str(place.plugins / "bertkit_weather.py"),
    )
    assert by_name["trainer", "hf", "bertkit"][0] == bertkit.__version__
    assert by_name["trainer", "hf", "bertkit"][1].endswith("trainers/hf.py")
    assert by_name["metric", "honest", "bertkit-broken"][0] == "0.3"
    assert ("dataset", "files", "bertkit-broken") not in by_name
    assert ("metric", "half", "bertkit-broken") not in by_name
    problems = [line for line in done.stderr.splitlines() if line.startswith("problem: ")]
    for plugin, reason in PROBLEMS.items():
        assert any(
            line.startswith(f"problem: {plugin} (bertkit-broken 0.3): ") and line.endswith(reason)
            for line in problems
        ), plugin
    assert problems[-1] == (
        "problem: metric `error_rate` is provided by bertkit-twin-a and by bertkit-twin-b; "
        "a spec that names it is refused"
    )
    assert "Traceback" not in done.stderr


def test_the_schema_has_the_fields_of_plugins(place: Place) -> None:
    done = place.bertkit("schema")
    branches = json.loads(done.stdout)["properties"]["dataset"]["oneOf"]
    weather = next(one for one in branches if one.get("title") == "weather")
    assert weather["description"] == "Made-up weather reports."
    assert weather["properties"]["days"]["minimum"] == 4
    assert weather["properties"]["text"]["description"].startswith("Column that holds the text")


# Use


@pytest.fixture(scope="module")
def weather_run(plugins: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run through the command line, with every fixture plugin installed."""
    place = Place(plugins, tmp_path_factory.mktemp("weather"))
    make_encoder(place.folder / "encoder")
    done = place.bertkit("run", place.spec(), DIARY="diary.jsonl")
    assert done.returncode == 0, done.stderr
    (place.folder / "stderr").write_text(done.stderr)
    return place


def test_a_plugin_of_twenty_lines_is_used_in_a_run(weather_run: Place) -> None:
    result = RunResult.read(weather_run.folder / "run")
    assert result.provenance["components"]["dataset"] == {
        "plugin": "weather", "distribution": "bertkit-weather", "version": "1.2",
    }  # fmt: skip
    assert sum(result.data["labels"]["test"].values()) == 20
    assert "reading the weather of 40 days" in (weather_run.folder / "stderr").read_text()


def test_an_installed_observer_sees_the_run(weather_run: Place) -> None:
    lines = (weather_run.folder / "diary.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == [
        "started", *["stage"] * 6, "finished",
    ]  # fmt: skip
    log = (weather_run.folder / "run" / "log.txt").read_text()
    for stage in ("load", "tokenize", "build", "evaluate", "save"):
        assert (
            "observer grumpy@bertkit-observer raised in bertkit_stage_finished and was ignored: "
            f"ValueError: {stage} bores me"
        ) in log


def test_an_option_of_a_plugin_is_checked_like_any_other(place: Place) -> None:
    done = place.bertkit("run", place.spec(dataset={"type": "weather", "days": 1, "dais": 2}))
    assert done.returncode == 2
    assert done.stderr.splitlines()[1:3] == [
        "  dataset.days: found 1; expected 4 or more",
        "  dataset.dais: unknown key. Did you mean `days`? Known: type, train, validation, test, "
        "text, label, separator, labels, sample, days.",
    ]


def test_a_name_of_two_distributions_is_an_error_where_it_is_used(place: Place) -> None:
    done = place.bertkit("run", place.spec(metrics=["error_rate"]))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: run.yaml: metrics.0: metric `error_rate` is provided by bertkit-twin-a 1.0 and by "
        "bertkit-twin-b 2.0; uninstall one, or set BERTKIT_DISABLE_PLUGINS=bertkit-twin-a"
    ]


def test_an_unknown_name_says_what_is_near_what_is_known_and_what_failed(place: Place) -> None:
    done = place.bertkit("run", place.spec(dataset="{}", head="wether"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "error: run.yaml: head: no head is called `wether`. Known: frozen-feature, linear. "
        "Plugins that could not be used: "
    )
    for plugin in ("raises", "exits", "gone"):
        assert f"{plugin} (bertkit-broken 0.3): {PROBLEMS[plugin]}" in line
    done = place.bertkit("run", place.spec(dataset={"type": "wether"}))
    assert "no dataset is called `wether`. Did you mean `weather`?" in done.stderr


DISABLED = [
    {"BERTKIT_DISABLE_PLUGINS": "weather"},
    {"BERTKIT_DISABLE_PLUGINS": "bertkit-weather"},
    {"BERTKIT_DISABLE_PLUGINS": " raises , weather ,"},
]


@pytest.mark.parametrize("variables", DISABLED)
def test_a_disabled_plugin_is_not_imported_and_listed_as_disabled(
    place: Place, variables: dict[str, str]
) -> None:
    done = place.bertkit("plugins", "list", **variables)
    assert "weather.py" not in done.stdout
    assert (
        "problem: weather (bertkit-weather 1.2): disabled by BERTKIT_DISABLE_PLUGINS" in done.stderr
    )
    assert "bertkit_twin_a.py" in done.stdout


def test_of_two_that_share_a_name_one_can_be_disabled(place: Place) -> None:
    code = (
        "from bertkit.spec import RunSpec; import sys\n"
        "spec = RunSpec.model_validate({'encoder': 'x', 'dataset': 'a.csv', "
        "'metrics': ['error_rate']})\n"
        "print(type(spec.metrics[0]).__module__)"
    )
    done = place.python(sys.executable, "-c", code, BERTKIT_DISABLE_PLUGINS="bertkit-twin-a")
    assert done.stdout == "bertkit_twin_b\n", done.stderr


def test_no_plugins_leaves_all_of_them_alone(place: Place) -> None:
    done = place.bertkit("--no-plugins", "plugins", "list")
    assert {line.split("\t")[2] for line in done.stdout.splitlines()[1:]} == {"bertkit"}
    assert done.stderr == ""
    done = place.bertkit("--no-plugins", "run", place.spec())
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: run.yaml: dataset: no dataset is called `weather`. Known: disk, files, hub, "
        "inline, memory. Plugins are switched off (--no-plugins)."
    ]


# Isolation


LOADED = """
import sys
from bertkit.cli import main
from bertkit.spec import RunSpec
RunSpec.model_validate({
    "encoder": "x", "dataset": "a.csv", "head": "frozen-feature", "trainer": "hf",
    "metrics": ["accuracy", {"type": "f1", "average": "micro"}],
})
try:
    main(["--help"])
except SystemExit:
    pass
print([name for name in sys.modules if name.startswith("bertkit_")])
"""


def test_a_spec_of_built_ins_and_help_import_no_plugin(place: Place) -> None:
    done = place.python(sys.executable, "-c", LOADED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_broken_plugins_and_bad_observers_do_not_change_a_run_of_built_ins(
    plugins: Path,
    encoder_dir: Path,
    reviews_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(plugins))
    spec = {
        "encoder": str(encoder_dir),
        "dataset": {"train": str(reviews_csv), "test": 0.25},
        "trainer": {"epochs": 2, "batch_size": 8, "log_steps": 1},
        "compute": {"device": "cpu"},
    }
    results = []
    for name, found in {"all": Registry(), "none": Registry(plugins=False)}.items():
        use(found)
        results.append(bertkit.run({**spec, "output": str(tmp_path / name)}))
    assert "grumpy" in (tmp_path / "all" / "log.txt").read_text()
    assert "grumpy" not in (tmp_path / "none" / "log.txt").read_text()
    disturbed, undisturbed = results
    assert disturbed.metrics == undisturbed.metrics
    assert disturbed.provenance["components"] == undisturbed.provenance["components"]
    losses = [[row["loss"] for row in one.history if "loss" in row] for one in results]
    assert losses[0] == losses[1]
    assert len(losses[0]) >= 8


# In this process: every way of breaking the contract, one by one


class Point:
    """An entry point as `importlib.metadata` gives it."""

    dist = None

    def __init__(self, name: str, plugin: object) -> None:
        self.name, self.plugin = name, plugin

    def load(self) -> object:
        return self.plugin


def plugin(**hooks: Callable[..., Any]) -> object:
    """Return an object with these hooks."""
    marked = {name: staticmethod(bertkit.hookimpl(hook)) for name, hook in hooks.items()}
    return type("Plugin", (), marked)()


def registry_of(*plugins: object) -> Registry:
    points = [Point(f"p{i}", one) for i, one in enumerate(plugins)]
    return Registry(entry_points=lambda: points)  # type: ignore[arg-type,return-value]


class Mine(bertkit.Head):
    type: Literal["mine"] = "mine"


def raises(error: BaseException) -> Callable[[], list[type]]:
    def hook() -> list[type]:
        raise error

    return hook


BROKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "an error": (raises(ValueError("no\nno")), "bertkit_heads raised ValueError: no no"),
    "an exit": (raises(SystemExit(3)), "bertkit_heads raised SystemExit: 3"),
    "an error without words": (raises(KeyError()), "bertkit_heads raised KeyError"),
    "nothing": (lambda: None, "bertkit_heads returned NoneType, not a list of classes"),
    "a class": (lambda: Mine, "bertkit_heads returned ModelMetaclass, not a list of classes"),
    "a tuple": (lambda: (Mine,), "bertkit_heads returned tuple, not a list of classes"),
    "an instance": (lambda: [Mine()], "bertkit_heads returned Mine(type='mine'), which is not a "
                    "Head class"),
    "another kind": (lambda: [bertkit.Encoder], "bertkit_heads returned <class "
                     "'bertkit.encoders.base.Encoder'>, which is not a Head class"),
    "a base class": (lambda: [bertkit.Head],
                     'Head has no name: give it `type: Literal["name"] = "name"`'),
    "a built-in": (lambda: [Linear], "head `linear` is the name of a built-in; rename it"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_registration_is_a_problem_and_the_others_are_found(case: str) -> None:
    hook, reason = BROKEN[case]
    found = registry_of(plugin(bertkit_heads=hook), plugin(bertkit_heads=lambda: [Mine]))
    assert found.find("head", "mine") is Mine
    assert [str(problem) for problem in found.problems] == [f"p0 (unknown 0): {reason}"]
    found.everything()
    assert len(found.problems) == 1


def test_a_good_class_beside_a_bad_one_is_found() -> None:
    found = registry_of(plugin(bertkit_heads=lambda: [3, Mine]))
    assert found.find("head", "mine") is Mine
    assert "returned 3" in found.problems[0].reason


def test_hooks_are_called_once() -> None:
    calls = []

    def heads() -> list[type]:
        calls.append(1)
        return [Mine]

    found = registry_of(plugin(bertkit_heads=heads))
    found.find("head", "linear")
    assert calls == []
    for _ in range(3):
        found.find("head", "mine")
        found.everything()
    assert calls == [1]


def test_two_plugins_of_one_distribution_may_not_share_a_name_either() -> None:
    found = registry_of(plugin(bertkit_heads=lambda: [Mine]), plugin(bertkit_heads=lambda: [Mine]))
    with pytest.raises(AmbiguousComponentError, match="head `mine` is provided by unknown 0 and"):
        found.find("head", "mine")


def test_an_unknown_name_is_told_apart_by_kind() -> None:
    found = registry_of(plugin(bertkit_heads=lambda: [Mine]))
    with pytest.raises(UnknownComponentError) as caught:
        found.find("encoder", "mine")
    assert str(caught.value) == ("no encoder is called `mine`. Known: pretrained, scratch.")


def test_the_origin_of_a_class_that_nobody_registered_is_its_module() -> None:
    origin = registry_of().origin(Mine())
    assert origin.distribution == __name__.partition(".")[0]
    assert origin.version == "not registered"
    assert registry_of().origin(Linear()).distribution == "bertkit"


def test_the_registry_of_the_process_is_made_once_and_can_be_replaced() -> None:
    use(None)
    assert registry() is registry()
    other = Registry(plugins=False)
    use(other)
    assert registry() is other


@pytest.mark.parametrize(
    ("word", "hint"),
    [("liner", " Did you mean `linear`?"), ("zzz", ""), ("", "")],
)
def test_only_what_is_near_is_suggested(word: str, hint: str) -> None:
    assert suggest(word, ["linear", "frozen-feature"]) == hint
