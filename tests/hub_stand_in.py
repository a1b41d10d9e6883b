"""A Hub of one process on loopback, for the real huggingface_hub client: repositories, LFS, commits, downloads.

with hub_stand_in() as hub:
    hub.fail("POST", "/commit/", 503, times=2)
    HfApi(endpoint=hub.url, token=TOKEN).create_repo("alice/model")
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from finetune.model_folder import weights_sha256
from finetune.run_files import Scores
from finetune.runs import Run, write_json

TOKEN, USER = "hf_" + "a1B2" * 9, "alice"
LFS_SUFFIXES = (".safetensors", ".model")
ID = "(?P<id>[^/]+/[^/]+)"


@dataclass
class Repository:
    """Its commits, oldest first: a commit is its id and the content of every file."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=lambda: [("0" * 40, {})])

    def files(self, revision: str) -> dict[str, bytes] | None:
        commits = {"main": self.commits[-1][1], **dict(self.commits)}
        return commits.get(unquote(revision))


@dataclass
class Fault:
    method: str
    path: str  # a part of it
    status: int | None  # None: the connection is cut
    times: int


class HubStandIn:
    """What is stored, what was asked (`requests`: method and path), and what shall go wrong."""

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}  # of LFS, by sha256
        self.tokens = {TOKEN: USER}
        self.requests: list[str] = []
        self.faults: list[Fault] = []

    def fail(self, method: str, path: str, status: int | None, *, times: int = 1) -> None:
        self.faults.append(Fault(method, path, status, times))

    def fault_of(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method == method and fault.path in path:
                fault.times -= 1
                return fault
        return None

    def files(self, name: str) -> dict[str, bytes]:
        return self.repositories[name].commits[-1][1]

    def asked(self, part: str) -> int:
        return sum(part in request for request in self.requests)


@contextmanager
def hub_stand_in() -> Iterator[HubStandIn]:
    hub = HubStandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        """Silent."""

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        fault = self.hub.fault_of(self.command, path)
        if fault is not None and fault.status is None:
            self.close_connection = True
            self.connection.shutdown(2)
            return
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault is not None:
            self._send(fault.status or 0, {"error": f"the Hub said {TOKEN} at {self.hub.url}"})
            return
        for method, pattern, answer in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method:
                answer(self, **{name: unquote(value) for name, value in found.groupdict().items()})
                return
        self._send(404, {"error": "no such page"})

    def _send(self, status: int, content: Any = None, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def _user(self) -> str | None:
        return self.hub.tokens.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def _repository(self, id: str) -> Repository | None:
        """What may be seen; of a private one strangers are told that it is not there, as the Hub does."""
        found = self.hub.repositories.get(id)
        if found is None or (found.private and self._user != id.split("/")[0]):
            self._send(404 if self._user else 401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        return found

    def _files(self, id: str, revision: str) -> dict[str, bytes] | None:
        repository = self._repository(id)
        files = repository.files(revision) if repository else None
        if repository and files is None:
            self._send(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        return files

    def who(self) -> None:
        self._send(200, {"name": self._user, "type": "user"}) if self._user else self._send(401, {"error": "Invalid"})

    def create(self) -> None:
        asked = json.loads(self.body)
        id = f"{asked['organization'] or self._user}/{asked['name']}"
        if id.split("/")[0] != self._user:
            self._send(403 if self._user else 401, {"error": "no right to this namespace"})
            return
        known = id in self.hub.repositories
        if not known:
            self.hub.repositories[id] = Repository(private=asked.get("visibility") == "private")
        self._send(409 if known else 200, {"url": f"{self.hub.url}/{id}"})

    def validate(self) -> None:
        text = json.loads(self.body)["content"]
        try:
            values = YAML(typ="safe", pure=True).load(text.split("---\n")[1])
            errors = [] if isinstance(values, dict) else [{"message": "no metadata"}]
        except YAMLError as error:
            errors = [{"message": str(error)}]
        self._send(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, id: str, revision: str) -> None:
        files = self._files(id, revision)
        if files is None:
            return
        answers = []
        for each in json.loads(self.body)["files"]:
            large = each["path"].endswith(LFS_SUFFIXES)
            answer = {"path": each["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if (content := files.get(each["path"])) is not None:
                answer["oid"] = hashlib.sha256(content).hexdigest() if large else git_oid(content)
            answers.append(answer)
        self._send(200, {"files": answers})

    def lfs_batch(self, id: str) -> None:
        objects = json.loads(self.body)["objects"]
        for each in objects:
            if each["oid"] not in self.hub.objects:
                each["actions"] = {
                    "upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"},
                    "verify": {"href": f"{self.hub.url}/lfs/verify"},
                }
        self._send(200, {"objects": objects, "transfer": "basic"})

    def lfs_put(self, oid: str) -> None:
        good = hashlib.sha256(self.body).hexdigest() == oid
        if good:
            self.hub.objects[oid] = self.body
        self._send(200 if good else 400, {})

    def lfs_verify(self) -> None:
        asked = json.loads(self.body)
        self._send(200 if len(self.hub.objects.get(asked["oid"], b"")) == asked["size"] else 404, {})

    def commit(self, id: str, revision: str) -> None:
        files = self._files(id, revision)
        if files is None:
            return
        files = dict(files)
        for line in self.body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        commits = self.hub.repositories[id].commits
        sha = hashlib.sha1(f"{len(commits)}".encode() + self.body).hexdigest()
        commits.append((sha, files))
        self._send(200, {"commitUrl": f"{self.hub.url}/{id}/commit/{sha}", "commitOid": sha})

    def info(self, id: str, revision: str = "main") -> None:
        files, repository = self._files(id, revision), self.hub.repositories.get(id)
        if files is None or repository is None:
            return
        sha = next(sha for sha, held in reversed(repository.commits) if held is files)
        names = [{"rfilename": name} for name in files]
        self._send(200, {"id": id, "sha": sha, "private": repository.private, "siblings": names, "tags": []})

    def tree(self, id: str, revision: str) -> None:
        files = self._files(id, revision)
        if files is not None:
            rows: list[dict[str, Any]] = []
            for path, content in files.items():
                rows.append({"type": "file", "path": path, "size": len(content), "oid": git_oid(content)})
                if path.endswith(LFS_SUFFIXES):
                    sha = hashlib.sha256(content).hexdigest()
                    rows[-1]["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 130}
            self._send(200, rows)

    def resolve(self, id: str, revision: str, file: str) -> None:
        files, repository = self._files(id, revision), self.hub.repositories.get(id)
        if files is None or repository is None:
            return
        if file not in files:
            self._send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            return
        content = files[file]
        sha = next(sha for sha, held in reversed(repository.commits) if held is files)
        large = file.endswith(LFS_SUFFIXES)
        etag = hashlib.sha256(content).hexdigest() if large else git_oid(content)
        self._send(
            200, content, X_Repo_Commit=sha, ETag=f'"{etag}"', X_Linked_Etag=f'"{etag}"',
            X_Linked_Size=str(len(content)), Content_Type="application/octet-stream",
        )  # fmt: skip


ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/api/whoami-v2", _Handler.who),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("POST", f"/api/models/{ID}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    ("POST", f"/{ID}\\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]+)", _Handler.lfs_put),
    ("POST", "/lfs/verify", _Handler.lfs_verify),
    ("POST", f"/api/models/{ID}/commit/(?P<revision>[^/]+)", _Handler.commit),
    ("GET", f"/api/models/{ID}", _Handler.info),
    ("GET", f"/api/models/{ID}/revision/(?P<revision>[^/]+)", _Handler.info),
    ("GET", f"/api/models/{ID}/tree/(?P<revision>[^/]+)", _Handler.tree),
    ("HEAD GET", f"/{ID}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _Handler.resolve),
]


def connect(monkeypatch: Any, hub: HubStandIn, *, cache: Any, token: str | None = TOKEN) -> None:
    """Leads the client of this process to the stand-in, with a cache of its own; it read its settings when imported."""
    constants = {
        "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_HUB_CACHE": str(cache), "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
    }  # fmt: skip
    for name, value in constants.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    if token is None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    else:
        monkeypatch.setenv("HF_TOKEN", token)


def scored(run: Run) -> Run:
    """`run` with the digests of its weights in scores.json, as a real one has them."""
    weights = {which.name: weights_sha256(which) for which in (run.best, run.last) if which.is_dir()}
    write_json(run.scores, run.read(run.scores, Scores).model_copy(update={"weights": weights}))
    return run
