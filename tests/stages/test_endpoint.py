"""An endpoint: what it is sent, how its failures and refusals end, and that its key stays out of everything."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import StepFailed, UserError
from pipeline.stage import Resources, Workspace
from stages import generate
from stages._serving.endpoint import Endpoint, EndpointClient, Pace
from stages._serving.prompt import Prompt
from stages._serving.respondent import endpoint_respondent
from stages.benchmarks import humaneval, mt_bench
from tests.stages.scripted_server import Script, serving

QUESTIONS = mt_bench.Config(name="mt_bench", questions="demo", limit=1, max_tokens=8)


def _chat(text: str, finish_reason: str = "stop", **message: Any) -> tuple[int, dict[str, Any]]:
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish_reason}
    return 200, {"model": "dated-model", "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}


def _generate(endpoint: Endpoint, out: Workspace, benchmark: Any = QUESTIONS, **resources: Any) -> dict[str, Any]:
    config = generate.Config(benchmark=benchmark, endpoint=endpoint)
    return generate.run(config, generate.Inputs(), out, Resources(store_dir=out / ".store", **resources))


def _answers(out: Workspace) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]


def test_a_chat_endpoint_gets_the_conversation_and_is_asked_once(workspace: Workspace):
    script = Script("any", lambda body: _chat(f"answer {len(script.bodies)}"))
    with serving(script) as url:
        endpoint = Endpoint(url=f"{url}/v1", model="gpt-0")
        assert _generate(endpoint, workspace)["num_asked"] == 2
        assert _generate(endpoint, workspace)["num_asked"] == 0
    roles = [[message["role"] for message in body["messages"]] for body in script.bodies]
    assert roles == [["user"], ["user", "assistant", "user"]]
    assert script.bodies[1]["messages"][1]["content"] == "answer 1"
    assert {"model", "max_tokens", "temperature", "top_p", "seed"} <= script.bodies[0].keys()
    assert script.paths == ["/v1/chat/completions"] * 2


def test_the_key_is_sent_and_written_nowhere(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TEST_ENDPOINT_KEY", "planted-secret")
    script = Script("any", lambda body: _chat("fine"))
    with serving(script) as url:
        _generate(Endpoint(url=f"{url}/v1", model="gpt-0", api_key_variable="TEST_ENDPOINT_KEY"), workspace)
    assert {headers["Authorization"] for headers in script.headers} == {"Bearer planted-secret"}
    written = [file for file in workspace.path.rglob("*") if file.is_file()]
    assert written
    assert not any(b"planted-secret" in file.read_bytes() for file in written)


def test_a_missing_key_is_one_line_before_anything_is_asked(workspace: Workspace):
    endpoint = Endpoint(url="http://127.0.0.1:1/v1", model="gpt-0", api_key_variable="NOT_SET_ANYWHERE")
    with pytest.raises(UserError, match="NOT_SET_ANYWHERE is not set; export the key"):
        _generate(endpoint, workspace)
    config = generate.Config(benchmark=QUESTIONS, endpoint=endpoint)
    assert generate.preflight(config, Resources(), {}) == endpoint.problems()


def test_rate_limits_are_waited_out_as_asked(workspace: Workspace):
    script = Script("any", lambda body: (429, {"error": "slow down"}) if len(script.bodies) == 1 else _chat("fine"))
    script.reply_headers = {"Retry-After": "0.3"}
    with serving(script) as url:
        _generate(Endpoint(url=f"{url}/v1", model="gpt-0"), workspace)
    assert len(script.bodies) == 3


def test_an_endpoint_that_keeps_failing_ends_the_step(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stages._serving.endpoint.EndpointClient.__init__.__defaults__", (0.5,))
    with serving(Script("any", lambda body: (503, {}))) as url, pytest.raises(StepFailed, match="stopped answering"):
        _generate(Endpoint(url=f"{url}/v1", model="gpt-0"), workspace)


@pytest.mark.parametrize(
    "reply",
    [
        _chat("", "content_filter"),
        _chat("", refusal="I cannot help with that."),
        (400, {"error": {"code": "content_filter"}}),
    ],
)
def test_what_an_endpoint_declines_is_counted(reply: tuple[int, dict[str, Any]], workspace: Workspace):
    with serving(Script("any", lambda body: reply)) as url:
        metrics = _generate(Endpoint(url=f"{url}/v1", model="gpt-0"), workspace)
    assert metrics["num_refused"] == 2
    assert {row["finish_reason"] for row in _answers(workspace)} <= {"content_filter", "refusal"}


def test_another_refused_request_fails_at_once(workspace: Workspace):
    script = Script("any", lambda body: (401, {"error": "bad key"}))
    with serving(script) as url, pytest.raises(StepFailed, match="HTTP 401"):
        _generate(Endpoint(url=f"{url}/v1", model="gpt-0"), workspace)
    assert len(script.bodies) == 1


def test_an_answer_without_choices_is_no_answer(workspace: Workspace):
    with serving(Script("any", lambda body: (200, {"ok": True}))) as url, pytest.raises(StepFailed, match="choices"):
        _generate(Endpoint(url=f"{url}/v1", model="gpt-0"), workspace)


def test_a_chat_endpoint_cannot_continue_plain_text(workspace: Workspace):
    plain = humaneval.Config(name="humaneval", style="completion", limit=1)
    with serving(Script("any", lambda body: _chat("x"))) as url, pytest.raises(UserError, match="api: completions"):
        _generate(Endpoint(url=f"{url}/v1", model="gpt-0"), workspace, plain)


def test_a_completions_endpoint_continues_plain_text_and_has_no_template(workspace: Workspace, tmp_path: Path):
    plain = humaneval.Config(name="humaneval", style="completion", limit=1)
    reply = (200, {"choices": [{"text": "    pass", "finish_reason": "stop"}]})
    with serving(Script("any", lambda body: reply)) as url:
        endpoint = Endpoint(url=f"{url}/v1", model="gpt-0", api="completions")
        _generate(endpoint, workspace, plain)
        assert _answers(workspace)[0]["text"] == "    pass"
        with pytest.raises(UserError, match="api: chat"):
            _generate(endpoint, workspace)


def test_likelihoods_of_an_endpoint_are_summed_over_the_continuations_tokens():
    logprobs = {
        "text_offset": [0, 3, 7, 8],
        "token_logprobs": [None, -1.0, -0.5, -2.0],
        "top_logprobs": [None, {"x": -0.1}, {" b": -0.5}, {"c": -1.0}],
    }
    script = Script("any", lambda body: (200, {"choices": [{"text": "", "logprobs": logprobs}]}))
    prompt = Prompt(text="one two", scored=" b")
    completion = _ask_one(script, prompt)
    assert math.isclose(completion.loglikelihood, -2.5)
    assert completion.is_greedy is False
    assert script.bodies[0]["prompt"] == "one two b"
    assert script.bodies[0]["echo"] is True


def test_an_endpoint_without_likelihoods_says_so():
    script = Script("any", lambda body: (200, {"choices": [{"text": "x"}]}))
    with pytest.raises(StepFailed, match="gave no log-probabilities"):
        _ask_one(script, Prompt(text="one", scored=" two"))


def _ask_one(script: Script, prompt: Prompt) -> Any:
    import asyncio

    async def ask(url: str) -> Any:
        endpoint = Endpoint(url=f"{url}/v1", model="gpt-0", api="completions")
        async with EndpointClient(endpoint, Resources()) as client:
            return await client.loglikelihood(prompt)

    with serving(script) as url:
        return asyncio.run(ask(url))


def test_requests_are_spaced_to_the_accounts_limit():
    import asyncio
    import time

    async def three() -> float:
        pace, started = Pace(per_minute=1200), time.monotonic()
        for _ in range(3):
            await pace.wait()
        return time.monotonic() - started

    assert asyncio.run(three()) >= 0.1


def test_where_the_key_is_kept_is_not_the_models_identity():
    one = Endpoint(url="https://a.example/v1", model="m", api_key_variable="A")
    assert one.fingerprint == one.model_copy(update={"api_key_variable": "B"}).fingerprint
    assert one.fingerprint != one.model_copy(update={"model": "n"}).fingerprint
    assert endpoint_respondent(one.model_copy(update={"api_key_variable": None}), Resources()).fingerprint
