"""The Linux calls that Python has no names for. Every one raises OSError."""

import ctypes
import errno
import os
import signal

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000  # linux/sched.h

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)  # linux/mount.h
MOUNT_OPTIONS = {
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "noatime": 1024,
    "nodiratime": 2048,
    "relatime": 1 << 21,
}
"""As /proc/self/mountinfo names them."""
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 1, 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 8, 22, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38  # linux/prctl.h
CAP_DAC_READ_SEARCH = 2
NUM_CAPABILITIES = 41  # to CAP_CHECKPOINT_RESTORE; all are given up, known or not, by `set_capabilities`
CAPABILITY_VERSION_3 = 0x20080522

SYS_CLONE = {"x86_64": 56, "aarch64": 220}
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SYS_MOUNT_SETATTR = 442  # new calls have the same number everywhere

MACHINE = os.uname().machine
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def check(code: int, what: str = "") -> int:
    """The result of a call; -1 is raised as what errno says."""
    if code < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what or None)
    return code


def system_call(number: int, *arguments: object) -> int:
    """A call by its number."""
    return check(libc.syscall(ctypes.c_long(number), *arguments), f"system call {number}")


def prctl(option: int, value: int = 0) -> None:
    """Set one property of this process."""
    check(libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def fork_into(namespaces: int) -> int:
    """fork(2) whose child is the first process of new namespaces. Only for a process with one thread."""
    zero = ctypes.c_ulong(0)
    return system_call(SYS_CLONE[MACHINE], ctypes.c_ulong(namespaces | signal.SIGCHLD), zero, zero, zero, zero)


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Attach a file system or a folder."""
    encoded = [None if each is None else os.fsencode(each) for each in (source, target, kind)]
    check(libc.mount(*encoded, ctypes.c_ulong(flags), options.encode() or None), target)


def make_read_only() -> None:
    """All mounts, and without effect of set-user-id files."""
    try:
        _set_read_only()
    except OSError as error:
        if error.errno != errno.ENOSYS:  # before Linux 5.12
            raise
        _remount_read_only()


def _set_read_only() -> None:
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    system_call(SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, size)


def _remount_read_only() -> None:
    """One mount after the other; what is already set must be set again, since the kernel may not let it be undone."""
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split() for line in file]
    for fields in mounts:
        point, options = fields[4].encode().decode("unicode_escape"), fields[5].split(",")
        kept = sum(MOUNT_OPTIONS.get(option, 0) for option in options)
        try:
            mount(None, point, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | kept)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EINVAL):  # no mount there: another covers it
                raise


def change_root(path: str) -> None:
    """`path`, a mount, becomes the root; nothing of the old one can be reached. Source: pivot_root(2), its notes."""
    os.chdir(path)
    system_call(SYS_PIVOT_ROOT[MACHINE], b".", b".")
    check(libc.umount2(b".", MNT_DETACH), "the old root")
    os.chdir("/")


def set_capabilities(mask: int) -> None:
    """All this thread keeps, and not for programs that it executes."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    check(libc.capset(header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)), "capset")
