"""Which prompt template to use, as written in a recipe."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.strict import StrictModel

PAPER = """\
{%- if messages[0].role == 'system' -%}
{{ messages[0].content }}
{%- else -%}
Below is an instruction that describes a task. Write a response that appropriately completes the request.
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{{ '\\n\\n### Instruction:\\n' + message.content }}
{%- elif message.role == 'assistant' -%}
{{ '\\n\\n### Response:' + message.content + eos_token }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '\\n\\n### Response:' }}
{%- endif -%}
"""
PAPER_STOP = ("\n\n### Instruction:",)


class Paper(StrictModel):
    """The instruction prompt of the paper's reference implementation, extended to several turns."""

    kind: Literal["paper"]


class Chat(StrictModel):
    """The chat template that comes with the model's tokenizer."""

    kind: Literal["chat"]


class Jinja(StrictModel):
    """A chat template written in the recipe."""

    kind: Literal["jinja"]
    text: str = Field(min_length=1)
    """Jinja over `messages`, `add_generation_prompt`, `bos_token`, `eos_token`."""
    stop: tuple[str, ...] = ()
    """Further texts that end an answer in evaluation."""


Prompt = Annotated[Paper | Chat | Jinja, Field(discriminator="kind")]
