"""`plan RECIPE`: the steps, their state, and for what is not cached the reason."""

import argparse
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from pipeline.commands import arguments as shared

if TYPE_CHECKING:
    from pipeline.plan import Plan, State
    from pipeline.step import Step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_recipe(parser)
    shared.add_store(parser)
    parser.add_argument("--tree", action="store_true", help="show what each step reads, as a tree")
    parser.add_argument("--show", metavar="NAME", help="print how steps will be set up, as JSON: deepspeed, for one")


def main(arguments: argparse.Namespace) -> int:
    from pipeline import history
    from pipeline.plan import state

    plan, store = shared.open_plan(arguments)
    if arguments.show:
        print(json.dumps(_shown(plan, arguments.show), indent=2))
        return 0
    recorded = history.read(store, arguments.recipe).steps
    states = {step.fingerprint: state(step, store, recorded) for step in plan.steps}
    if arguments.tree:
        _print_tree(plan, states)
    else:
        _print_table(plan, states, {step.name: _reason(step, states, store, recorded) for step in plan.steps})
    _print_totals(plan, states)
    return 0


def _shown(plan: "Plan", name: str) -> dict[str, Any]:
    """Step -> what its stage shows under that name. Raises UserError for a name that no step of the plan knows."""
    from pipeline.errors import UserError
    from pipeline.stage import load_stage

    shown: dict[str, dict[str, Any]] = {}
    for step in plan.steps:
        ask = getattr(load_stage(step.stage), "shown", None)
        for known, value in (ask(step.config, step.resources) if ask else {}).items():
            shown.setdefault(known, {})[step.name] = value
    if name not in shown:
        known_names = ", ".join(sorted(shown)) or "nothing, its stages have nothing to show"
        raise UserError(f"plan --show: found {name}, expected one of what {plan.name} can show: {known_names}")
    return shown[name]


def _reason(step: "Step", states: "dict[str, State]", store: object, recorded: dict[str, str]) -> str:
    """In a few words, why a step is not cached."""
    from pipeline.plan import State
    from pipeline.why import reasons

    if states[step.fingerprint] == State.CACHED:
        return ""
    if states[step.fingerprint] == State.STALE:
        differences = reasons(step, store, recorded)  # type: ignore[arg-type]
        own = [line for line in differences if not line.startswith("input ")] or differences
        return "; ".join(own[:2]) + (f"; {len(own) - 2} more" if len(own) > 2 else "")
    waiting = [needed.name for needed in step.all_dependencies() if states[needed.fingerprint] != State.CACHED]
    if states[step.fingerprint] == State.PARTIAL:
        return "was interrupted; resumes"
    return f"waits for {', '.join(dict.fromkeys(waiting))}" if waiting else "never ran"


def _print_table(plan: "Plan", states: "dict[str, State]", reasons: dict[str, str]) -> None:
    width = max(len(step.name) for step in plan.steps)
    for step in plan.steps:
        state = states[step.fingerprint]
        print(f"{step.name:<{width}}  {step.fingerprint[:16]}  {state:<8} {_shorten(reasons[step.name])}".rstrip())
    for name, step in () if plan.is_sweep else plan.aliases.items():  # there, each shared step has one per variant
        print(f"{name:<{width}}  {step.fingerprint[:16]}  the same work as {step.name}")


def _print_tree(plan: "Plan", states: "dict[str, State]") -> None:
    """Each step below the ones that read it; a step met again is not unfolded again."""
    seen: set[str] = set()

    def show(step: "Step", indent: str) -> None:
        again = step.fingerprint in seen
        seen.add(step.fingerprint)
        print(f"{indent}{step.name} [{states[step.fingerprint]}]{' (above)' if again else ''}")
        if not again:
            for needed in {needed.fingerprint: needed for needed in step.all_dependencies()}.values():
                show(needed, indent + "  ")

    for step in plan.final_steps():
        show(step, "")


def _print_totals(plan: "Plan", states: "dict[str, State]") -> None:
    counts: dict[str, int] = {}
    for state in states.values():
        counts[state] = counts.get(state, 0) + 1
    found = ", ".join(f"{count} {state}" for state, count in counts.items())
    print(f"{plan.name}: {_size(plan)}: {found}")


def _size(plan: "Plan") -> str:
    if not plan.is_sweep:
        return f"{len(plan.steps)} steps"
    uses = Counter(fingerprint for variant in plan.variants for fingerprint in variant.fingerprints)
    shared = sum(count > 1 for count in uses.values())
    return f"{len(plan.variants)} variants, {len(plan.steps)} steps, {shared} of them for several variants"


def _shorten(text: str) -> str:
    return text if len(text) <= 100 else text[:97] + "..."
