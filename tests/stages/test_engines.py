"""vLLM, transformers in this process and lm-eval's own backend say the same; an adapter is served beside its base."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifact import Artifact
from pipeline.process import Process
from pipeline.stage import Resources, Workspace
from stages import export_adapter, generate, serve
from stages._data.prompts import Chat
from stages._serving.settings import Numerics
from stages._serving.vllm_client import VllmClient
from stages.benchmarks import AnyBenchmark, lm_eval, mt_bench
from tests.stages.conftest import NUMBERS, artifact, write_tiny_model
from tests.stages.templates import write_template
from tests.stages.test_serve import free_port, wait
from tests.stages.trained_adapter import trained

TOLERANCE = 1e-4
"""In nats, between the log-likelihoods of two engines in float32."""
LENGTH = 192
SERVE = serve.Config(dtype="float32", max_model_len=LENGTH, max_num_seqs=8, cpu_kv_cache_gib=1)
IN_PROCESS = SERVE.model_copy(update={"engine": "transformers"})
WORDS = NUMBERS.split()
ROWS = [
    {
        "question": f"Ann has {word} apples . how many ?",
        "choices": {"text": [*WORDS[number : number + 3], "two pears left"], "label": ["A", "B", "C", "D"]},
        "answerKey": "ABCD"[number % 4],
    }
    for number, word in enumerate(WORDS[:6])
]
DOCUMENTS = [{"page": " ".join(WORDS * 20)}, {"page": "one apple"}]  # the first is longer than the context
CHOICE = ("allenai/ai2_arc", "arc_easy", "ARC-Easy", ROWS)
DOCUMENT = ("EleutherAI/wikitext_document_level", "wikitext", "wikitext-2-raw-v1", DOCUMENTS)


class Served:
    """A tiny model with a trained adapter, and one server for both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_tiny_model(folder / "model", num_attention_heads=2, num_key_value_heads=1)
        manifest = {"config": {"source": {"kind": "local", "path": "tiny"}}}
        (folder / "model" / "manifest.json").write_text(json.dumps(manifest))
        self.model = artifact(folder / "model", "prepare_model")
        (folder / "template").mkdir()
        self.template = artifact(write_template(Chat(kind="chat"), self.model.path, folder / "template"), "tokenize")
        self.adapter = self._export()
        self.url = ""

    def _export(self) -> Artifact:
        sources = trained(self.model, self.folder, "nlora", nudge=0.5, rank=4)
        (self.folder / "adapter").mkdir()
        inputs = export_adapter.Inputs(
            model=self.model,
            init=artifact(sources.init_dir, "init_adapter"),
            trained=artifact(sources.trained_dir, "train"),
        )
        out = Workspace(self.folder / "adapter")
        metrics = export_adapter.run(export_adapter.Config(), inputs, out, Resources(device="cpu", num_threads=1))
        assert metrics["rank"] == 8
        return artifact(out.path, "export_adapter", "1" * 64)

    def start(self) -> Process:
        inputs = serve.Inputs(model=self.model, adapters={"math": self.adapter})
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = serve.command(SERVE, inputs, Resources(), port)
        return Process(command, self.folder / "server.log", serve.environment(SERVE, inputs, Resources()))

    def answers(
        self, benchmark: AnyBenchmark, numerics: Numerics, out: Path, adapter: Artifact | None = None
    ) -> list[dict[str, Any]]:
        out.mkdir()
        config = generate.Config(benchmark=benchmark, serve=numerics)
        inputs = generate.Inputs(model=self.model, adapter=adapter, template=self.template)
        resources = Resources(device="cpu", num_threads=1, server_url=self.url, store_dir=out)
        generate.run(config, inputs, Workspace(out), resources)
        return [json.loads(line) for line in (out / "answers.jsonl").open()]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("served"))
    process = made.start()
    try:
        wait(made.url, process)
        yield made
    finally:
        process.stop(grace_seconds=10)
        process.close()


def _task(given: tuple[str, str, str, list[dict[str, Any]]], folder: Path, use_template: bool) -> lm_eval.Config:
    name, task, subset, rows = given
    (folder / subset).mkdir(parents=True)
    for split in ("train", "validation", "test"):
        (folder / subset / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lm_eval.Config(name="lm_eval", task=task, use_template=use_template, data={name: folder})


@pytest.mark.slow
@pytest.mark.parametrize(("use_template", "num_fewshot"), [(True, 0), (False, 0), (False, 5)])
@pytest.mark.parametrize("with_adapter", [False, True])
def test_likelihoods_of_choices_agree(
    with_adapter: bool, use_template: bool, num_fewshot: int, served: Served, tmp_path: Path, by_step: list[int]
):
    """With worked examples, short choices are scored token by token after the shared context."""
    task = _task(CHOICE, tmp_path / "data", use_template).model_copy(update={"num_fewshot": num_fewshot})
    adapter = served.adapter if with_adapter else None
    ours = served.answers(task, SERVE.numerics(), tmp_path / "vllm", adapter)
    assert len(ours) == 4 * len(ROWS)
    assert len(by_step) == (3 * len(ROWS) if num_fewshot else 0)
    _agree(ours, served.answers(task, IN_PROCESS.numerics(), tmp_path / "transformers", adapter))


@pytest.fixture
def by_step(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens were scored each time that this was done one by one."""
    seen: list[int] = []
    original = VllmClient._by_step

    async def counting(self: VllmClient, ids: tuple[int, ...], num_scored: int) -> Any:
        seen.append(num_scored)
        return await original(self, ids, num_scored)

    monkeypatch.setattr(VllmClient, "_by_step", counting)
    return seen


@pytest.mark.slow
def test_an_adapter_is_not_its_base(served: Served, tmp_path: Path):
    task = _task(CHOICE, tmp_path / "data", use_template=False)
    base = served.answers(task, SERVE.numerics(), tmp_path / "base")
    tuned = served.answers(task, SERVE.numerics(), tmp_path / "tuned", served.adapter)
    moved = [abs(b["loglikelihood"] - a["loglikelihood"]) for a, b in zip(base, tuned, strict=True)]
    assert min(moved) > 10 * TOLERANCE


@pytest.mark.slow
def test_likelihoods_of_documents_agree(served: Served, tmp_path: Path):
    """In windows of the context's length."""
    task = _task(DOCUMENT, tmp_path / "data", use_template=False)
    ours = served.answers(task, SERVE.numerics(), tmp_path / "vllm")
    assert ours[0]["num_prompt_tokens"] > LENGTH > ours[1]["num_prompt_tokens"]
    _agree(ours, served.answers(task, IN_PROCESS.numerics(), tmp_path / "transformers"))


@pytest.mark.slow
@pytest.mark.parametrize("given", [CHOICE, DOCUMENT], ids=["choices", "documents"])
def test_likelihoods_are_those_of_lm_evals_transformers_backend(given: Any, served: Served, tmp_path: Path):
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    from stages.benchmarks._lm_eval import lm_evals_tasks
    from stages.benchmarks._lm_eval_data import local_data

    task = _task(given, tmp_path / "data", use_template=False)
    ours = served.answers(task, SERVE.numerics(), tmp_path / "vllm")
    # ours leaves room for the token that a server generates beside the prompt
    backend = HFLM(str(served.model.path), device="cpu", dtype="float32", max_length=LENGTH - 2)
    with local_data(task.data, None, tmp_path):
        results: Any = simple_evaluate(backend, tasks=[task.task], task_manager=lm_evals_tasks(), bootstrap_iters=0)
    likelihoods = [
        response[0] if isinstance(response, tuple) else response
        for sample in results["samples"][task.task]
        for responses in sample["resps"]
        for response in responses
    ]
    assert [row["loglikelihood"] for row in ours] == pytest.approx(likelihoods, abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("with_adapter", [False, True])
def test_greedy_answers_agree(with_adapter: bool, served: Served, tmp_path: Path):
    questions = tmp_path / "questions.jsonl"
    rows = [{"question_id": n, "category": "math", "turns": [row["question"]]} for n, row in enumerate(ROWS)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = mt_bench.Config(name="mt_bench", questions=questions, max_tokens=12)
    adapter = served.adapter if with_adapter else None
    ours = served.answers(asked, SERVE.numerics(), tmp_path / "vllm", adapter)
    theirs = served.answers(asked, IN_PROCESS.numerics(), tmp_path / "transformers", adapter)
    kept = ("id", "text", "finish_reason", "num_prompt_tokens", "num_tokens")
    assert [{key: row[key] for key in kept} for row in ours] == [{key: row[key] for key in kept} for row in theirs]


def _agree(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert [row["id"] for row in ours] == [row["id"] for row in theirs]
    assert [row["is_greedy"] for row in ours] == [row["is_greedy"] for row in theirs]
    expected = [row["loglikelihood"] for row in theirs]
    assert [row["loglikelihood"] for row in ours] == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.slow
def test_the_server_has_a_pulse_while_it_works(served: Served, tmp_path: Path):
    questions = tmp_path / "questions.jsonl"
    rows = [{"question_id": n, "category": "math", "turns": [f"how many {n} ?"]} for n in range(60)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = mt_bench.Config(name="mt_bench", questions=questions, max_tokens=40)
    assert serve.pulse(served.url, None, 10.0) is None
    work = threading.Thread(target=served.answers, args=(asked, SERVE.numerics(), tmp_path / "out"))
    work.start()
    found = set()
    while work.is_alive():
        found.add(serve.pulse(served.url, None, 10.0))
    work.join()
    assert len(found - {None}) > 1
    assert serve.pulse(served.url, None, 10.0) is None
