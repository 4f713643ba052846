"""Launch agents: the command of every node, and that the death of one process is the death of all, with its reason.

Toy processes stand where training would: what an agent does is the same for both. test_train.py has the real ones.
"""

import json
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipeline.errors import StepFailed, UserError
from pipeline.guard import guarded
from pipeline.stage import Resources
from stages import train
from stages._training import agent, launch, layout, nodes
from stages._training.spec import TrainSpec

RESOURCES = Resources(device="cpu", num_processes=2, num_threads=1)
LOOPBACK = Resources(device="cpu", num_processes=1, num_threads=1, nodes=["localhost", "localhost"])
SLEEP = "import time; time.sleep(60)"
RESULT = "(folder / '.result.json').write_text('{}')"


@pytest.fixture
def spec(tmp_path, tiny_model_dir, tiny_tokens_dir) -> TrainSpec:
    return TrainSpec(
        config=train.Config(per_device_batch_size=2),
        model_dir=tiny_model_dir,
        tokens_dir=tiny_tokens_dir,
        adapter_dir=tmp_path,
        keep_last=2,
        keep_best=0,
        out_dir=tmp_path,
        device="cpu",
        num_threads=1,
        accumulation=1,
        per_device_batch_size=2,
    )


@pytest.fixture
def run(spec, monkeypatch) -> Callable[[list[str], Resources], None]:
    """Run toy ranks with these roles."""
    monkeypatch.setattr(nodes, "WORKER", "tests.stages.toy_rank")

    def run(roles: list[str], resources: Resources) -> None:
        (spec.out / "roles.json").write_text(json.dumps(dict(enumerate(roles))))
        launch.run_workers("train", spec, resources)

    return run


def ready(folder: Path, rank: int) -> dict[str, str]:
    """What a rank left when it started."""
    file, deadline = folder / f"ready-{rank}.json", time.monotonic() + 30
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return json.loads(file.read_text())


def assert_nothing_is_left(folder: Path) -> None:
    words = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert not [each for each in words if any(str(folder) in word for word in each)]


# ---- command lines


def test_the_number_of_processes_is_per_node():
    assert layout.num_processes(LOOPBACK) == 2 == layout.processes_here(LOOPBACK)
    far = Resources(device="cpu", num_processes=4, nodes=["a", "b", "c"])
    assert layout.num_processes(far) == 12
    assert layout.share_here(far) == pytest.approx(1 / 3)
    assert layout.num_nodes(Resources(), {"SLURM_JOB_NUM_NODES": "3"}) == 3
    assert layout.num_nodes(LOOPBACK, {"SLURM_JOB_NUM_NODES": "3"}) == 2
    (line,) = layout.problems(train.Config(global_batch_size=4), layout.num_processes(far))
    assert "the 12 processes" in line


def test_one_node_is_one_guarded_agent():
    words = nodes.command(Path("spec.json"), 2)
    assert words[:3] == guarded(["x"])[:3]
    assert words[6:] == [sys.executable, "-m", "stages._training.agent", "--processes=2", nodes.WORKER, "spec.json"]


def test_other_nodes_are_reached_over_ssh(tmp_path):
    file = tmp_path / "spec.json"
    file.write_text("{}")
    resources = Resources(device="cpu", num_processes=4, nodes=["a", "b"])
    environment = {"PYTHONPATH": "/project dir", "NCCL_DEBUG": "INFO", "SECRET": "x"}
    first, second = nodes.commands(file, resources, environment, "a:1234")
    digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    options = ["--nodes=2", "--processes=4", "--master=a:1234", f"--sha256={digest}"]
    here = [sys.executable, "-m", "stages._training.agent", *options]
    assert first.words[6:] == [*here, "--node-rank=0", nodes.WORKER, str(file)]
    assert second.words[6:10] == ["ssh", "-o", "BatchMode=yes", "b"]
    remote = shlex.split(second.words[10])
    assert remote[:5] == ["cd", str(nodes.PROJECT), "&&", "exec", "env"]
    assert remote[5:7] == ["NCCL_DEBUG=INFO", "PYTHONPATH=/project dir"]
    assert remote[7:12] == [*guarded(["x"])[:4], "--"]
    assert remote[12:] == [*here, "--node-rank=1", "--end-with-input", nodes.WORKER, str(file)]


def test_in_an_allocation_of_several_nodes_srun_starts_the_agents(tmp_path, monkeypatch):
    file = tmp_path / "spec.json"
    file.write_text("{}")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "3")
    environment = {"SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_CPUS_PER_NODE": "8(x2),4"}
    (only,) = nodes.commands(file, Resources(device="cpu", num_processes=4), environment, ":1234")
    *srun, python = only.words[6 : only.words.index("-m")]
    golden = "srun --nodes=3 --ntasks=3 --ntasks-per-node=1 --cpus-per-task=4"
    always = "--mem=0 --overlap --export=ALL --kill-on-bad-exit=1"
    assert srun == [*golden.split(), *always.split(), f"--chdir={nodes.PROJECT}"]
    assert python == sys.executable
    agents = only.words[only.words.index("-m") + 1 :]
    assert agents[:4] == ["stages._training.agent", "--nodes=3", "--processes=4", "--master=:1234"]
    assert agents[5:] == ["--end-with-input", "--linger=1.0", nodes.WORKER, str(file)]


def test_a_reserved_port_is_nobody_elses_but_rank_0_can_listen():
    reserved = agent.reserve_port()
    port = reserved.getsockname()[1]
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    with socket.socket(socket.AF_INET6) as rank_0:
        rank_0.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rank_0.bind(("::", port))
        rank_0.listen()
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    reserved.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": ["192.0.2.1", "localhost"]}, "the first node must be this machine"),
        ({"rendezvous_port": 1}, None),
    ],
)
def test_a_meeting_that_cannot_be_is_refused(change, message):
    resources = LOOPBACK.model_copy(update=change)
    if message is None:  # a port that is taken
        taken = socket.create_server(("127.0.0.1", 0))
        resources = LOOPBACK.model_copy(update={"rendezvous_port": taken.getsockname()[1]})
        message = "must be free"
    with pytest.raises(UserError, match=message):
        nodes.reserve_master(resources, {})


# ---- agents at work


@pytest.mark.parametrize("resources", [RESOURCES, LOOPBACK])
def test_every_rank_knows_its_place(resources, run, tmp_path, capfd):
    run([RESULT, "print('done')"], resources)
    first, second = ready(tmp_path, 0), ready(tmp_path, 1)
    assert (first["RANK"], second["RANK"]) == ("0", "1")
    assert first["WORLD_SIZE"] == second["WORLD_SIZE"] == "2"
    per_node = layout.processes_per_node(resources)
    assert first["LOCAL_WORLD_SIZE"] == str(per_node)
    assert second["LOCAL_RANK"] == str(per_node - 1)
    assert (first["MASTER_ADDR"], first["MASTER_PORT"]) == (second["MASTER_ADDR"], second["MASTER_PORT"])
    assert {"rank 0 says hello", "rank 1 says hello", "done"} <= set(capfd.readouterr().out.splitlines())


@pytest.mark.parametrize("resources", [RESOURCES, LOOPBACK])
def test_a_rank_that_fails_ends_all_and_its_last_lines_are_in_the_message(resources, run, tmp_path):
    began = time.monotonic()
    with pytest.raises(StepFailed) as failure:
        run([SLEEP, "import time; time.sleep(0.2); print('so it was'); 1 / 0"], resources)
    assert time.monotonic() - began < 15
    assert f"train: rank 1 on {socket.gethostname()} ended with code 1" in str(failure.value)
    assert "so it was" in str(failure.value) and "ZeroDivisionError" in str(failure.value)
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("resources", [RESOURCES, LOOPBACK])
def test_a_killed_rank_or_agent_ends_all(resources, run, tmp_path):
    killer = threading.Thread(target=lambda: os.kill(int(ready(tmp_path, 1)["pid"]), signal.SIGKILL))
    killer.start()
    with pytest.raises(StepFailed, match=r"rank 1 on .* was killed by SIGKILL"):
        run([SLEEP, SLEEP], resources)
    killer.join()
    assert_nothing_is_left(tmp_path)
    for file in tmp_path.glob("ready-*"):
        file.unlink()

    def kill_agent() -> None:
        ready(tmp_path, 0)
        os.kill(psutil.Process(int(ready(tmp_path, 1)["pid"])).ppid(), signal.SIGKILL)

    killer = threading.Thread(target=kill_agent)
    killer.start()
    with pytest.raises(StepFailed, match=r"the launch agent on .* ended with code 137"):
        run([SLEEP, SLEEP], resources)
    killer.join()
    assert_nothing_is_left(tmp_path)


@pytest.fixture
def ssh(tmp_path_factory, monkeypatch) -> None:
    """In place of ssh: a shell on this machine with a bare environment, given one string of words and our input."""
    folder = tmp_path_factory.mktemp("ssh")
    script = '#!/bin/sh\n[ "$1 $2" = "-o BatchMode=yes" ] || exit 9\nexec env -i PATH=/usr/bin:/bin sh -c "$4"\n'
    (folder / "ssh").write_text(script)
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.usefixtures("ssh")
def test_the_command_for_another_machine_works_in_a_bare_shell(run, tmp_path):
    far = LOOPBACK.model_copy(update={"nodes": ["localhost", "elsewhere"]})
    run([RESULT, "print('done')"], far)
    assert ready(tmp_path, 1)["OMP_NUM_THREADS"] == "1"
    with pytest.raises(StepFailed, match=r"rank 1 on .* ended with code 7"):
        run([SLEEP, "sys.exit(7)"], far)
    assert_nothing_is_left(tmp_path)
    began = time.monotonic()
    with pytest.raises(StepFailed, match=r"rank 0 on .* ended with code 7"):
        run(["ready = folder / 'ready-1.json'; sys.exit(7)", SLEEP], far)
    assert time.monotonic() - began < 10
    assert_nothing_is_left(tmp_path)


def test_a_node_that_does_not_see_the_store_is_named(run, spec, monkeypatch):
    monkeypatch.setattr(agent, "sha256", lambda _: "of the file as the first node sees it")
    with pytest.raises(UserError, match=r"does not see .*spec.json as it was written .* shared file system"):
        run([SLEEP, SLEEP], LOOPBACK)
    assert_nothing_is_left(spec.out_dir)


def test_the_kernel_killing_for_memory_is_told_with_sizes(spec, monkeypatch):
    from stages._training import trouble

    death = {"rank": 1, "host": "h", "code": -9, "ended_at": 1.0, "peak_memory_bytes": 2**31, "tail": []}
    followed = {**death, "rank": 0, "code": 1, "ended_at": 1.1, "killed_for_memory": False}
    with pytest.raises(StepFailed) as failure:
        trouble.explain("train", spec, [followed, {**death, "killed_for_memory": True}], [])
    text = str(failure.value)
    assert "out of memory: rank 1 on h was killed by the kernel; its peak before was 2.00 GiB" in text
    assert "Each of 2 processes takes 2 rows of at most 30 tokens at once, of a vocabulary of 64" in text
    assert "Use per_device_batch_size: 1 (now 2; the global batch stays the same)" in text
    assert "zero_stage: 3 (now 2)" in text
    least = spec.model_copy(
        update={
            "per_device_batch_size": 1,
            "config": spec.config.model_copy(update={"zero_stage": 3, "dtype": "bfloat16"}),
        }
    )
    assert "per_device_batch_size:" not in trouble.out_of_memory(least, {"out_of_memory": ""})
    assert "tokenize.max_length below 30" in trouble.out_of_memory(least, {"out_of_memory": ""})
