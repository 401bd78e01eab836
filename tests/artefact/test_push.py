"""Uploading, up to the requests: a local server stands for the hub and records what it is sent."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ddllm.artefact.folder import FILES
from ddllm.artefact.push import push
from ddllm.errors import UserError


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as an upload of small files asks for."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.path, self.headers.get("Authorization"), body))
        if self.server.refuse:
            return self.answer(403, {"error": "this token may not write"})
        address = f"http://127.0.0.1:{self.server.server_port}/datasets/me/mine"
        if self.path.endswith("/repos/create"):
            return self.answer(200, {"url": address, "name": "me/mine"})
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            return self.answer(200, {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]})
        if "/commit/" in self.path:
            return self.answer(200, {"commitUrl": f"{address}/commit/0", "commitOid": "0", "success": True})
        return self.answer(200, {"errors": [], "warnings": []})

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Authorization"), b""))
        if self.server.refuse:
            return self.answer(404, {"error": "there is none"})
        return self.answer(200, {"sha": "0", "siblings": [], "id": "me/mine"})

    def answer(self, status, content):
        payload = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    # The session is offline; requests to this machine are no network.
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests, server.refuse = [], False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_sends_the_folder_and_nothing_else(run, hub):
    folder = run.workdir.distilled
    (folder / "thesis.txt").write_text("private")
    try:
        address = push(folder, "me/mine", private=True, token="secret", endpoint=f"http://127.0.0.1:{hub.server_port}")
    finally:
        (folder / "thesis.txt").unlink()
    assert address == f"http://127.0.0.1:{hub.server_port}/datasets/me/mine"
    sent = {path.split("?")[0]: body for path, _, body in hub.requests}
    made = json.loads(sent["/api/repos/create"])
    assert made["type"] == "dataset" and "private" in (made.get("visibility"), "private" if made.get("private") else "")
    assert all(token == "Bearer secret" for path, token, _ in hub.requests if "create" in path or "commit" in path)
    lines = [json.loads(line) for line in sent["/api/datasets/me/mine/commit/main"].splitlines()]
    files = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
    assert files == {name: (folder / name).read_bytes() for name in FILES}


def test_what_goes_wrong_is_a_sentence(run, hub, tmp_path):
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    hub.refuse = True
    with pytest.raises(UserError, match="me/mine could not be uploaded"):
        push(run.workdir.distilled, "me/mine", token="secret", endpoint=endpoint)
    with pytest.raises(UserError, match="no possible name"):
        push(run.workdir.distilled, "me/../mine", token="secret", endpoint=endpoint)
    count = len(hub.requests)
    with pytest.raises(UserError, match="not a distilled data set"):
        push(tmp_path, "me/mine", token="secret", endpoint=endpoint)
    assert len(hub.requests) == count
