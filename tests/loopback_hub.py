"""A small Hugging Face hub on 127.0.0.1, which the real client libraries talk to in tests.

    with LoopbackHub(tmp_path / "hub") as hub:
        done = hub.python("from huggingface_hub import model_info; print(model_info('org/name'))")

It serves `root/models/<org>/<name>/...` and `root/datasets/<org>/<name>/...` (or `<name>/...` for
a model without an organisation) as repositories with one commit each: the branch `main`, the
commit's hash, and the tags given to `tag`. Files are read anew at each request, so a changed file
is a new commit. It knows what `huggingface_hub` and `datasets` ask for while they read; nothing
can be uploaded, and large files do not go through Xet.
"""

import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

LFS = (".safetensors", ".bin", ".parquet", ".arrow", ".gz", ".zip", ".onnx", ".h5", ".model")
API = re.compile(
    r"/api/(models|datasets)/(.+?)(?:/(revision|tree|paths-info|refs|commits)(?:/(.*))?)?"
)
FILE = re.compile(r"/(datasets/)?(.+?)/resolve/([^/]+)/(.+)")
DATE = "2024-01-01T00:00:00.000Z"

# Run before the code of a child: whatever is not on this machine is refused, and said on stderr.
GUARD = """
import sys
def _only_loopback(event, args):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect"):
        host = args[0] if event != "socket.connect" else args[1]
        host = host[0] if isinstance(host, tuple) else host
        host = host.decode() if isinstance(host, bytes) else host
        local = host in (None, "", "127.0.0.1", "::1", "localhost") or str(host).startswith("/")
        if not local:
            print("refused to reach", host, file=sys.stderr)
            raise OSError(f"tests reach nothing but loopback, not {host}")
sys.addaudithook(_only_loopback)
"""


class Request(NamedTuple):
    method: str
    path: str
    authorization: str | None


class Entry(NamedTuple):
    path: str
    size: int
    oid: str
    sha256: str | None  # of a file that the hub keeps in LFS

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid

    def as_json(self, expand: bool) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "file", "path": self.path, "size": self.size}
        found["oid"] = self.oid
        if self.sha256 is not None:
            found["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        return found | (LAST_COMMIT if expand else {})


LAST_COMMIT = {"lastCommit": {"id": "0" * 40, "title": "Add files", "date": DATE}}


class Refusal(Exception):
    """An answer other than the one asked for, with the headers that the libraries look at."""

    def __init__(self, status: int, code: str | None, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@functools.cache
def digests(path: Path, size: int, mtime_ns: int) -> tuple[str, str]:
    """The git and LFS names of a file; its size and time tell whether it is still the same."""
    data = path.read_bytes()
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return oid, hashlib.sha256(data).hexdigest()


class Repository:
    """The files of one folder as one commit."""

    def __init__(self, kind: str, name: str, folder: Path) -> None:
        self.kind, self.name, self.folder = kind, name, folder
        self.entries = {entry.path: entry for entry in map(self.entry, self.files())}
        listing = "\n".join(f"{entry.path} {entry.etag}" for entry in self.entries.values())
        self.sha = hashlib.sha1(f"{kind} {name}\n{listing}".encode()).hexdigest()

    def files(self) -> Iterable[str]:
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    def entry(self, path: str) -> Entry:
        state = (self.folder / path).stat()
        oid, sha256 = digests(self.folder / path, state.st_size, state.st_mtime_ns)
        return Entry(path, state.st_size, oid, sha256 if path.endswith(LFS) else None)

    def info(self) -> dict[str, Any]:
        shared = {"id": self.name, "sha": self.sha, "private": False, "gated": False}
        shared |= {"_id": self.sha[:24], "author": self.name.rpartition("/")[0], "disabled": False}
        shared |= {"tags": [], "downloads": 0, "likes": 0, "createdAt": DATE, "lastModified": DATE}
        shared["siblings"] = [{"rfilename": path} for path in self.entries]
        return shared | ({"modelId": self.name} if self.kind == "models" else {})

    def tree(self, folder: str, recursive: bool, expand: bool) -> list[dict[str, Any]]:
        start = f"{folder}/" if folder else ""
        inside = [entry for path, entry in self.entries.items() if path.startswith(start)]
        if not inside:
            raise Refusal(404, "EntryNotFound", f'{folder} does not exist on "main"')
        found, folders = [], set()
        for entry in inside:
            parts = entry.path[len(start) :].split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                folders.add(start + "/".join(parts[:depth]))
            if recursive or len(parts) == 1:
                found.append(entry.as_json(expand))
        return [self.folder_json(path, expand) for path in sorted(folders)] + found

    def folder_json(self, path: str, expand: bool) -> dict[str, Any]:
        oid = hashlib.sha1(f"tree {self.sha} {path}".encode()).hexdigest()
        return {"type": "directory", "path": path, "size": 0, "oid": oid} | (
            LAST_COMMIT if expand else {}
        )

    def paths_info(self, paths: list[str], expand: bool) -> list[dict[str, Any]]:
        found = []
        for path in (path.strip("/") for path in paths):
            if path in self.entries:
                found.append(self.entries[path].as_json(expand))
            elif any(name.startswith(f"{path}/") for name in self.entries):
                found.append(self.folder_json(path, expand))
        return found


class LoopbackHub:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[Request] = []
        self.down = False
        self.tags: dict[str, list[str]] = {}
        self.token: str | None = None
        self.gated = False
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.hub = self  # type: ignore[attr-defined]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "LoopbackHub":
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def require_token(self, token: str | None, *, gated: bool = False) -> None:
        """Ask for this token: for everything (private), or only for the files (gated)."""
        self.token, self.gated = token, gated

    def tag(self, name: str, tag: str) -> None:
        """Give the one commit of the repository `name` a tag."""
        self.tags.setdefault(name, []).append(tag)

    def sha(self, name: str, kind: str = "models") -> str:
        """The commit hash of a repository."""
        return self.repository(kind, name).sha

    def paths(self, method: str | None = None) -> list[str]:
        """The paths that were asked for so far."""
        return [asked.path for asked in self.requests if method in (None, asked.method)]

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """The environment for a child that should find this hub, with its caches under `home`."""
        unwanted = re.compile(
            r"(HF|HUGGING_?FACE)_.*|(HTTPS?|ALL|NO)_PROXY|TRANSFORMERS_CACHE", re.I
        )
        kept = {name: value for name, value in os.environ.items() if not unwanted.fullmatch(name)}
        kept |= {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "NO_PROXY": "*"}
        kept |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        kept |= {"HF_UPDATE_DOWNLOAD_COUNTS": "0"}  # a request to s3.amazonaws.com
        kept |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "DISABLE_SAFETENSORS_CONVERSION": "1"}
        return kept | ({"HF_TOKEN": token} if token is not None else {})

    def python(
        self, code: str, home: Path, token: str | None = None, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run `code` in a child that finds this hub and can reach nothing but this machine."""
        return subprocess.run(
            [sys.executable, "-c", GUARD + code],
            env=self.environment(home, token) | environment,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    def repository(self, kind: str, name: str) -> Repository:
        folder = self.root / kind / name
        parts = name.split("/")
        found = folder.rglob("*") if len(parts) == 2 else folder.glob("*")  # an org is no model
        if len(parts) > 2 or ".." in parts or not any(path.is_file() for path in found):
            raise Refusal(404, "RepoNotFound", "Repository not found")
        return Repository(kind, name, folder)

    def resolve(self, kind: str, name: str, revision: str) -> Repository:
        repository = self.repository(kind, name)
        if revision not in ("main", repository.sha, *self.tags.get(name, [])):
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository

    def admit(self, authorization: str | None, is_file: bool, name: str) -> None:
        """Raise what the real hub answers to someone who may not come in."""
        if self.down:
            raise Refusal(503, None, "Service Unavailable")
        if self.token is None or authorization == f"Bearer {self.token}":
            return
        if authorization is not None:
            raise Refusal(401, None, "Invalid credentials in Authorization header")
        if not self.gated:
            raise Refusal(401, "RepoNotFound", "Invalid username or password.")
        if is_file:
            raise Refusal(401, "GatedRepo", f"Access to {name} is restricted.")

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[Repository, Any]:
        """Return the repository and what it has at an address of the API."""
        if not (match := API.fullmatch(path)):
            raise Refusal(404, None, "Not Found")
        kind, name, action, rest = match[1], unquote(match[2]), match[3], match[4] or "main"
        revision, _, inside = rest.partition("/")
        repository = self.resolve(kind, name, unquote(revision))
        expand = query.get("expand", ["false"])[0].lower() == "true"
        if action == "tree":
            recursive = query.get("recursive", ["false"])[0].lower() == "true"
            return repository, repository.tree(unquote(inside), recursive, expand)
        if action == "paths-info":
            return repository, repository.paths_info(query.get("paths", []), expand)
        if action == "refs":
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.sha}
            tags = [
                {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": repository.sha}
                for tag in self.tags.get(name, [])
            ]
            return repository, {"branches": [branch], "converts": [], "tags": tags}
        if action == "commits":
            commit = {"id": repository.sha, "title": "Add files", "message": "", "date": DATE}
            return repository, [commit | {"authors": []}]
        return repository, repository.info()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    hub: LoopbackHub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.handle_one()

    def do_GET(self) -> None:
        self.handle_one()

    def do_POST(self) -> None:
        self.handle_one()

    def handle_one(self) -> None:
        hub: LoopbackHub = self.server.hub  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        authorization = self.headers.get("Authorization")
        hub.requests.append(Request(self.command, self.path, authorization))
        address = urlsplit(self.path)
        query = parse_qs(body or address.query)
        try:
            if match := FILE.fullmatch(address.path):
                hub.admit(authorization, True, unquote(match[2]))
                kind, name = "datasets" if match[1] else "models", unquote(match[2])
                self.send_file(hub.resolve(kind, name, unquote(match[3])), unquote(match[4]))
            else:
                hub.admit(authorization, False, address.path)
                repository, found = hub.answer(address.path, query)
                headers = {"Content-Type": "application/json", "X-Repo-Commit": repository.sha}
                self.send(200, headers, json.dumps(found).encode())
        except Refusal as refusal:
            headers = {"Content-Type": "application/json", "X-Error-Message": refusal.message}
            if refusal.code is not None:
                headers["X-Error-Code"] = refusal.code
            self.send(refusal.status, headers, json.dumps({"error": refusal.message}).encode())

    def send_file(self, repository: Repository, path: str) -> None:
        headers = {"X-Repo-Commit": repository.sha, "Accept-Ranges": "bytes"}
        if (entry := repository.entries.get(path)) is None:
            raise Refusal(404, "EntryNotFound", "Entry not found")
        headers |= {"ETag": f'"{entry.etag}"', "Content-Type": "application/octet-stream"}
        if entry.sha256 is not None:
            headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
        data = (repository.folder / path).read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            self.send(200, headers, data)
            return
        start, stop = int(asked[1]), min(int(asked[2] or entry.size), entry.size - 1) + 1
        if start >= entry.size:
            self.send(416, headers | {"Content-Range": f"bytes */{entry.size}"}, b"")
            return
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{entry.size}"
        self.send(206, headers, data[start:stop])

    def send(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
