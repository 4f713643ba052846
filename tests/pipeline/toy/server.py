"""A server that knows the name of its model; as a program, that server itself."""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from pipeline.artifact import Artifact
from pipeline.stage import Resources
from pipeline.strict import StrictModel

VERSION = 1
startup_timeout_seconds = 20.0


class Config(StrictModel):
    pass


class Inputs(StrictModel):
    model: Artifact


def model_name(inputs: Inputs) -> str:
    return f"toy-{inputs.model.fingerprint[:16]}"


def command(_config: Config, inputs: Inputs, _resources: Resources, port: int) -> list[str]:
    return [sys.executable, "-m", __name__, str(port), model_name(inputs)]


def environment(_config: Config, _inputs: Inputs, _resources: Resources) -> dict[str, str]:
    return {}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"data": [{"id": sys.argv[2]}], "pid": os.getpid()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
