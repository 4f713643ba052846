"""How programs can be cut off on this machine: plans from the strongest to the weakest, and the first that works."""

import os
import site
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from stages._sandbox.client import Mode, SandboxError, Server, mode
from stages._sandbox.inside import landlock, seccomp
from stages._sandbox.inside.plan import Limits, Plan, unused_user

PROBE = "import os, colorsys\nfor path in {paths}: os.listdir(path)\nopen(os.environ['HOME'] + '/note', 'w').write('x')"
"""Python's own files can be read and the home be written."""


@dataclass(frozen=True)
class Isolation:
    """How programs are cut off, and what of it this machine cannot enforce."""

    mode: Mode
    missing: tuple[str, ...] = ()


def isolation() -> Isolation:
    """What this machine offers, found out by trying."""
    plan = best()
    return Isolation(mode(plan), plan.missing(_is_root_of_many()))


@cache
def best() -> Plan:
    """This machine's plan. Raises SandboxError where none works."""
    return choose(plans())


def choose(plans: Iterable[Plan]) -> Plan:
    """The first that works. Raises SandboxError where none does."""
    problems = []
    for plan in plans:
        try:
            with Server(plan) as server:
                verdict = server.run(_probe(), Limits())
        except SandboxError as error:
            problems.append(str(error))
            continue
        if verdict.passed:
            return plan
        problems.append(verdict.detail)
    raise SandboxError("model-written code cannot be run here: " + "; ".join(dict.fromkeys(problems)))


def plans(namespaces: bool = True) -> list[Plan]:
    """From the strongest to the weakest; without `namespaces` only the latter half."""
    users = _is_root_of_many()
    shown = _python_folders()
    base = Plan(
        namespaces=False,
        seccomp=seccomp.available(),
        landlock=landlock.version() >= landlock.OLDEST,
        shown=shown,
        hidden=_private_folders(),
    )
    limited = [replace(base, own_user=True), replace(base, own_user=True, read_everything=True)] if users else []
    limited.append(base)
    isolated = [replace(each, namespaces=True, landlock=False, user_namespace=not each.own_user) for each in limited]
    return [*(isolated if namespaces and seccomp.available() else []), *limited]


def _is_root_of_many() -> bool:
    try:
        unused_user(0)
    except ValueError:
        return False
    return os.geteuid() == 0


def _python_folders() -> list[str]:
    """Where this Python and its packages are."""
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    paths = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *_packages(), *libraries}
    real = {os.path.realpath(path) for path in paths if path}
    return sorted(path for path in paths | real if path and Path(path).is_dir())


def _packages() -> list[str]:
    return [path for path in site.getsitepackages() if Path(path).is_dir()]


def _private_folders() -> list[str]:
    try:
        home = Path.home()
    except RuntimeError:  # a user without an entry, as in some containers
        return []
    return [str(home)] if home.is_dir() and home != Path("/") else []


def _probe() -> str:
    return PROBE.format(paths=_packages())
