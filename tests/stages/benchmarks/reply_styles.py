"""The forms in which models answer a HumanEval prompt: each turns a right solution into a reply that holds it."""

import re
import textwrap
from collections.abc import Callable

Style = Callable[[str, str, str], str]
"""(prompt, body that continues it, name of the function) -> reply."""

FAILS = "assert {name} is None, 'an example that was never meant to run'"
BROKEN = "def {name}(*args):\n    return None\n"


def function(prompt: str, body: str, name: str) -> str:
    """Without the imports and helpers of the prompt."""
    return prompt[prompt.index(f"def {name}(") :] + body


def fenced(code: str, language: str = "python", mark: str = "```") -> str:
    return f"{mark}{language}\n{code.rstrip()}\n{mark}"


def tabs(code: str) -> str:
    """Code that is indented by multiples of four."""
    if any(len(indent) % 4 for indent in re.findall(r"^ +(?=\S)", code, re.MULTILINE)):
        return code
    return re.sub(r"^(?: {4})+", lambda found: "\t" * (len(found[0]) // 4), code, flags=re.MULTILINE)


def without_docstring(prompt: str, body: str, name: str) -> str:
    return re.sub(r"^ *(\"{3}|'{3}).*?\1\n", "", function(prompt, body, name), count=1, flags=re.MULTILINE | re.DOTALL)


WHOLE: dict[str, Style] = {
    "python": lambda p, b, n: fenced(p + b),
    "py": lambda p, b, n: fenced(p + b, "py"),
    "python3": lambda p, b, n: fenced(p + b, "python3"),
    "Python with attributes": lambda p, b, n: fenced(p + b, 'Python title="answer.py" {.line}'),
    "no language": lambda p, b, n: fenced(p + b, ""),
    "tildes": lambda p, b, n: fenced(p + b, "python", "~~~"),
    "four backticks": lambda p, b, n: fenced(p + b, "python", "````"),
    "prose around": lambda p, b, n: f"Sure! Here is it:\n\n{fenced(p + b)}\n\nIt works since 1 = 1. Hope it helps!",
    "unclosed": lambda p, b, n: f"Sure!\n\n```python\n{p}{b}",
    "closed behind the code": lambda p, b, n: f"Sure!\n```python\n{(p + b).rstrip()}```\nDone.",
    "function without the prompt's imports": lambda p, b, n: fenced(function(p, b, n)),
    "function without docstring": lambda p, b, n: fenced(without_docstring(p, b, n)),
    "usage after": lambda p, b, n: f"{fenced(p + b)}\nUse it so:\n{fenced(f'x = 3{chr(10)}print({n}(x))')}",
    "usage before": lambda p, b, n: f"It is used so:\n{fenced(f'print({n}(1))')}\nCode:\n{fenced(p + b)}",
    "shell before": lambda p, b, n: f"{fenced('pip install numpy', 'bash')}\nThen:\n{fenced(p + b)}",
    "imported in a longer fence": lambda p, b, n: (
        f"answer.py:\n{fenced(p + b)}\ntest.py:\n{fenced(f'from answer import {n}' + f'{chr(10)}x = {n}(1)' * 200)}"
    ),
    "output after": lambda p, b, n: f"{fenced(p + b)}\nOutput:\n{fenced('[1, 2, 3]', '')}",
    "prompt restated in a fence": lambda p, b, n: f"The task:\n{fenced(p)}\nThe answer:\n{fenced(function(p, b, n))}",
    "tests in the same fence": lambda p, b, n: fenced(f"{p}{b}\n\nprint('hi')\n{FAILS.format(name=n)}"),
    "main in the same fence": lambda p, b, n: fenced(
        f"{p}{b}\n\nif __name__ == '__main__':\n    {FAILS.format(name=n)}"
    ),
    "asks for input": lambda p, b, n: fenced(f"{p}{b}\n\nresult = {n}(input())\nprint(result)"),
    "unit tests after": lambda p, b, n: fenced(
        f"{p}{b}\n\nimport unittest\n\nclass TestIt(unittest.TestCase):\n"
        f"    def test(self):\n        {FAILS.format(name=n)}\n\nunittest.main()"
    ),
    "cut in the tests": lambda p, b, n: f"```python\n{p}{b}\n\ndef test():\n    assert {n}(",
    "cut in a string": lambda p, b, n: f'```python\n{p}{b}\n\nprint("""The result is',
    "no fence": lambda p, b, n: p + b,
    "no fence, prose around": lambda p, b, n: f"Here is the code.\n\n{p}{b}\n\nThis is O(n), as it's one loop.",
    "no fence, cut": lambda p, b, n: f"Here's the code:\n\n{p}{b}\nassert {n}([1, 2",
    "indented as Markdown code": lambda p, b, n: f"The code:\n\n{textwrap.indent(p + b, '    ')}\n\nDone.",
    "fence in a list": lambda p, b, n: f"1. So:\n\n{textwrap.indent(fenced(p + b), '   ')}\n\n2. Done.",
    "CRLF": lambda p, b, n: f"Sure:\n\n{fenced(p + b)}\n\nDone.".replace("\n", "\r\n"),
    "tabs": lambda p, b, n: fenced(tabs(p + b)),
    "not ASCII": lambda p, b, n: f"Natürlich – voilà 😀:\n{fenced(f'# größer als π 😀{chr(10)}{p}{b}')}\n完了。",
    "thoughts with a longer draft": lambda p, b, n: (
        f"<think>Perhaps:\n{fenced(BROKEN.format(name=n) + ('x = 1' + chr(10)) * 200)}\nNo.</think>\n{fenced(p + b)}"
    ),
    "twice, broken the second time": lambda p, b, n: fenced(f"{p}{b}\n\n{BROKEN.format(name=n)}"),
    "calls a helper from another fence": lambda p, b, n: (
        f"{fenced('def same(f): return f')}\nand\n{fenced(f'{p}{b}{chr(10)}{n} = same({n})')}"
    ),
    "future import": lambda p, b, n: fenced(f"from __future__ import annotations\n\n{p}{b}"),
    "optional import": lambda p, b, n: fenced(
        f"try:\n    import not_there as there\nexcept ImportError:\n    there = None\n\n{p}{b}\n\nassert there"
    ),
    "tagged": lambda p, b, n: f"[PYTHON]\n{p}{b}\n[/PYTHON]\n[TESTS]\n{FAILS.format(name=n)}\n[/TESTS]",
}
"""Replies that hold the whole function."""

BODY: dict[str, Style] = {
    "body": lambda p, b, n: b,
    "body, then the fence ends": lambda p, b, n: f"{b.rstrip()}\n```\nThis works.",
    "body, then a test": lambda p, b, n: f"{b}\n\n{FAILS.format(name=n)}\n",
    "body, then main": lambda p, b, n: f"{b}\nif __name__ == '__main__':\n    {FAILS.format(name=n)}\n",
    "body, then other functions": lambda p, b, n: f"{b}\n\ndef other(x):\n    return x\n\n\nother({n})\nother(",
    "body, then itself": lambda p, b, n: f"{b}\n\n{BROKEN.format(name=n)}",
    "body, then an import that fails": lambda p, b, n: f"{b}\n\nfrom solution import {n}\n\nprint({n})",
    "body, then prose": lambda p, b, n: f"{b}\n\nThis function isn't slow.",
    "body in a fence": lambda p, b, n: f"Continue it so:\n{fenced(b)}",
    "body in a fence, not indented": lambda p, b, n: f"Continue it so:\n{fenced(textwrap.dedent(b))}",
    "body, first line not indented": lambda p, b, n: b.lstrip(),
    "body, not indented": lambda p, b, n: textwrap.dedent(b),
    "body with tabs": lambda p, b, n: tabs(b),
    "CRLF body": lambda p, b, n: b.replace("\n", "\r\n"),
}
"""Replies that continue the prompt."""

STYLES = WHOLE | BODY
