"""What a program in namespaces sees of the file system: all of it read-only, without what is private or alive.

Homes, temporary and run-time folders are empty (they hold keys, caches and the sockets of services), except for the
Python that runs; devices are five harmless ones; the program's own home is in memory and the only place to write.
"""

import os

from stages._sandbox.inside.kernel import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    change_root,
    make_read_only,
    mount,
)

HOME = "/home/program"
EMPTY = ("/home", "/root", "/tmp", "/var/tmp", "/var/run", "/run", "/dev", "/proc")
DEVICES = ("null", "zero", "full", "random", "urandom")
MAX_FILES = 16384
"""In the home; each takes memory of the kernel, which the size does not count."""


def enter(root: str, owner: int, home_bytes: int, shown: list[str], hidden: list[str]) -> None:
    """Make it, on the empty folder `root`, and go to the home in it. For the first process of new namespaces.

    `shown`: folders to be seen although they are in an empty or a hidden one.
    """
    empty = [*EMPTY, *hidden]
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    for entry in os.scandir("/"):
        _show_top(root, entry, empty)
    for path in empty:
        _empty(root, path)
    for path in shown:
        if any(_is_below(path, each) for each in empty):
            os.makedirs(root + path, exist_ok=True)
            mount(path, root + path, None, MS_BIND | MS_REC)
    _devices(root)
    os.makedirs(root + HOME)
    _processes(root)
    change_root(root)
    make_read_only()
    options = f"size={home_bytes},nr_inodes={MAX_FILES},mode=700,uid={owner},gid={owner}"
    mount("tmpfs", HOME, "tmpfs", MS_NOSUID | MS_NODEV, options)
    os.chdir(HOME)


def _show_top(root: str, entry: "os.DirEntry[str]", empty: list[str]) -> None:
    target = f"{root}/{entry.name}"
    if entry.is_symlink():
        os.symlink(os.readlink(entry.path), target)
    elif entry.is_dir():
        os.mkdir(target)
        if entry.path not in empty:
            mount(entry.path, target, None, MS_BIND | MS_REC)


def _empty(root: str, path: str) -> None:
    """Cover a folder that a mount from outside shows; those at the top are new and empty anyway."""
    if os.path.dirname(path) != "/" and os.path.isdir(root + path) and not os.path.islink(root + path):
        mount("tmpfs", root + path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _devices(root: str) -> None:
    for name in filter(lambda name: os.path.exists(f"/dev/{name}"), DEVICES):
        os.close(os.open(f"{root}/dev/{name}", os.O_CREAT, 0o666))
        mount(f"/dev/{name}", f"{root}/dev/{name}", None, MS_BIND)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{root}/dev/{name}")
    os.symlink("/proc/self/fd", f"{root}/dev/fd")


def _processes(root: str) -> None:
    """/proc with this namespace's processes; in a container that hides parts of its own /proc there is none.

    The kernel allows it to an ordinary user while the /proc from outside can still be seen, so before that is gone.
    """
    try:
        mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY)
    except PermissionError:
        return
