"""A stand-in of the Hugging Face hub's HTTP API: repositories with commits, large files beside them, and tokens."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

OWNER, STRANGER = "hf_owner", "hf_stranger"  # tokens
LARGE = (".npy", ".safetensors")
KNOWN_LICENCES = ("unknown", "cc-by-4.0", "apache-2.0")


@dataclass
class Repo:
    """A repository.

    Attributes:
        private: seen by its owner alone.
        commits: files by name, by commit; the last one is the main branch.
    """

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        sha = list(self.commits)[-1] if revision == "main" else revision
        return (sha, self.commits[sha]) if sha in self.commits else None

    def commit(self, files: dict[str, bytes]) -> str:
        text = json.dumps([len(self.commits), sorted(files)]).encode()
        sha = hashlib.sha1(text).hexdigest()
        self.commits[sha] = files
        return sha


class Hub:
    """The server.

    Attributes:
        url: of it.
        repos: by kind and name, such as `models/user/name`.
        large: contents of large files that were sent, by SHA-256.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        for method, pattern, act in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method.split():
                getattr(self, act)(body, *found.groups())
                return
        self.refuse(404, "", f"no such address: {self.command} {path}")

    do_GET = do_PUT = do_POST = do_HEAD = handle_any

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def answer(self, value: Any) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, message: str) -> None:
        self.send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": message})

    def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def repo(self, kind: str, name: str, write: bool = False) -> Repo | None:
        """The repository, unless it isn't there for whoever asks."""
        found = self.server_hub.repos.get(f"{kind}/{name}")
        if found is None or (found.private and self.token != OWNER):
            self.refuse(404 if self.token else 401, "RepoNotFound", "Repository not found")
            return None
        if write and self.token != OWNER:
            self.refuse(403, "", "you don't have the rights to write here")
            return None
        return found

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        kind, name = f"{asked.get('type', 'model')}s", f"{asked['organization']}/{asked['name']}"
        if not self.token:
            self.refuse(401, "", "Invalid username or password.")
        elif self.token != OWNER:
            self.refuse(403, "", "you don't have the rights to create a repository under this namespace")
        elif f"{kind}/{name}" in self.server_hub.repos:
            text = json.dumps({"error": "You already created this repo", "url": f"{self.server_hub.url}/{name}"})
            self.send(409, text.encode(), {"Content-Type": "application/json"})
        else:
            made = Repo(asked.get("visibility") == "private" or bool(asked.get("private")))
            made.commit({".gitattributes": b"*.npy filter=lfs\n"})
            self.server_hub.repos[f"{kind}/{name}"] = made
            self.answer({"url": f"{self.server_hub.url}/{name}"})

    def yaml(self, body: bytes) -> None:
        licence = re.search(r"license: (\S+)", json.loads(body)["content"])
        if licence and licence[1] not in KNOWN_LICENCES:
            text = json.dumps({"errors": [{"message": f'"license" {licence[1]} isn\'t a licence'}], "warnings": []})
            self.send(400, text.encode(), {"Content-Type": "application/json"})
        else:
            self.answer({"errors": [], "warnings": []})

    def info(self, body: bytes, kind: str, name: str, revision: str | None) -> None:
        repo = self.repo(kind, name)
        if repo is None:
            return
        found = repo.at(revision or "main")
        if found is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            siblings = [{"rfilename": path} for path in found[1]]
            self.answer({"id": name, "sha": found[0], "private": repo.private, "siblings": siblings, "tags": []})

    def preupload(self, body: bytes, kind: str, name: str, revision: str) -> None:
        if self.repo(kind, name, write=True):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self.answer({"files": files})

    def batch(self, body: bytes, datasets: str | None, name: str) -> None:
        objects = []
        for one in json.loads(body)["objects"]:
            href = f"http://{self.headers['Host']}/large/{one['oid']}"
            needed = {} if one["oid"] in self.server_hub.large else {"actions": {"upload": {"href": href}}}
            objects.append(one | needed)
        self.send(
            200,
            json.dumps({"transfer": "basic", "objects": objects}).encode(),
            {"Content-Type": "application/vnd.git-lfs+json"},
        )

    def large(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() == oid:
            self.server_hub.large[oid] = body
            self.answer({})
        else:
            self.refuse(400, "", "another SHA-256")

    def commit(self, body: bytes, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name, write=True)
        if repo is None:
            return
        sha, files = repo.at("main") or ("", {})
        files = dict(files)
        for line in body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header" and value.get("parentCommit", sha) != sha:
                self.refuse(412, "", "A commit has happened since. Please refresh and try again.")
                return
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.server_hub.large[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        sha = repo.commit(files)
        self.answer({"commitUrl": f"{self.server_hub.url}/{name}/commit/{sha}", "commitOid": sha})

    def tree(self, body: bytes, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name)
        if repo is not None:
            found = repo.at(revision)
            self.answer([_described(path, data) for path, data in (found or ("", {}))[1].items()])

    def paths(self, body: bytes, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name)
        if repo is not None:
            files = (repo.at(revision) or ("", {}))[1]
            asked = parse_qs(body.decode())["paths"]
            self.answer([_described(path, files[path]) for path in asked if path in files])

    def resolve(self, body: bytes, datasets: str | None, name: str, revision: str, path: str) -> None:
        repo = self.repo("datasets" if datasets else "models", name)
        if repo is None:
            return
        found = repo.at(revision)
        if found is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif path not in found[1]:
            self.refuse(404, "EntryNotFound", "Entry not found")
        else:
            data = found[1][path]
            headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": found[0]}
            part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if part:
                start, end = int(part[1]), min(len(data), int(part[2] or len(data)) + 1)
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
                self.send(206, data[start:end], headers)
            else:
                self.send(200, data, headers)


def _described(path: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


KIND, NAME = r"(models|datasets)", r"([^/]+/[^/]+?)"
ROUTES = [
    ("POST", "/api/repos/create", "create"),
    ("POST", "/api/validate-yaml", "yaml"),
    ("GET", rf"/api/{KIND}/{NAME}(?:/revision/([^/]+))?", "info"),
    ("POST", rf"/api/{KIND}/{NAME}/preupload/([^/]+)", "preupload"),
    ("POST", rf"/(datasets/)?{NAME}\.git/info/lfs/objects/batch", "batch"),
    ("PUT", "/large/([0-9a-f]+)", "large"),
    ("POST", rf"/api/{KIND}/{NAME}/commit/([^/]+)", "commit"),
    ("GET", rf"/api/{KIND}/{NAME}/tree/([^/]+)/?", "tree"),
    ("POST", rf"/api/{KIND}/{NAME}/paths-info/([^/]+)", "paths"),
    ("GET HEAD", rf"/(datasets/)?{NAME}/resolve/([^/]+)/(.+)", "resolve"),
]
