"""A server that knows the name of its model, and how to fail; as a program, that server itself.

It counts its starts and requests in STORE/cache, so that it can fail once only.
"""

import json
import os
import signal
import sys
import threading
import time
import urllib.request
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
    "well", "dies", "dies once", "hangs", "hangs once", "stalls", "stalls once",
    "garbage", "other name", "never ready", "ends", "asks for key",
]  # fmt: skip


class Config(StrictModel):
    mode: Mode = "well"
    """"once": at its first start; else at every start. It hangs all of it, or stalls: only its work."""
    num_answers: int = 2
    """Requests it answers before it dies, hangs or stalls."""
    answer_seconds: float = 0.0
    hang_timeout_seconds: float = 2.0


class Inputs(StrictModel):
    model: Artifact


def model_name(inputs: Inputs) -> str:
    return f"toy-{inputs.model.fingerprint[:16]}"


def command(config: Config, inputs: Inputs, resources: Resources, port: int) -> list[str]:
    settings = {
        "mode": config.mode,
        "num_answers": config.num_answers,
        "answer_seconds": config.answer_seconds,
        "name": "another" if config.mode == "other name" else model_name(inputs),
        "starts": str(_cache(resources) / f"starts-{model_name(inputs)}"),
        "address": (resources.host, port),
    }
    return [sys.executable, "-m", __name__, json.dumps(settings)]


def _cache(resources: Resources) -> Path:
    assert resources.store_dir
    return resources.store_dir / "cache"


def environment(_config: Config, _inputs: Inputs, _resources: Resources) -> dict[str, str]:
    return {}


def pulse(url: str, key: str | None, timeout_seconds: float) -> tuple[int, int] | None:
    request = urllib.request.Request(f"{url}/pulse", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=timeout_seconds) as response:
        num_waiting, num_steps = json.load(response)
    return (num_waiting, num_steps) if num_waiting else None


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
    Handler.answer_seconds = settings["answer_seconds"]
    ThreadingHTTPServer(tuple(settings["address"]), Handler).serve_forever()


class Handler(BaseHTTPRequestHandler):
    mode: str
    name: str
    num_left: int
    answer_seconds: float
    num_waiting = 0
    num_steps = 0

    def do_GET(self) -> None:
        """GET /v1/models; GET /ask, which counts and may take its time; GET /pulse."""
        if self.mode == "asks for key" and self.headers["Authorization"] != f"Bearer {os.environ['TOY_SERVER_KEY']}":
            return self._answer(401, {"error": "no key"})
        if self.path == "/pulse":
            return self._answer(200, [Handler.num_waiting, Handler.num_steps])
        if self.path == "/ask":
            Handler.num_waiting += 1
            self._work()
            Handler.num_waiting -= 1
        if self.mode == "garbage":
            return self._answer(200, ["nothing", "of", "use"])
        return self._answer(200, {"data": [{"id": self.name}], "pid": os.getpid()})

    def _work(self) -> None:
        Handler.num_left -= 1
        if Handler.num_left < 0:
            self._fail()
        ready = time.monotonic() + self.answer_seconds
        while time.monotonic() < ready:
            time.sleep(0.1)
            Handler.num_steps += 1

    def _fail(self) -> None:
        if self.mode == "dies":
            print("the toy server was asked to die", flush=True)
            os._exit(3)
        if self.mode == "hangs":
            print("the toy server was asked to hang", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.mode == "stalls":
            print("the toy server was asked to stall", flush=True)
        if self.mode != "well":
            threading.Event().wait()  # on a busy machine this thread may run on before the whole process stands still

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    main()
