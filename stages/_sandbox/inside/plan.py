"""How programs are cut off on this machine, and the bounds of one run, as the server is told them."""

import os
from dataclasses import dataclass, field

UNUSED_IDS = 0x70000000
"""No system uses user ids from here to 0x7ffdffff (https://systemd.io/UIDS-GIDS)."""


@dataclass(frozen=True)
class Plan:
    """Chosen once per machine, by trying."""

    namespaces: bool
    user_namespace: bool = False
    """For those who may not make the other namespaces otherwise."""
    own_user: bool = False
    """Programs run as a user id that nobody has: root's processes have no bound and may do much."""
    read_everything: bool = False
    """Keep the one capability to read files, where Python's own are private to root."""
    landlock: bool = False
    seccomp: bool = False
    folder: str = ""
    """Empty; homes are made in it, or the view mounted on it."""
    shown: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)

    @property
    def counts_alone(self) -> bool:
        """Whether the kernel counts a run's processes by themselves, or with all others of the user.

        It does for a user of its own, and (from Linux 5.14 on) for one in a user namespace of its own.
        """
        release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
        return self.own_user or (self.user_namespace and release >= (5, 14))

    def missing(self, is_root: bool) -> tuple[str, ...]:
        """What is not enforced, in words for the result."""
        lacks = {
            "no network": not self.namespaces and not self.seccomp,
            "other processes out of reach": not self.namespaces and not self.own_user and not self.seccomp,
            "environments of other processes unreadable": not (self.namespaces or self.own_user or self.landlock),
            "read-only files": not self.namespaces and not self.landlock,
            "homes and temporary files unreadable": not self.namespaces and not self.landlock,
            "other files of root unreadable": self.read_everything,
            "number of processes (watched, not bound)": is_root and not self.own_user,
            "size of the home (watched, not bound)": not self.namespaces,
        }
        return tuple(what for what, is_missing in lacks.items() if is_missing)


@dataclass(frozen=True)
class Limits:
    """Of one run."""

    cpu_seconds: float = 3.0
    """Processor time, so that a busy machine changes no verdict."""
    wall_seconds: float = 12.0
    """Real time, which also ends programs that sleep or wait."""
    memory_bytes: int = 2 * 1024**3
    """Address space of each process, and resident memory of all together."""
    file_bytes: int = 16 * 1024**2
    """Of each file."""
    home_bytes: int = 64 * 1024**2
    num_processes: int = 32
    """Processes and threads."""


def unused_user(number: int) -> int:
    """A user id that nobody has, another for each `number`. Raises ValueError where there is just one user."""
    with open("/proc/self/uid_map") as file:
        extents = [tuple(map(int, line.split())) for line in file]
    for first, _, length in extents:
        if first <= UNUSED_IDS and UNUSED_IDS + number < first + length:
            return UNUSED_IDS + number
    first, _, length = extents[-1]
    if length < 2:
        raise ValueError("only one user id exists here")
    return first + length - 1 - number % min(length - 1, 10_000)
