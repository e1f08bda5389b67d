"""A hub on this machine: the few calls of huggingface_hub, with faults."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import yaml

from support.loopback import FaultHandler, FaultServer, serving

TOKEN = "hf_" + "secret" * 5


@dataclass
class Repository:
    """A repository: files by commit, and commits by revision."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)

    def commit(self, revision: str, files: dict[str, bytes]) -> str:
        """Add files to a branch and return the commit."""
        before = self.revisions.get(revision, "")
        told = json.dumps([before, {name: content.hex() for name, content in files.items()}])
        commit = hashlib.sha1(told.encode()).hexdigest()
        self.commits[commit] = self.commits.get(before, {}) | files
        self.revisions[revision] = commit
        return commit

    def files(self, revision: str) -> dict[str, bytes] | None:
        return self.commits.get(self.revisions.get(revision, revision))


class HubServer(FaultServer):
    """Repositories, and files on a second host, `localhost`, to which the first one redirects.

    Attributes:
        repositories: Repositories by name.
        uploads: Uploaded files by hash.
        statuses: Status of a call, by a part of its path.
        headers: Headers of an answer about a file that replace the right ones.
        tokens: Path and Authorization of each request.
        agents: User-Agent of each request for a file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = HubHandler
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.statuses: dict[str, int] = {}
        self.headers: dict[str, str] = {}
        self.tokens: list[tuple[str, str | None]] = []
        self.agents: set[str] = set()

    def add(self, name: str, *, private: bool = False, **files: bytes) -> str:
        """Add a repository with `model.safetensors` or other files; return its commit."""
        repository = self.repositories.setdefault(name, Repository(private))
        return repository.commit("main", {key.replace("_", "."): value for key, value in files.items()})


class HubHandler(FaultHandler):
    """Answers of a hub."""

    server: HubServer

    def refused(self) -> bool:
        """Note the token, and send the status that a test chose for this path."""
        self.server.tokens.append((self.path, self.headers["Authorization"]))
        chosen = (status for part, status in self.server.statuses.items() if part in self.path)
        if status := next(chosen, 0):
            self.answer(status, {"error": TOKEN})
        return bool(status)

    def answer(self, status: int, body: object = (), **headers: str) -> None:
        content = json.dumps(body or {}).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        if self.server.script[0] == "silence":
            self.server.stop_stalling.wait(20)
        elif not self.refused():
            self.resolve()

    def do_GET(self) -> None:
        if self.path.startswith("/cdn/"):
            self.server.tokens.append((self.path, self.headers["Authorization"]))
            super().do_GET()
        elif not self.refused():
            self.resolve()

    def resolve(self) -> None:
        """Send commit, hash and size of a file, and where its content is."""
        self.server.agents.add(self.headers["User-Agent"])
        owner, name, _, revision, *path = self.path[1:].split("/")
        repository = self.server.repositories.get(f"{owner}/{name}")
        if repository is None or (repository.private and not self.is_known()):
            self.answer(401, X_Error_Code="RepoNotFound")
            return
        files, file = repository.files(unquote(revision)), unquote("/".join(path))
        if files is None or file not in files:
            self.answer(404, X_Error_Code="RevisionNotFound" if files is None else "EntryNotFound")
            return
        content = files[file]
        sha256 = hashlib.sha256(content).hexdigest()
        self.server.files[f"cdn/{sha256}?signature=secret"] = content
        commit = repository.revisions.get(unquote(revision), revision)
        told = {
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{sha256}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"http://localhost:{self.server.server_port}/cdn/{sha256}?signature=secret",
        }
        self.answer(302, **{**told, **self.server.headers})

    def is_known(self) -> bool:
        return self.headers["Authorization"] == f"Bearer {TOKEN}"

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if not self.refused():
            self.server.uploads[self.path.rpartition("/")[2]] = content
            self.answer(200)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.refused():
            return
        if not self.is_known():
            self.answer(401, {"error": "Invalid username or password."})
            return
        match self.path[1:].split("/"):
            case ["api", "repos", "create"]:
                self.create(json.loads(body))
            case ["api", "validate-yaml"]:
                self.validate(json.loads(body)["content"])
            case ["api", "models", owner, name, "branch", branch]:
                repository = self.server.repositories[f"{owner}/{name}"]
                known = branch in repository.revisions
                repository.revisions.setdefault(branch, repository.revisions.get("main", ""))
                self.answer(409 if known else 200, {})
            case ["api", "models", owner, name, "preupload", _]:
                files = json.loads(body)["files"]
                modes = {True: "lfs", False: "regular"}
                self.answer(
                    200,
                    {
                        "files": [
                            {
                                "path": each["path"],
                                "uploadMode": modes[each["path"].endswith(".safetensors")],
                                "shouldIgnore": False,
                            }
                            for each in files
                        ]
                    },
                )
            case [_, _, "info", "lfs", "objects", "batch"]:
                objects = json.loads(body)["objects"]
                for each in objects:
                    each["actions"] = {"upload": {"href": f"{self.server.url}upload/{each['oid']}"}}
                self.answer(200, {"transfer": "basic", "objects": objects})
            case ["api", "models", owner, name, "commit", revision]:
                self.commit(f"{owner}/{name}", unquote(revision), body)
            case _:
                self.answer(404)

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        known = name in self.server.repositories
        private = asked.get("visibility") == "private"
        self.server.repositories.setdefault(name, Repository(private)).revisions.setdefault("main", "")
        self.answer(409 if known else 200, {"url": f"{self.server.url}{name}"})

    def validate(self, card: str) -> None:
        """Accept a card whose first lines are YAML."""
        _, table, _ = card.split("---\n", 2)
        good = isinstance(yaml.safe_load(table), dict)
        self.answer(200 if good else 400, {"errors": [] if good else [{"message": "no table"}]})

    def commit(self, name: str, revision: str, body: bytes) -> None:
        files = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.server.uploads[value["oid"]]
        oid = self.server.repositories[name].commit(revision, files)
        self.answer(200, {"commitUrl": f"{self.server.url}{name}/commit/{oid}", "commitOid": oid})


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Yield a running hub."""
    with HubServer() as server, serving(server):
        yield server
