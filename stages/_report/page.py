"""The HTML page: gathers what each section shows and fills the template.

The template escapes everything; only figures drawn here and the page's own style and script go in as they are.
A content security policy with the script's hash keeps even a mistake in that from running a model's words.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stages._report import format as show
from stages._report import scores, sections
from stages._report.graph import NODE_HEIGHT, NODE_WIDTH, draw
from stages._report.items import browser_data, embedded_json
from stages._report.read import Step
from stages._report.results import Results
from stages._report.summary import count_kinds

FOLDER = Path(__file__).parent


def write_page(title: str, description: str, notes: Sequence[str], steps: Mapping[str, Step], results: Results) -> str:
    """The whole of report.html."""
    script = (FOLDER / "browser.js").read_text()
    template = _environment().get_template("page.html")
    return template.render(
        title=title,
        description=description,
        notes=notes,
        results=results,
        several_models=len(results.models) > 2,
        count_kinds=count_kinds(results),
        headlines=scores.headlines(results),
        facts=sections.facts(steps),
        strip=scores.strip,
        of_key=show.of_key,
        graph=draw(steps),
        node_size=(NODE_WIDTH, NODE_HEIGHT),
        training=sections.training(steps),
        initialisation=sections.initialisation(steps),
        merge=sections.merge(steps),
        costs=sections.costs(steps),
        steps=list(steps.values()),
        provenance=sections.provenance(steps),
        style=Markup((FOLDER / "style.css").read_text()),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        items=Markup(embedded_json(browser_data(results))),
    )


def _environment() -> Environment:
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    numbers = (show.number, show.signed, show.p_value, show.general, show.grouped)
    for function in (*numbers, show.seconds, show.clock, show.size, show.short, show.moment, _pretty):
        environment.filters[function.__name__.lstrip("_")] = function
    return environment


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
