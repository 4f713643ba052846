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
from stages._report import measured, scores, sections
from stages._report.categories import CENTRE as RADAR_CENTRE
from stages._report.categories import RADIUS as RADAR_RADIUS
from stages._report.categories import SIZE as RADAR_SIZE
from stages._report.categories import categories as find_categories
from stages._report.duels import duels as find_duels
from stages._report.graph import NODE_HEIGHT, NODE_WIDTH, draw
from stages._report.items import browser_data, embedded_json
from stages._report.parts import parts as find_parts
from stages._report.read import Step
from stages._report.results import Results

FOLDER = Path(__file__).parent


def write_page(title: str, description: str, notes: Sequence[str], steps: Mapping[str, Step], results: Results) -> str:
    """The whole of report.html."""
    script = (FOLDER / "browser.js").read_text()
    template = _environment().get_template("page.html")
    return template.render(
        title=title,
        description=description,
        notes=notes,
        steps=list(steps.values()),
        **_results(steps, results),
        facts=sections.facts(steps, results.models),
        of_key=show.of_key,
        graph=draw(steps),
        node_size=(NODE_WIDTH, NODE_HEIGHT),
        training=sections.training(steps),
        initialisation=sections.initialisation(steps),
        merge=sections.merge(steps),
        costs=sections.costs(steps),
        provenance=sections.provenance(steps),
        style=Markup((FOLDER / "style.css").read_text()),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        items=Markup(embedded_json(browser_data(results))),
    )


def _results(steps: Mapping[str, Step], results: Results) -> dict[str, Any]:
    """What the sections about scores and their measurement show."""
    duels, categories = find_duels(steps, results), find_categories(results)
    headline = [(score, comparison) for score, comparison in results.headline]
    return {
        "results": results,
        "several_models": len({each.tuned.model for each in results.comparisons}) > 1,
        "headlines": scores.headlines(results, duels),
        "leaderboard": scores.leaderboard(results),
        "compared": [comparison for _, comparison in headline if comparison],
        "alone": scores.alone(results, duels),
        "duels": duels,
        "matrices": scores.matrices(results),
        "parts": find_parts(results, [score for each in categories for score in each.scores]),
        "categories": categories,
        "radar_size": RADAR_SIZE,
        "radar_centre": RADAR_CENTRE,
        "radar_radius": RADAR_RADIUS,
        "methods": sorted({score.interval.method for score, _ in headline if score.interval}),
        "count_kinds": scores.count_kinds(results),
        "troubles": scores.troubles,
        "strip": scores.strip,
        "respondents": measured.respondents(steps, results),
        "measurements": measured.measurements(steps, results),
    }


def _environment() -> Environment:
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    numbers = (show.number, show.signed, show.interval, show.signed_interval, show.p_value, show.general, show.grouped)
    for function in (*numbers, show.seconds, show.clock, show.size, show.short, show.moment, _pretty):
        environment.filters[function.__name__.lstrip("_")] = function
    return environment


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
