"""The loopback hub against the real client libraries, each in a process of its own."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.loopback_hub import LoopbackHub

ROWS = [("很好", 1), ("太差", 0), ("a, b", 1)]
CSV = "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in ROWS)
CONFIGS = """---
configs:
  - config_name: short
    default: true
    data_files:
      - {split: train, path: short/train.csv}
      - {split: test, path: short/test.csv}
  - config_name: long
    data_files:
      - {split: train, path: "long/*.csv"}
---
# Two configurations
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "hub"
    model = root / "models" / "org" / "tiny"
    (model / "onnx").mkdir(parents=True)
    (model / "config.json").write_text('{"model_type": "bert"}')
    (model / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (model / "onnx" / "big.onnx").write_bytes(b"x" * 100)
    alone = root / "models" / "bert-alone"
    alone.mkdir()
    (alone / "config.json").write_text("{}")
    data = root / "datasets" / "org"
    for path, rows in {
        "csv/train.csv": CSV,
        "csv/test.csv": CSV.splitlines()[0] + "\nok,1\n",
        "two/README.md": CONFIGS,
        "two/short/train.csv": CSV,
        "two/short/test.csv": CSV,
        "two/long/a.csv": CSV,
        "two/long/b.csv": CSV,
    }.items():
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        (data / path).write_text(rows)
    table = pa.table({"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]})
    (data / "parquet" / "data").mkdir(parents=True)
    for split in ("train", "test"):
        pq.write_table(table, data / "parquet" / "data" / f"{split}-00000-of-00001.parquet")
    return root


@pytest.fixture
def hub(root: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub(root) as hub:
        yield hub


def ask(
    hub: LoopbackHub, code: str, home: Path, token: str | None = None, **environment: str
) -> dict[str, Any]:
    """Run code that fills `out` in a child and return `out`."""
    code = f"import json\nout = {{}}\n{code}\nprint('\\n' + json.dumps(out))"
    done = hub.python(code, home, token, **environment)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(answer, dict)
    return answer


TRY = """
def attempt(name, call):
    try:
        call()
        out[name] = "no error"
    except Exception as error:
        out[name] = [kind.__name__ for kind in type(error).__mro__][:2] + [str(error)]
"""


def test_a_model_snapshot_comes_down(hub: LoopbackHub, root: Path, tmp_path: Path) -> None:
    hub.tag("org/tiny", "v1.0")
    code = """
from pathlib import Path
from huggingface_hub import HfApi, hf_hub_download, list_repo_refs, model_info, snapshot_download
for revision in (None, "main", "v1.0", model_info("org/tiny").sha):
    wanted = ["*.json", "*.safetensors"]
    folder = Path(snapshot_download("org/tiny", revision=revision, allow_patterns=wanted))
    out[str(revision)[:4]] = str(folder)
found = [path for path in folder.rglob("*") if path.is_file()]
out["files"] = sorted(path.relative_to(folder).as_posix() for path in found)
out["sha"] = model_info("org/tiny", revision="v1.0").sha
out["siblings"] = [item.rfilename for item in model_info("org/tiny").siblings]
out["alone"] = hf_hub_download("bert-alone", "config.json")
out["exists"] = [HfApi().file_exists("org/tiny", name) for name in ("config.json", "x.json")]
out["tags"] = [tag.name for tag in list_repo_refs("org/tiny").tags]
"""
    out = ask(hub, code, tmp_path / "home")
    sha = hub.sha("org/tiny")
    assert out["sha"] == sha
    assert out["files"] == ["config.json", "model.safetensors"]
    assert out["siblings"] == ["config.json", "model.safetensors", "onnx/big.onnx"]
    assert len({out["None"], out["main"], out["v1.0"], out[sha[:4]]}) == 1
    folder = Path(str(out["None"]))
    assert folder.name == sha
    for name in ("config.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (root / "models/org/tiny" / name).read_bytes()
    assert Path(str(out["alone"])).read_text() == "{}"
    assert out["exists"] == [True, False]
    assert out["tags"] == ["v1.0"]
    assert not any("xet" in path or path.endswith("big.onnx") for path in hub.paths())
    assert {asked.authorization for asked in hub.requests} == {None}


def test_a_changed_file_is_a_new_commit(hub: LoopbackHub, root: Path) -> None:
    before = hub.sha("org/tiny")
    (root / "models/org/tiny/config.json").write_text('{"model_type": "roberta"}')
    assert hub.sha("org/tiny") != before


def test_datasets_come_down(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.tag("org/csv", "v2")
    code = """
from datasets import get_dataset_config_names, get_dataset_split_names, load_dataset
def rows(found):
    return {split: [found[split]["text"][:], found[split]["label"][:]] for split in found}
out["csv"] = rows(load_dataset("org/csv", split=None))
out["csv v2"] = rows(load_dataset("org/csv", revision="v2"))
out["one file"] = rows(load_dataset("org/csv", data_files={"train": "test.csv"}))
out["parquet"] = rows(load_dataset("org/parquet"))
out["default"] = rows(load_dataset("org/two"))
out["long"] = rows(load_dataset("org/two", "long"))
out["split"] = load_dataset("org/parquet", split="test").num_rows
out["stream"] = [row["label"] for row in load_dataset("org/parquet", split="train", streaming=True)]
out["names"] = [get_dataset_config_names("org/two"), get_dataset_split_names("org/two", "short")]
"""
    out = ask(hub, code, tmp_path / "home")
    whole: list[list[Any]] = [[text for text, _ in ROWS], [label for _, label in ROWS]]
    assert out["csv"] == out["csv v2"] == {"train": whole, "test": [["ok"], [1]]}
    assert out["one file"] == {"train": [["ok"], [1]]}
    assert out["parquet"] == out["default"] == {"train": whole, "test": whole}
    assert out["long"] == {"train": [whole[0] * 2, whole[1] * 2]}
    assert out["split"] == 3
    assert out["stream"] == whole[1]
    assert out["names"] == [["short", "long"], ["train", "test"]]
    requests = len(hub.requests)
    hub.down = True
    again = ask(hub, code.partition('out["csv v2"]')[0], tmp_path / "home", HF_HUB_OFFLINE="1")
    assert again["csv"] == out["csv"]
    assert len(hub.requests) == requests


def test_what_is_not_there_gives_the_errors_of_the_libraries(
    hub: LoopbackHub, tmp_path: Path
) -> None:
    code = (
        TRY
        + """
from datasets import load_dataset
from huggingface_hub import dataset_info, hf_hub_download, model_info, snapshot_download
attempt("repo", lambda: snapshot_download("org/nothing"))
attempt("revision", lambda: snapshot_download("org/tiny", revision="v9"))
attempt("commit", lambda: snapshot_download("org/tiny", revision="0" * 40))
attempt("file", lambda: hf_hub_download("org/tiny", "pytorch_model.bin"))
attempt("kind", lambda: model_info("org/csv"))
attempt("org alone", lambda: model_info("org"))
attempt("dataset", lambda: dataset_info("org/tiny"))
attempt("load", lambda: load_dataset("org/nothing"))
attempt("load revision", lambda: load_dataset("org/csv", revision="v9"))
attempt("load config", lambda: load_dataset("org/two", "medium"))
"""
    )
    out = ask(hub, code, tmp_path / "home")
    assert "Revision 'v9' doesn't exist" in out["load revision"][2]
    kinds = {name: found[0] for name, found in out.items() if isinstance(found, list)}
    assert kinds == {
        "repo": "RepositoryNotFoundError",
        "revision": "RevisionNotFoundError",
        "commit": "RevisionNotFoundError",
        "file": "RemoteEntryNotFoundError",
        "kind": "RepositoryNotFoundError",
        "org alone": "RepositoryNotFoundError",
        "dataset": "RepositoryNotFoundError",
        "load": "DatasetNotFoundError",
        "load revision": "DatasetNotFoundError",
        "load config": "ValueError",
    }


def test_tokens(hub: LoopbackHub, tmp_path: Path) -> None:
    code = (
        TRY
        + """
from huggingface_hub import hf_hub_download, model_info
attempt("info", lambda: model_info("org/tiny"))
attempt("file", lambda: hf_hub_download("org/tiny", "config.json"))
"""
    )
    hub.require_token("hf_right")
    private = ask(hub, code, tmp_path / "1")
    assert [private["info"][0], private["file"][0]] == ["RepositoryNotFoundError"] * 2
    wrong = ask(hub, code, tmp_path / "2", token="hf_wrong")
    assert wrong["info"][0] == "HfHubHTTPError"
    assert "Invalid credentials in Authorization header" in wrong["info"][2]
    hub.requests.clear()
    assert set(ask(hub, code, tmp_path / "3", token="hf_right").values()) == {"no error"}
    assert {asked.authorization for asked in hub.requests} == {"Bearer hf_right"}
    hub.require_token("hf_right", gated=True)
    gated = ask(hub, code, tmp_path / "4")
    assert [gated["info"], gated["file"][0]] == ["no error", "GatedRepoError"]


def test_down(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.down = True
    code = (
        TRY
        + """
from huggingface_hub import model_info, snapshot_download
attempt("info", lambda: model_info("org/tiny"))
attempt("snapshot", lambda: snapshot_download("org/tiny"))
"""
    )
    out = ask(hub, code, tmp_path / "home")
    assert out["info"][0] == "HfHubHTTPError"
    assert "503" in out["info"][2]
    assert out["snapshot"][0] == "LocalEntryNotFoundError"


def test_a_child_reaches_nothing_else(hub: LoopbackHub, tmp_path: Path) -> None:
    code = (
        TRY
        + """
import socket
attempt("name", lambda: socket.create_connection(("huggingface.co", 443), 1))
attempt("address", lambda: socket.create_connection(("192.0.2.1", 80), 1))
"""
    )
    out = ask(hub, code, tmp_path / "home")
    for error in out.values():
        assert "nothing but loopback" in error[2]


def test_ranges_and_unknown_addresses(hub: LoopbackHub) -> None:
    address = f"{hub.url}/org/tiny/resolve/main/model.safetensors"
    with urllib.request.urlopen(
        urllib.request.Request(address, headers={"Range": "bytes=2-4"})
    ) as got:
        assert (got.status, got.read()) == (206, b"\x02\x03\x04")
        assert got.headers["Content-Range"] == "bytes 2-4/10240"
    for path in (
        "/",
        "/api/whoami-v2",
        "/api/models/../datasets",
        "/org/tiny/resolve/main/../../x",
    ):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(hub.url + path)
        assert caught.value.code == 404
        caught.value.close()
    assert hub.paths("GET")[0] == "/org/tiny/resolve/main/model.safetensors"
