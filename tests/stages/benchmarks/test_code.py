"""Code is found in the forms in which chat models give it."""

import pytest

from stages.benchmarks._code import extract_completion

PROMPT = 'from typing import List\n\ndef double(x: int) -> int:\n    """Twice x."""\n'


def _result(answer: str) -> int:
    completion = extract_completion(answer, "double")
    assert completion is not None
    namespace: dict = {}
    exec(PROMPT + completion, namespace)
    return namespace["double"](21)


@pytest.mark.parametrize(
    "answer",
    [
        "```python\ndef double(x):\n    return 2 * x\n```",
        "Sure!\n\n```\ndef double(x):\n    return 2 * x\n```\n\nThis doubles it.",
        "```python\nimport math\n```\nand then\n```python\ndef double(x):\n    return 2 * x\n```",
        "```python\ndef double(x):\n    return 2 * x\n\nprint(double(",  # cut off in the fence
        "def double(x):\n    return 2 * x",
        "Here is the code:\n\ndef double(x):\n    return 2 * x\n\nHope it helps!",
        "    return 2 * x",
        "```python\nreturn 2 * x\n```",
        "```python\ndef helper(x):\n    return x + x\n```\n```\ndef double(x):\n    return helper(x)\n```",
        "```python\ndef double(x):\n    return 2 * x\n\nprint(double(input()))\n```",
        "```python\ndef double(x):\n    return 2 * x\n```\nOr, wrongly:\n```python\ndef double(x):\n    return x\n```",
        "```py\nfrom typing import List\n\ndef double(x: int) -> int:\n    return 2 * x\n\nassert double(1) == 2\n```",
        "1. First:\n   ```python\n   x = 1\n   ```\n2. Then:\n```python\ndef double(x):\n    return 2 * x\n```",
    ],
)
def test_the_function_is_found(answer: str):
    assert _result(answer) == 42


@pytest.mark.parametrize(
    "answer", ["", "I cannot do that.", "```python\ndef double(x:\n```", "```text\nhello world\n```"]
)
def test_no_code_is_no_code(answer: str):
    assert extract_completion(answer, "double") is None
