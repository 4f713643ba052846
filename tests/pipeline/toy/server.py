"""A server that knows the name of its model, and how to fail; as a program, that server itself.

It counts its starts and requests in STORE/cache, so that it can fail once only.
"""

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

from pipeline.artifact import Artifact
from pipeline.stage import Resources
from pipeline.strict import StrictModel

VERSION = 1
startup_timeout_seconds = 3.0
key_variable = "TOY_SERVER_KEY"

Mode = Literal[
    "well", "dies", "dies once", "hangs", "hangs once", "garbage", "other name", "never ready", "ends", "asks for key"
]


class Config(StrictModel):
    mode: Mode = "well"
    """"once": at its first start; else at every start."""
    num_answers: int = 2
    """Requests it answers before it dies or hangs."""
    hang_timeout_seconds: float = 2.0


class Inputs(StrictModel):
    model: Artifact


def model_name(inputs: Inputs) -> str:
    return f"toy-{inputs.model.fingerprint[:16]}"


def command(config: Config, inputs: Inputs, resources: Resources, port: int) -> list[str]:
    settings = {
        "mode": config.mode,
        "num_answers": config.num_answers,
        "name": "another" if config.mode == "other name" else model_name(inputs),
        "starts": str(resources.store_dir / "cache" / f"starts-{model_name(inputs)}"),
        "address": (resources.host, port),
    }
    return [sys.executable, "-m", __name__, json.dumps(settings)]


def environment(_config: Config, _inputs: Inputs, _resources: Resources) -> dict[str, str]:
    return {}


def main() -> None:
    settings = json.loads(sys.argv[1])
    starts = Path(settings["starts"])
    starts.parent.mkdir(parents=True, exist_ok=True)
    with starts.open("a") as file:
        file.write(f"{os.getpid()} {settings['address'][1]}\n")
    is_first = len(starts.read_text().splitlines()) == 1
    mode, once = settings["mode"].removesuffix(" once"), settings["mode"].endswith(" once")
    print("the toy server starts")
    if mode == "ends":
        sys.exit("the toy server was asked to end")
    if mode == "never ready":
        signal.pause()
    Handler.mode = "well" if once and not is_first else mode
    Handler.name, Handler.num_left = settings["name"], settings["num_answers"]
    ThreadingHTTPServer(tuple(settings["address"]), Handler).serve_forever()


class Handler(BaseHTTPRequestHandler):
    mode: str
    name: str
    num_left: int

    def do_GET(self) -> None:
        """GET /v1/models, and GET /ask, which counts."""
        if self.mode == "asks for key" and self.headers["Authorization"] != f"Bearer {os.environ['TOY_SERVER_KEY']}":
            return self._answer(401, {"error": "no key"})
        if self.path == "/ask":
            Handler.num_left -= 1
            if Handler.num_left < 0:
                self._fail()
        if self.mode == "garbage":
            return self._answer(200, ["nothing", "of", "use"])
        return self._answer(200, {"data": [{"id": self.name}], "pid": os.getpid()})

    def _fail(self) -> None:
        if self.mode == "dies":
            print("the toy server was asked to die", flush=True)
            os._exit(3)
        if self.mode == "hangs":
            os.kill(os.getpid(), signal.SIGSTOP)

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    main()
