"""A hub on loopback: the handful of requests that `huggingface_hub` makes, answered from memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

#: Whoever brings it is logged in.
TOKEN = "hf_loopback"
#: What the server takes by LFS, as hubs do: tensors, and whatever is larger than 10 MB there.
_LARGE = (".safetensors", ".bin", ".pt", ".pt2")


@dataclass
class Repository:
    """Commits, newest last, each with all of its files, and which of them the branches are."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: Mapping[str, bytes], branch: str = "main", message: str = "") -> str:
        """Put a state of all files on a branch; returns its hash."""
        name = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[name] = dict(files)
        self.branches[branch] = name
        self.messages.append(message)
        return name

    def found(self, revision: str) -> str | None:
        name = self.branches.get(revision, revision)
        return name if name in self.commits else None

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches.get(revision, revision)]


class Hub:
    """What the server holds, and what it was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.endpoint = ""
        #: An answer to every request instead, where something is to be broken.
        self.broken: int | None = None

    def put(self, name: str, files: Mapping[str, bytes], *, private: bool = False) -> Repository:
        repository = self.repositories.setdefault(name, Repository(private))
        repository.commit(files)
        return repository

    @property
    def downloaded(self) -> set[str]:
        """The names of the files that were sent."""
        return {unquote(line.partition("/resolve/")[2].partition("/")[2]) for line in self.asked if "GET" in line} - {
            ""
        }


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that listens as long as the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: Any) -> None:
        """Nothing: tests read what the commands print."""

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{method} {path}")
        if self.hub.broken is not None:
            return self._send(self.hub.broken, {"error": "broken"})
        for verb, pattern, answer in _ROUTES:
            if verb in (method, "GET" if method == "HEAD" else None) and (found := re.fullmatch(pattern, path)):
                return answer(self, body, **found.groupdict())
        return self._send(404, {"error": "no such page"})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def _is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, name: str, revision: str = "main") -> tuple[Repository, str] | None:
        """A repository and a commit of it; where there is none, that is answered."""
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self._is_known):
            self._send(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        commit = found.found(revision)
        if commit is None:
            self._send(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
            return None
        return found, commit

    def _info(self, body: bytes, name: str, revision: str | None = None) -> None:
        if (found := self._repository(name, revision or "main")) is not None:
            siblings = [{"rfilename": file} for file in found[0].files(found[1])]
            self._send(200, {"id": name, "sha": found[1], "private": found[0].private, "siblings": siblings})

    def _tree(self, body: bytes, name: str, revision: str) -> None:
        if (found := self._repository(name, revision)) is None:
            return
        rows = []
        for file, content in found[0].files(found[1]).items():
            row: dict[str, Any] = {"type": "file", "path": file, "size": len(content), "oid": etag(content)[:40]}
            if file.endswith(_LARGE):
                row["lfs"] = {"oid": etag(content), "size": len(content), "pointerSize": 130}
            rows.append(row)
        self._send(200, rows)

    def _file(self, body: bytes, name: str, revision: str, file: str) -> None:
        if (found := self._repository(name, revision)) is None:
            return
        content = found[0].files(found[1]).get(file)
        if content is None:
            return self._send(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})
        mark = etag(content) if file.endswith(_LARGE) else etag(content)[:40]
        self._send(200, content, {"X-Repo-Commit": found[1], "ETag": f'"{mark}"', "Content-Type": "text/plain"})

    def _create(self, body: bytes) -> None:
        wanted = json.loads(body)
        name = "/".join(filter(None, (wanted.get("organization"), wanted["name"])))
        if not self._is_known:
            return self._send(401, {"error": "Invalid username or password."})
        if name in self.hub.repositories:
            return self._send(
                409, {"error": "You already created this model repo", "url": f"{self.hub.endpoint}/{name}"}
            )
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))  # of newer and older clients
        made = self.hub.put(name, {".gitattributes": b""}, private=private)
        assert made.branches["main"]
        self._send(200, {"url": f"{self.hub.endpoint}/{name}", "name": name, "id": name})

    def _branch(self, body: bytes, name: str, branch: str) -> None:
        repository = self.hub.repositories[name]
        if branch in repository.branches:
            return self._send(409, {"error": "exists"})
        repository.branches[branch] = repository.branches["main"]
        self._send(200, {})

    def _preupload(self, body: bytes, name: str, revision: str) -> None:
        rows = [
            {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(_LARGE) else "regular", "shouldIgnore": False}
            for f in json.loads(body)["files"]
        ]
        self._send(200, {"files": rows})

    def _validate(self, body: bytes) -> None:
        card = json.loads(body)["content"]
        yaml.safe_load(card.split("---\n")[1]) if card.startswith("---") else None
        self._send(200, {"errors": [], "warnings": []})

    def _batch(self, body: bytes, name: str) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.endpoint}/large/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects})

    def _large(self, body: bytes, oid: str) -> None:
        assert etag(body) == oid
        self.hub.large[oid] = body
        self._send(200, {})

    def _commit(self, body: bytes, name: str, revision: str) -> None:
        if (found := self._repository(name, revision)) is None:
            return
        repository, commit = found
        files, message = dict(repository.files(commit)), ""
        for line in body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "header":
                message = value["summary"]
            elif row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif row["key"] == "deletedFile":
                del files[value["path"]]
        made = repository.commit(files, revision, message)
        self._send(200, {"commitUrl": f"{self.hub.endpoint}/{name}/commit/{made}", "commitOid": made})


_ROUTES = (
    ("GET", r"/api/models/(?P<name>[^/]+/[^/]+)", _Handler._info),
    ("GET", r"/api/models/(?P<name>[^/]+/[^/]+)/revision/(?P<revision>.+)", _Handler._info),
    ("GET", r"/api/models/(?P<name>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)/?", _Handler._tree),
    ("GET", r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _Handler._file),
    ("POST", r"/api/validate-yaml", _Handler._validate),
    ("POST", r"/api/repos/create", _Handler._create),
    ("POST", r"/api/models/(?P<name>[^/]+/[^/]+)/branch/(?P<branch>.+)", _Handler._branch),
    ("POST", r"/api/models/(?P<name>[^/]+/[^/]+)/preupload/(?P<revision>.+)", _Handler._preupload),
    ("POST", r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler._batch),
    ("PUT", r"/large/(?P<oid>\w+)", _Handler._large),
    ("POST", r"/api/models/(?P<name>[^/]+/[^/]+)/commit/(?P<revision>.+)", _Handler._commit),
)
