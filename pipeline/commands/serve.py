"""`serve RECIPE`: one finished model behind an OpenAI-compatible API, until Ctrl-C."""

import argparse
import ipaddress
import json
import os
import secrets
import shlex
from typing import TYPE_CHECKING

from pipeline.commands import arguments as shared

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from pipeline.services import Server
    from pipeline.step import Service
    from pipeline.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_recipe(parser)
    shared.add_store(parser)
    parser.add_argument("--track", metavar="NAME", help="whose model; needed where a recipe has several")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone)"
    )
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    parser.epilog = (
        "The key that clients must send is taken from the environment variable PIPELINE_SERVER_KEY. Without it "
        "there is none on a loopback address, and a new one, which is printed, on any other."
    )


def main(arguments: argparse.Namespace) -> int:
    from pipeline.errors import StepFailed
    from pipeline.services import Server
    from pipeline.signals import stop_signals

    plan, store = shared.open_plan(arguments)
    name, service = _choose(plan, arguments)
    _refuse(service, store, arguments)
    key, is_new = _key(arguments.host)
    server = Server(service, store, arguments.host, arguments.port, key)
    try:
        with stop_signals():
            _wait_until_ready(server, name)
            _introduce(server, name, arguments.host, is_new)
            while not (trouble := server.trouble(patience_seconds=60.0)):
                pass
            raise StepFailed(server.failure(trouble))
    except KeyboardInterrupt:
        print("stopped")
    finally:
        server.stop()
    return 0


def _choose(plan: "Plan", arguments: argparse.Namespace) -> "tuple[str, Service]":
    """The one that is named; else that of the only track, or the only one there is."""
    from pipeline.errors import UserError
    from pipeline.plan import workflow
    from pipeline.variants import services

    of_variants = {variant.name: workflow().servable(variant.recipe) for variant in plan.variants}
    servable = services(of_variants, plan.steps)
    tracks = {track for variant in plan.variants for track in variant.recipe.tracks}
    usual = [name for name in servable if name.rpartition("/")[2] in tracks] or list(servable)
    name = arguments.track or (usual[0] if len(usual) == 1 else "")
    if name not in servable:
        raise UserError(f"--track: found {name or 'no name'}, expected one of {', '.join(servable)}")
    return name, servable[name]


def _refuse(service: "Service", store: "Store", arguments: argparse.Namespace) -> None:
    """Raises UserError when the model, the port or the address is not there."""
    from pipeline.errors import UserError
    from pipeline.preflight import problems_of
    from pipeline.services import is_free

    run = shared.as_command(arguments)
    problems = [
        f"{step.name}: is not done yet, so there is nothing to serve; first: {run} --until {step.name}"
        for step in service.dependencies()
        if not store.is_sealed(step.stage, step.fingerprint)
    ]
    problems += problems_of(service, store)
    try:
        if not is_free(arguments.host, arguments.port):
            problems.append(
                f"--port: {arguments.port} is taken by another program (or not allowed), expected a free one"
            )
    except (OSError, OverflowError) as error:
        problems.append(f"--host {arguments.host} --port {arguments.port}: cannot be listened on: {error}")
    if problems:
        raise UserError(*problems)


def _key(host: str) -> tuple[str | None, bool]:
    """The key that clients must send, if any, and whether it was made just now."""
    from pipeline.services import SERVER_KEY

    if key := os.environ.get(SERVER_KEY):
        return key, False
    return (None, False) if _is_loopback(host) else (secrets.token_urlsafe(32), True)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _wait_until_ready(server: "Server", name: str) -> None:
    from pipeline import display

    shown, title, seconds = display.choose(), f"server for {name}", 0.0

    def tick(elapsed_seconds: float) -> None:
        nonlocal seconds
        seconds = elapsed_seconds
        shown.tick(title, elapsed_seconds, {})

    try:
        shown.started(title, "")
        server.wait_until_ready(tick)
        shown.finished(title, seconds)
    finally:
        shown.close()


def _introduce(server: "Server", name: str, host: str, key_is_new: bool) -> None:
    """Say where it is and how to talk to it."""
    from pipeline.served import served_models
    from pipeline.services import SERVER_KEY

    model = served_models(server.url, server.key, timeout_seconds=10.0)[-1]  # an adapter comes after its base
    everywhere = f", and port {server.port} of {os.uname().nodename}" if host in ("0.0.0.0", "::") else ""
    print(f"serving  {name}\nURL      {server.url}/v1{everywhere}\nmodel    {model}\nlog      {server.process.log}")
    print("\ntalk to it:")
    if key_is_new:
        print(f"  export {SERVER_KEY}={server.key}")
    print(f"{_example(server, model)}\n\nCtrl-C stops it", flush=True)


def _example(server: "Server", model: str) -> str:
    """A question, ready to paste into a shell."""
    from pipeline.services import SERVER_KEY

    question = {"model": model, "messages": [{"role": "user", "content": "What is 6 times 7?"}], "max_tokens": 100}
    key = f' -H "Authorization: Bearer ${SERVER_KEY}"' if server.key else ""
    return (
        f"  curl {server.url}/v1/chat/completions -H 'Content-Type: application/json'{key} \\\n"
        f"    -d {shlex.quote(json.dumps(question))}"
    )
