"""The routes of the mock hub that write: whose a token is, new repositories, commits with small and large files."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import yaml

_COMMIT = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)/(?P<verb>preupload|commit)/main")
_BATCH = re.compile(r"/(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch")


class Uploads:
    """Handles POST and PUT, and describes the user; the handler that it is mixed into sends the responses."""

    server: Any
    path: str
    headers: Any
    rfile: Any

    def user(self, token: str | None) -> None:
        """The response of `/api/whoami-v2`: a user in two organizations."""
        hub = self.server.hub
        if token != hub.token:
            self._refuse(401, None, "Invalid credentials in Authorization header")
            return
        access = {"displayName": "toy", "role": hub.role, "fineGrained": {"scoped": hub.scopes, "global": []}}
        organizations = [{"name": "team", "roleInOrg": "write"}, {"name": "readers", "roleInOrg": "read"}]
        self._send_json({"name": "me", "orgs": organizations, "auth": {"accessToken": access}})

    def do_POST(self) -> None:
        hub = self.server.hub
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        hub.posted.append(self.path)
        if hub.down is not None:
            self._refuse(hub.down, None, "the hub is down")
        elif token != hub.token:
            self._refuse(401, None, "Invalid credentials in Authorization header")
        elif self.path == "/api/validate-yaml":
            self._validate(json.loads(content)["content"])
        elif hub.read_only:
            self._refuse(403, None, "You don't have the rights to do this")
        elif self.path == "/api/repos/create":
            self._create(json.loads(content))
        elif match := _BATCH.fullmatch(self.path):
            self._offer(json.loads(content))
        elif (match := _COMMIT.fullmatch(self.path)) is None or f"{match['id']}@main" not in hub.repositories:
            self._refuse(404, "RepoNotFound", "Repository not found")
        elif match["verb"] == "preupload":
            self._sort(json.loads(content))
        else:
            self._commit(match["id"], content.decode())

    def do_PUT(self) -> None:
        """One large file; its address contains its sha256."""
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.hub.large[oid] = content
        self._send(200, {})

    def _validate(self, text: str) -> None:
        """As the real Hub, refuse a card whose metadata is not YAML."""
        metadata = yaml.safe_load(text.split("---")[1])
        self._send_json({"errors": [] if isinstance(metadata, dict) else [{"message": "no metadata"}], "warnings": []})

    def _create(self, values: dict[str, Any]) -> None:
        hub = self.server.hub
        name = f"{values.get('organization') or 'me'}/{values['name']}"
        url = {"url": f"{hub.url}/{name}"}
        if f"{name}@main" in hub.repositories:
            self._send(409, {"Content-Type": "application/json"}, json.dumps(url).encode())
            return
        folder = hub.new_repositories / name.replace("/", "--")
        folder.mkdir(parents=True)
        hub.repositories[f"{name}@main"] = folder
        if values.get("visibility") == "private" or values.get("private"):
            hub.private.add(name)
        self._send_json(url)

    def _sort(self, values: dict[str, Any]) -> None:
        """Which files are large."""
        large = self.server.hub.LARGE
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if Path(file["path"]).suffix in large else "regular",
                "shouldIgnore": False,
            }
            for file in values["files"]
        ]
        self._send_json({"files": files})

    def _offer(self, values: dict[str, Any]) -> None:
        url = self.server.hub.url
        objects = [
            {**each, "actions": {"upload": {"href": f"{url}/upload/{each['oid']}"}}} for each in values["objects"]
        ]
        self._send_json({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, lines: str) -> None:
        hub = self.server.hub
        folder = hub.repositories[f"{name}@main"]
        for line in map(json.loads, lines.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                continue
            path = folder / value["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            if line["key"] == "lfsFile":
                path.write_bytes(hub.large[value["oid"]])
            else:
                path.write_bytes(base64.b64decode(value["content"]))
        self._send_json({"commitUrl": f"{hub.url}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40})
