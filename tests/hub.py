"""A Hugging Face hub on this machine."""

import json
import threading
from collections.abc import Mapping
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Hub:
    """A server that answers like the hub while a `with` block runs. `models` maps names to folders. Each model has one
    commit, `revision`. `asked` lists the files that were fetched; `environment` has the variables that point the hub's
    libraries to this server."""

    sha = "c0ffee" + "0" * 34

    def __init__(self, models: Mapping[str, Path], revision: str = "main"):
        self.asked: list[str] = []
        answers = type("Here", (Answer,), {"models": models, "revision": revision, "asked": self.asked})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), answers)
        self._thread = threading.Thread(target=self._server.serve_forever)
        endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.environment = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}

    def __enter__(self) -> "Hub":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Answer(BaseHTTPRequestHandler):
    models: Mapping[str, Path]
    revision: str
    asked: list[str]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        for name, folder in self.models.items():
            files = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
            api, raw = f"/api/models/{name}", f"/{name}/resolve/{Hub.sha}/"
            if path == f"{api}/revision/{self.revision}":
                return self._send(json.dumps({"id": name, "sha": Hub.sha, "siblings": []}).encode())
            if path == f"{api}/tree/{Hub.sha}":
                return self._send(json.dumps([_entry(name, p) for name, p in files.items()]).encode())
            if path.startswith(raw) and path.removeprefix(raw) in files:
                self.asked.append(path.removeprefix(raw))
                return self._send(files[path.removeprefix(raw)].read_bytes())
        return self._send(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})

    do_HEAD = do_GET

    def _send(self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        own = {"ETag": f'"{sha1(body).hexdigest()}"', "X-Repo-Commit": Hub.sha, "Content-Length": str(len(body))}
        for key, value in {**own, **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


def _entry(name: str, path: Path) -> dict:
    """The hub's description of a file."""
    oid = sha1(path.read_bytes()).hexdigest()
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": oid}
