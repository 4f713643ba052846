"""A vLLM server with the OpenAI API for one model, and adapters of it. A service: the engine starts and watches it.

The same command for vLLM's CUDA and CPU builds.
"""

import json
import os
import sys
from collections.abc import Hashable
from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipeline import machine
from pipeline.artifact import Artifact
from pipeline.stage import Resources
from pipeline.strict import LocalPath, StrictModel
from stages._serving.names import served_model_name
from stages._serving.settings import Dtype, EngineName, Numerics

VERSION = 1

startup_timeout_seconds = 1800.0
"""Large models load for minutes; a server that ends is noticed at once."""
key_variable = "VLLM_API_KEY"

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM accepts as `--max-lora-rank`."""
OURS = (
    "--host", "--port", "--model", "--served-model-name", "--api-key", "--dtype", "--max-model-len", "--max-num-seqs",
    "--tensor-parallel-size", "--gpu-memory-utilization", "--enforce-eager", "--enable-lora", "--lora-modules",
    "--lora-target-modules", "--max-lora-rank", "--max-loras", "--logprobs-mode",
)  # fmt: skip


class Config(StrictModel):
    """Engine, dtype, length and further arguments can change answers; the rest changes speed and memory."""

    engine: EngineName = "vllm"
    """`transformers` answers in the asking process, one prompt at a time: no server, slow, to check vLLM by."""
    dtype: Dtype = "auto"
    max_model_len: Annotated[int, Field(ge=16)] = 2048
    adapters: Literal["merged", "lora"] = "merged"
    """`lora` serves every trained adapter of the recipe on one base, without merging: one server for all, but on CPU a
    third of the speed."""
    enforce_eager: bool | None = None
    """Without compilation; by default so on CPU, where compiling costs minutes and the decoder gains little."""
    max_num_seqs: Annotated[int, Field(ge=1)] = 128
    """Sequences decoded together."""
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    cpu_kv_cache_gib: Annotated[int, Field(ge=1)] = 2
    """Memory for keys and values on CPU."""
    python: LocalPath | None = None
    """The interpreter of another environment that has vLLM; by default this one."""
    extra_arguments: tuple[str, ...] = Field((), strict=False)
    """Further words of the server's command line, such as ["--quantization", "fp8"]."""
    hang_timeout_seconds: Annotated[float, Field(gt=0)] = 300.0
    """A server that has requests and writes no token for so long is restarted."""

    @field_validator("extra_arguments")
    @classmethod
    def _says_nothing_twice(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        taken = sorted({word.partition("=")[0] for word in words} & {*OURS})
        if taken:
            raise ValueError(f"found {', '.join(taken)}, which the pipeline sets itself; use the fields of `serve`")
        return words

    def numerics(self) -> Numerics:
        """The part of these settings that identifies answers."""
        return Numerics(
            engine=self.engine,
            dtype=self.dtype,
            max_model_len=self.max_model_len,
            extra_arguments=self.extra_arguments,
        )


class Inputs(StrictModel):
    """The model to serve, in the hub's layout, and plain LoRA adapters of it, by any name."""

    model: Artifact
    adapters: dict[str, Artifact] = {}


def preflight(config: Config, resources: Resources, known: dict[str, Artifact]) -> list[str]:
    """Whether the interpreter is there and has vLLM, seen from the machine where it will be."""
    from stages._serving.builds import vllm_build

    if not machine.is_here():
        return []
    if config.python and not config.python.is_file():
        return [f"serve.python: found nothing at {config.python}, expected a Python interpreter"]
    if vllm_build(config.python) is None:
        return [f"serve.python: {config.python or sys.executable} has no vLLM; install it there, or name another one"]
    return []


def model_name(inputs: Inputs) -> str:
    """The name in /v1/models, unique for these weights."""
    return served_model_name(inputs.model.fingerprint)


def command(config: Config, inputs: Inputs, resources: Resources, port: int) -> list[str]:
    """The server's command line."""
    eager = config.enforce_eager if config.enforce_eager is not None else _is_on_cpu(config)
    gpu = [] if _is_on_cpu(config) else ["--gpu-memory-utilization", str(config.gpu_memory_utilization)]
    return [
        *(str(config.python or sys.executable), "-m", "vllm.entrypoints.openai.api_server"),
        *("--host", resources.host, "--port", str(port)),
        *("--model", str(inputs.model.path), "--served-model-name", model_name(inputs)),
        *("--dtype", config.dtype, "--max-model-len", str(config.max_model_len)),
        *("--max-num-seqs", str(config.max_num_seqs)),
        *("--tensor-parallel-size", str(config.tensor_parallel_size)),
        *("--logprobs-mode", "raw_logprobs"),  # of the model, before anything that a request asks for is applied
        *gpu,
        *(["--enforce-eager"] if eager else []),
        *_lora_arguments(inputs.adapters),
        "--disable-uvicorn-access-log",
        *config.extra_arguments,
    ]


def environment(config: Config, inputs: Inputs, resources: Resources) -> dict[str, str]:
    """Offline, silent, and on CPU with a thread on every core."""
    common = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    return {**common, **(_cpu_environment(config, resources) if _is_on_cpu(config) else {})}


def pulse(url: str, key: str | None, timeout_seconds: float) -> Hashable | None:
    """Changes whenever the server works on something; None while it has nothing to do.

    Raises OSError or ValueError when it does not answer.
    """
    from stages._serving.pulse import read_pulse

    return read_pulse(url, key, timeout_seconds)


def _is_on_cpu(config: Config) -> bool:
    from stages._serving.builds import vllm_build

    return vllm_build(config.python) == "cpu"


def _lora_arguments(adapters: dict[str, Artifact]) -> list[str]:
    """Each adapter under a name of its own; vLLM keeps memory for the largest rank among them."""
    if not adapters:
        return []
    modules = [
        json.dumps({"name": served_model_name(each.fingerprint), "path": str(each.path)}) for each in adapters.values()
    ]
    configs = [json.loads((each / "adapter_config.json").read_text()) for each in adapters.values()]
    largest = max(rank for config in configs for rank in (config["r"], *config.get("rank_pattern", {}).values()))
    targets = {name.rpartition(".")[2] for config in configs for name in config["target_modules"]}
    return [
        *("--enable-lora", "--max-loras", str(len(adapters))),
        *("--max-lora-rank", str(next(rank for rank in LORA_RANKS if rank >= largest))),
        # Without names, vLLM wraps the output layer too, and log-likelihoods of prompts break there (vllm#16668).
        *("--lora-target-modules", *sorted(targets)),
        *("--lora-modules", *modules),
    ]


def _cpu_environment(config: Config, resources: Resources) -> dict[str, str]:
    """VLLM's own choice leaves one core idle for its scheduler, which on two cores is half of the machine."""
    cores = sorted(os.sched_getaffinity(0))[: resources.num_threads or machine.cpu_count()]
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(config.cpu_kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
    }
