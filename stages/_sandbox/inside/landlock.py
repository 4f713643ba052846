"""A read-only view without a mount (landlock(7)): this process and all it starts write below one folder only.

What is private at the top of the file system cannot be read; a home elsewhere can, since a rule only adds. All other
processes' memory and environment are hidden, and (where the kernel is new enough) their abstract sockets.
"""

import ctypes
import os

from stages._sandbox.inside.kernel import libc, system_call
from stages._sandbox.inside.view import EMPTY

SYS_CREATE, SYS_ADD_RULE, SYS_RESTRICT = 444, 445, 446
RULE_PATH_BENEATH, CREATE_RULESET_VERSION = 1, 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE, IOCTL_DEV = 1, 2, 4, 8, 1 << 14, 1 << 15
NUM_RIGHTS = {3: 15, 4: 15}  # by version of the interface; from 5 on 16
SCOPES = 3  # abstract sockets and signals, from version 6 on
OLDEST = 3
"""Older ones do not govern truncate(2): any file of the user could be emptied. Linux 6.2."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def version() -> int:
    """Of the kernel's interface; 0 where there is none."""
    return max(0, libc.syscall(SYS_CREATE, None, ctypes.c_size_t(0), CREATE_RULESET_VERSION))


def restrict(home: str, shown: list[str], hidden: list[str]) -> None:
    """From here on this thread and all it starts read what a view in namespaces would show, and write below `home`."""
    handled = (1 << NUM_RIGHTS.get(version(), 16)) - 1
    scopes = SCOPES if version() >= 6 else 0
    attributes = (ctypes.c_uint64 * 3)(handled, 0, scopes)
    size = 24 if scopes else 8
    ruleset = system_call(SYS_CREATE, attributes, ctypes.c_size_t(size), 0)
    for folder in [*_visible({*EMPTY, *hidden} - {"/proc"}), *shown]:
        _allow(ruleset, folder, EXECUTE | READ_FILE | READ_DIR)
    _allow(ruleset, home, handled)
    for device in filter(os.path.exists, DEVICES):
        _allow(ruleset, device, READ_FILE | handled & (WRITE_FILE | TRUNCATE | IOCTL_DEV))
    system_call(SYS_RESTRICT, ruleset, 0)
    os.close(ruleset)


def _visible(hidden: set[str]) -> list[str]:
    return [entry.path for entry in os.scandir("/") if entry.is_dir() and entry.path not in hidden]


def _allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH)
    rule = ctypes.create_string_buffer(rights.to_bytes(8, "little") + descriptor.to_bytes(4, "little"), 12)
    system_call(SYS_ADD_RULE, ruleset, RULE_PATH_BENEATH, rule, 0)
    os.close(descriptor)
