"""`show RECIPE STEP`: everything known of one step."""

import argparse
import json

from pipeline.commands import arguments as shared

MAX_TEXT_BYTES = 20_000
"""Text files up to this size are shown with the step."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_recipe(parser)
    shared.add_step(parser)
    shared.add_store(parser)


def main(arguments: argparse.Namespace) -> int:
    plan, store = shared.open_plan(arguments)
    step = plan.find(arguments.step)
    log = store.log(step.stage, step.fingerprint)
    print(f"step        {step.name}\nstage       {step.stage}\nfingerprint {step.fingerprint}")
    print(f"log         {log if log.exists() else 'none yet'}")
    if not store.is_sealed(step.stage, step.fingerprint):
        print(f"config      {json.dumps(step.config.model_dump(mode='json'), indent=2)}")
        print("not done yet; `plan` and `why` tell more")
        return 0
    artifact = store.artifact(step.stage, step.fingerprint)
    manifest = artifact.manifest()
    print(f"folder      {artifact.path}")
    for part in ("config", "inputs", "metrics"):
        print(f"{part:<11} {json.dumps(manifest[part], indent=2)}")
    print("files")
    for name, file in manifest["files"].items():
        print(f"  {file['bytes']:>14,} bytes  {file['sha256'][:16]}  {name}")
    for name, file in manifest["files"].items():
        if name.endswith(".txt") and file["bytes"] <= MAX_TEXT_BYTES:
            print(f"\n{name}\n\n{(artifact / name).read_text(encoding='utf-8')}")
    print(f"finished    {manifest['finished_at']}, after {manifest['duration_seconds']} s")
    print(f"memory      {manifest['peak_memory_bytes']:,} bytes at most")
    return 0
