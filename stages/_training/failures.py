"""What an exception in a worker means: memory or disk that ran out, however the libraries put it."""

import errno
import re
import resource

import torch

_NO_SPACE = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file is too large",
}
_TORCHS_WRITER = ("PytorchStreamWriter failed", "inline_container.cc")


def memory_failure(error: BaseException) -> str | None:
    """What was asked for when memory ran out; None if that was not it."""
    text = str(error).splitlines()[0] if str(error) else ""
    if isinstance(error, torch.OutOfMemoryError):
        return text
    if isinstance(error, MemoryError):
        return text or "Python found no memory"
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        asked = re.search(r"tried to allocate (\d+) bytes", str(error))
        return f"{int(asked[1]):,} bytes were asked for at once" if asked else text
    return None


def disk_failure(error: BaseException) -> str | None:
    """Why a file could not be written if the disk, the quota or a limit is at its end; else None.

    PyTorch's and safetensors' writers have errors of their own, with the system's text or none.
    """
    number = error.errno if isinstance(error, OSError) else None
    found = re.search(r"os error (\d+)", str(error))
    number = int(found[1]) if found else number
    is_torchs = isinstance(error, RuntimeError) and any(text in str(error) for text in _TORCHS_WRITER)
    if number not in _NO_SPACE and not is_torchs:
        return None
    return _NO_SPACE.get(number or 0, "a write failed")


def peak_memory_bytes(device: str) -> int:
    """Of this process: resident memory on a CPU, allocated device memory on a GPU."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
