"""A completions server whose answers and failures are scripted: what a real server does only when it breaks."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, Any]]


class Script:
    """`reply(body)` answers a completion; `bodies`, `paths` and `headers` are those it got."""

    def __init__(self, model: str, reply: Callable[[dict[str, Any]], Reply], max_model_len: int = 2048) -> None:
        self.model = model
        self.reply = reply
        self.max_model_len = max_model_len
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.reply_headers: dict[str, str] = {}


def completion(text: str, finish_reason: str = "stop", num_tokens: int = 3) -> Reply:
    """What vLLM says; the server puts in how many tokens the prompt had."""
    return 200, {
        "choices": [{"text": text, "finish_reason": finish_reason}], "usage": {"completion_tokens": num_tokens}
    }  # fmt: skip


@contextmanager
def serving(script: Script) -> Iterator[str]:
    """The base URL of a running server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, {"data": [{"id": script.model, "max_model_len": script.max_model_len}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            script.bodies.append(body)
            script.paths.append(self.path)
            script.headers.append(dict(self.headers))
            status, record = script.reply(body)
            if "usage" in record and "prompt" in body:
                record["usage"].setdefault("prompt_tokens", len(body["prompt"]))
            self._send(status, record)

        def _send(self, status: int, record: dict[str, Any]) -> None:
            data = json.dumps(record).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            for name, value in script.reply_headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
