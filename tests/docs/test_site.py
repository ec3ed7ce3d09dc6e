"""The docs say what is so: the site builds, links lead somewhere, code runs, specs are valid."""

import importlib.util
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

import bertkit
from bertkit import hooks, yaml12
from bertkit.registry import Registry, use
from bertkit.spec import RunSpec
from tests.conftest import make_encoder, reviews

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.M | re.S)
HOOKS = [name for name in vars(hooks) if name.startswith("bertkit_")]


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[2] in languages:
                line = text.count("\n", 0, match.start()) + 1
                yield Block(page, line, match[2], textwrap.dedent(match[3]))


def module(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def first_block(page: str, language: str, contains: str) -> str:
    found = (b for b in blocks(language) if b.page == ROOT / page and contains in b.code)
    return next(found).code


# the site


class Page(HTMLParser):
    """The links and anchors of a built page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.links.append(value)
            elif name == "id" and value:
                self.anchors.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("zensical") is None:
        pytest.skip("zensical is not installed; it is in the dependency group `docs`")
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    line = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(
        line, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert not re.search(r"warning|error", said, re.I), said
    return folder / "site"


def test_every_page_is_built_and_has_its_place_in_the_navigation(site: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    for page in ROOT.glob("docs/**/*.md"):
        path = page.relative_to(ROOT / "docs").with_suffix("")
        folder = path.parent if path.name in ("index", "README") else path
        assert (site / folder / "index.html").is_file(), page
        if folder != Path():
            assert f'href="./{folder.as_posix()}/"' in home, page


def test_every_link_and_anchor_of_the_site_leads_somewhere(site: Path) -> None:
    files = [file for file in site.rglob("*.html") if file.name != "404.html"]
    pages = {file: Page(file) for file in files}
    lost = []
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            known = pages[target].anchors if target in pages else None
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in known):
                lost.append(f"{file.relative_to(site)}: {link}")
    assert lost == []


def test_nothing_of_the_site_is_loaded_from_elsewhere(site: Path) -> None:
    for file in site.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//[^"]*', text) == []


def test_scripts_are_not_part_of_the_site(site: Path) -> None:
    assert list(site.rglob("*.py")) == []


def test_links_between_the_files_of_the_repository_lead_somewhere() -> None:
    lost = []
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = link.partition("#")
            if "://" in link:
                continue
            target = page.parent / path if path else page
            if not target.exists() or (anchor and anchor not in headings(target)):
                lost.append(f"{page.relative_to(ROOT)}: {link}")
    assert lost == []


def headings(page: Path) -> set[str]:
    """Return the anchors that a page has on the site and where the repository is hosted."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in found}


# the reference


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    return module(ROOT / "docs" / "generate_reference.py", "generate_reference")


@pytest.mark.parametrize("name", ["spec.md", "hooks.md", "python.md"])
def test_the_reference_is_up_to_date(reference: ModuleType, name: str) -> None:
    written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    hint = "run: python docs/generate_reference.py"
    assert written == reference.PAGES[name](), hint


def test_every_field_of_the_schema_stands_in_the_spec_reference() -> None:
    from bertkit.spec import schema

    use(Registry(plugins=False))
    try:
        tree = schema()["properties"]
    finally:
        use(None)
    page = (ROOT / "docs/reference/spec.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| \**`([\w.]+)`", page, re.M))

    def fields(node: Any, path: str) -> Iterator[str]:
        for key in ("items", "oneOf", "anyOf"):
            inner = node.get(key, [])
            for one in inner if isinstance(inner, list) else [inner]:
                yield from fields(one, path)
        for name, inner in node.get("properties", {}).items():
            if name != "type":
                yield f"{path}.{name}"
                yield from fields(inner, f"{path}.{name}")

    wanted = {*tree, *(path for name, node in tree.items() for path in fields(node, name))}
    assert len(wanted) > 60
    assert wanted - listed == set()


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented_with_its_signature_and_an_example(name: str) -> None:
    page = (ROOT / "docs/reference/hooks.md").read_text(encoding="utf-8")
    section = page.partition(f"### {name}\n")[2].partition("\n### ")[0]
    parameters = ", ".join(inspect.signature(getattr(hooks, name)).parameters)
    assert f"{name}(" in section
    assert f"@bertkit.hookimpl\ndef {name}({parameters}):" in section
    assert f"(reference/hooks.md#{name})" in (ROOT / "docs/plugins.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", bertkit.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    page = (ROOT / "docs/reference/python.md").read_text(encoding="utf-8")
    assert f"\n## {name}\n" in page or f"\n| `{name}` |" in page


# what the pages show


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that has what the pages speak of, as small stand-ins."""
    make_encoder(tmp_path / "bert-base-chinese")
    rows = [f"{row['text']},{row['label']}\n" for row in reviews(48)]
    (tmp_path / "reviews.csv").write_text("review,label\n" + "".join(rows), encoding="utf-8")
    for i, row in enumerate(reviews(40)):
        file = tmp_path / "texts" / row["label"] / f"{i}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(row["text"], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


PYTHON_PAGES = sorted({block.page for block in blocks("python")})


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run_from_the_top_of_a_page_to_its_end(page: Path, workshop: Path) -> None:
    namespace: dict[str, Any] = {"bertkit": bertkit, "__name__": "page"}
    for block in blocks("python"):
        if block.page == page:
            exec(compile(block.code, str(block), "exec", dont_inherit=True), namespace)


@pytest.fixture
def folders_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the plugin of the docs, as far as the registry can tell."""
    code = first_block("docs/plugins.md", "python", "class Folders")
    (tmp_path / "bertkit_folders.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    point = metadata.EntryPoint("folders", "bertkit_folders", "bertkit")
    installed = metadata.entry_points(group="bertkit")
    use(Registry(entry_points=lambda: [*installed, point]))
    yield
    use(None)
    sys.modules.pop("bertkit_folders", None)


@pytest.mark.parametrize("block", [*blocks("yaml")], ids=str)
def test_yaml_blocks_are_specs_or_parts_of_one(block: Block, folders_plugin: None) -> None:
    spec = yaml12.read(block.code, str(block))
    assert isinstance(spec, dict)
    smallest = {"encoder": "bert-base-chinese", "dataset": "reviews.csv"}
    RunSpec.parse({**smallest, **spec}, where=str(block))


@pytest.mark.parametrize("name", ["demo.yaml", "messages.csv"])
def test_the_demo_is_there(name: str) -> None:
    assert (ROOT / "docs/examples/support" / name).is_file()


def test_the_plugin_of_the_readme_is_that_of_the_plugin_page() -> None:
    for language, contains in (("python", "class Folders"), ("toml", "entry-points")):
        code = first_block("README.md", language, contains)
        assert code == first_block("docs/plugins.md", language, contains)
    lines = first_block("README.md", "python", "class Folders").splitlines()
    assert len([line for line in lines if line and '"""' not in line]) <= 20


def test_the_plugin_of_the_readme_runs(workshop: Path, folders_plugin: None) -> None:
    result = bertkit.run(
        {
            "encoder": "bert-base-chinese",
            "dataset": {"type": "folders", "path": "texts", "test": 0.2},
            "trainer": {"epochs": 1},
            "output": "run",
        }
    )
    assert set(result.metrics) == {"validation", "test"}
    assert result.provenance["components"]["dataset"]["plugin"] == "folders"


def command_lines() -> list[str]:
    """Return every line of the docs that calls bertkit."""
    found = []
    for block in blocks("bash"):
        lines = block.code.replace("\\\n", " ").splitlines()
        found += [line for line in lines if re.match(r"(\.venv/bin/)?bertkit ", line)]
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        found += re.findall(r"`(bertkit [^`]+)`", text)
    return sorted({line.removeprefix(".venv/bin/") for line in found})


@pytest.mark.parametrize("line", command_lines())
def test_command_lines_are_ones_that_bertkit_takes(line: str) -> None:
    import typer.main

    from bertkit.cli import app

    words = shlex.split(re.sub(r"\bN\b", "3", line), comments=True)[1:]
    words = words[: words.index(">")] if ">" in words else words
    command: Any = typer.main.get_command(app)
    context = command.make_context("bertkit", words, resilient_parsing=not words[0].isalpha())
    while hasattr(command, "commands") and words and not words[0].startswith("--"):
        command, words = command.commands[words[0]], words[1:]
        mentioned = not words  # the name of a command, not a call of it
        context = command.make_context(line, list(words), context, resilient_parsing=mentioned)


def test_make_targets_named_in_the_docs_exist() -> None:
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = set()
    for page in PAGES:
        named |= set(re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")))
    assert named - made == set()


# the picture


def test_the_picture_is_small() -> None:
    assert (ROOT / "docs/images/demo.png").stat().st_size < 150_000


def test_a_result_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is in the dependency group `docs`")
    history = [
        {"step": 0, "epoch": 0.0, "split": "validation", "loss": 0.9},
        {"step": 2, "epoch": 1.0, "loss": 0.7, "learning_rate": 1e-3},
        {"step": 2, "epoch": 1.0, "split": "validation", "loss": 0.6},
    ]
    report = {"labels": ["bad", "好"], "confusion_matrix": [[3, 1], [0, 4]]}
    result = {"history": history, "reports": {"test": report}, "training": {"best": {"step": 2}}}
    (tmp_path / "result.json").write_text(json.dumps(result), encoding="utf-8")
    script = ROOT / "docs/plot_result.py"
    line = [sys.executable, str(script), str(tmp_path), str(tmp_path / "picture.png")]
    subprocess.run(line, check=True, capture_output=True, timeout=60, env=dict(os.environ))
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
