"""A filter of system calls (seccomp(2), BPF): what no program under test needs and every way out does.

Denied calls fail with EPERM, which Python shows as PermissionError. Sockets are among them, so that there is no network
where there is no network namespace either, nor any way to a service of the user through a socket file.
"""

import ctypes
import errno
import struct
from collections.abc import Iterable
from functools import cache

from stages._sandbox.inside.kernel import MACHINE, PR_SET_SECCOMP, check, libc

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*, linux/audit.h
X32_BIT = 0x40000000
NEW_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag

# Numbers: x86_64, aarch64 (None: the call is not there). Source: the kernel's unistd.h of each.
DENIED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "io_uring_setup": (425, 425),  # opens sockets past this filter
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "perf_event_open": (298, 241),
    # memory that no limit counts, and that may outlive the program
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # namespaces and mounts, and what has been used to break out of them
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
}
OTHERS: dict[str, tuple[int | None, int | None]] = {
    # without a process namespace: signals to others (kill and its like are allowed on oneself), others' limits
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "tkill": (200, 130),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    # without a read-only view: what Landlock does not govern
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}
CLONE, CLONE3 = (56, 220), (435, 435)
KILL, TGKILL, PRLIMIT, FCNTL = (62, 129), (234, 131), (302, 261), (72, 25)
SETS_OWNER = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: have the kernel signal another process

LOAD, EQUAL, AT_LEAST, BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # linux/bpf_common.h
KILL_PROCESS, ALLOW, ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
NUMBER, ARCHITECTURE, FIRST_ARGUMENT, SECOND_ARGUMENT = 0, 4, 16, 24  # offsets in struct seccomp_data

INSTRUCTION_BYTES = 8
Instruction = tuple[int, int, int, int]
"""Code, how far to jump where it is true, where it is not, operand."""
DENY: Instruction = (RETURN, 0, 0, ERRNO | errno.EPERM)
PERMIT: Instruction = (RETURN, 0, 0, ALLOW)


def available() -> bool:
    """Whether the numbers of this machine's calls are known here."""
    return MACHINE in ARCHITECTURES


def install(own_pid: int | None) -> None:
    """For this thread and all that it starts, for good. `own_pid`: deny what touches any process but this one."""
    apply(program(own_pid))


def apply(packed: bytes) -> None:
    """Any filter, as packed instructions."""
    instructions = ctypes.create_string_buffer(packed, len(packed))
    header = struct.pack("HxxxxxxQ", len(packed) // INSTRUCTION_BYTES, ctypes.addressof(instructions))
    mode_filter = ctypes.c_ulong(2)
    check(libc.prctl(PR_SET_SECCOMP, mode_filter, ctypes.create_string_buffer(header), 0, 0), "seccomp")


@cache
def program(own_pid: int | None) -> bytes:
    """What `install` installs; the server makes it once for all its children."""
    return pack(_filter(list(ARCHITECTURES).index(MACHINE), own_pid))


def pack(code: Iterable[Instruction]) -> bytes:
    """As the kernel reads them (struct sock_filter)."""
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def _filter(column: int, own_pid: int | None) -> list[Instruction]:
    code: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, list(ARCHITECTURES.values())[column]),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, X32_BIT),
        DENY,
        *_always(CLONE3[column], errno.ENOSYS),  # its flags are in memory, where no filter looks; libc falls back to:
        *_where(CLONE[column], FIRST_ARGUMENT, [(BITS, 0, 1, NEW_NAMESPACES), DENY]),
    ]
    for calls in (DENIED, OTHERS) if own_pid is not None else (DENIED,):
        for numbers in calls.values():
            code += _always(numbers[column], errno.EPERM)
    if own_pid is not None:
        for call in (KILL, TGKILL):
            code += _where(call[column], FIRST_ARGUMENT, [(EQUAL, 1, 0, own_pid), DENY])
        code += _where(PRLIMIT[column], FIRST_ARGUMENT, [(EQUAL, 1, 0, 0), DENY])
        code += _where(FCNTL[column], SECOND_ARGUMENT, [each for owner in SETS_OWNER for each in _equal(owner)])
    return [*code, PERMIT]


def _always(number: int | None, error: int) -> Iterable[Instruction]:
    return [] if number is None else [(EQUAL, 0, 1, number), (RETURN, 0, 0, ERRNO | error)]


def _equal(value: int) -> Iterable[Instruction]:
    return [(EQUAL, 0, 1, value), DENY]


def _where(number: int, argument: int, rules: list[Instruction]) -> Iterable[Instruction]:
    """`rules` look at (the lower half of) an argument of one call; what they do not deny is permitted."""
    body = [(LOAD, 0, 0, argument), *rules, PERMIT]
    return [(EQUAL, 0, len(body), number), *body]
