"""How fast the engine itself is, beside dvc and snakemake, as one Markdown table.

    python -m benchmarks.engine [--rounds 15] [--store store] [--no-peers]

Every number is the median wall clock of a whole process. The commands take turns, one of each per round, so that a
busy moment of the machine hits all alike. Steps are toy stages whose work is next to nothing; where `--store` holds
a finished quickstart, its rerun is measured too. Exit code 1 when a number misses its bar.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from pipeline.machine import cpu_count

ROOT = Path(__file__).parents[1]
PEERS_VENV = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nlora-pipeline" / "peers"
PEERS = ("dvc==3.67.1", "snakemake==9.27.1")
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"
NUM_EXECUTED = 10
"""Steps of the run whose overhead is measured."""

TOYS = {"PIPELINE_STAGES": "tests.pipeline.toy"}
BARE_STEP = """
import sys
from pathlib import Path
from pipeline.stage import Resources, Workspace
from tests.pipeline.toy import number
number.run(number.Config(value=1), number.Inputs(), Workspace(Path(sys.argv[1])), Resources())
"""


@dataclass
class Case:
    """One timed command. `prepare` runs before each timing and is not part of it."""

    name: str
    command: list[str]
    directory: Path = ROOT
    environment: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[], list[str]] = list
    """Returns further arguments, such as a fresh folder."""
    seconds: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """Run it once; raises CalledProcessError with its output when it fails."""
        arguments = self.prepare()
        started = time.perf_counter()
        run([*self.command, *arguments], self.directory, self.environment)
        self.seconds.append(time.perf_counter() - started)

    @property
    def median(self) -> float:
        return median(self.seconds)


@dataclass(frozen=True)
class Row:
    """One line of the result: seconds, and the bar they have to stay below."""

    name: str
    seconds: float
    spread: str = ""
    bar: float | None = None
    peer: float | None = None
    """Our number for the same thing, for a peer's row."""


def main() -> int:
    """Measure, print the table, and tell whether every bar is met."""
    arguments = parse_arguments()
    setting = (
        f"medians of {arguments.rounds} rounds, {cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start"
    )
    with tempfile.TemporaryDirectory() as folder:
        ours = list(our_cases(Path(folder), arguments.store))
        peers = [] if arguments.no_peers else list(peer_cases(Path(folder)))
        for _ in range(arguments.rounds):
            for case in [*ours, *peers]:
                case.measure()
    rows = [*our_rows({case.name: case for case in ours}), *peer_rows(ours, peers)]
    print(markdown(rows))
    missed = [row.name for row in rows if row.bar is not None and row.seconds > row.bar]
    print(f"\n{setting}; {'missed: ' + ', '.join(missed) if missed else 'every bar is met'}")
    return 1 if missed else 0


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--store", type=Path, default=ROOT / "store", help="measures the quickstart that is finished here"
    )
    parser.add_argument(
        "--no-peers", action="store_true", help="leave out dvc and snakemake (they are installed on first use)"
    )
    return parser.parse_args()


def our_cases(folder: Path, store: Path) -> Iterator[Case]:
    """What the table says about us. Recipes and stores of toy steps go below `folder`."""
    six = toy_recipe(folder / "six.yaml", 6)
    executed = toy_recipe(folder / "executed.yaml", NUM_EXECUTED)
    thousand = toy_recipe(folder / "thousand.yaml", 1000)
    sweep = toy_sweep(folder / "sweep.yaml", num_variants=100, num_steps=10)
    done = folder / "done"
    for recipe in (six, executed):
        run([*pipeline("run", recipe), "--store", str(done)], ROOT, TOYS)

    yield Case("--help", pipeline("--help"))
    yield Case("rerun of 6 steps", [*pipeline("run", six), "--store", str(done)], environment=TOYS)
    if quickstart_is_finished(store):
        yield Case("rerun of quickstart", [*pipeline("run", QUICKSTART), "--store", str(store)])
    yield Case("plan of 1,000 steps", [*pipeline("plan", thousand), "--store", str(done)], environment=TOYS)
    yield Case("plan of a sweep, 100 x 10 steps", [*pipeline("plan", sweep), "--store", str(done)], environment=TOYS)
    yield Case("rerun of the executed steps", [*pipeline("run", executed), "--store", str(done)], environment=TOYS)
    yield Case(
        "executed steps", pipeline("run", executed), environment=TOYS, prepare=lambda: ["--store", fresh(folder)]
    )
    yield Case("bare step", [sys.executable, "-c", BARE_STEP], prepare=lambda: [fresh(folder)])


def our_rows(cases: dict[str, Case]) -> Iterator[Row]:
    """The measured commands against their bars, and the overhead per step that follows from three of them."""
    bars = {
        "--help": 0.2,
        "rerun of 6 steps": 0.4,
        "rerun of quickstart": 0.4,
        "plan of 1,000 steps": 1.0,
        "plan of a sweep, 100 x 10 steps": 1.0,
    }
    for name, bar in bars.items():
        if name in cases:
            yield Row(f"`{name}`" if name == "--help" else name, cases[name].median, spread(cases[name]), bar)
    per_step = (cases["executed steps"].median - cases["rerun of the executed steps"].median) / NUM_EXECUTED
    bare = cases["bare step"].median
    yield Row(
        f"overhead per executed step (beyond the {bare * 1000:.0f} ms of its bare process)", per_step - bare, bar=0.05
    )


def peer_rows(ours: list[Case], peers: list[Case]) -> Iterator[Row]:
    """Each peer's number and ours for the same thing."""
    counterpart = {case.name: case.median for case in ours}
    for case in peers:
        name, _, ours_name = case.name.partition(" | ")
        yield Row(name, case.median, spread(case), peer=counterpart[ours_name])


def markdown(rows: list[Row]) -> str:
    """The table; the last column is how many times as long as ours a peer takes."""
    lines = ["| what | median | range | bar | times ours |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        bar = f"{row.bar:.2f} s" if row.bar is not None else ""
        ratio = f"{row.seconds / row.peer:.1f}" if row.peer else ""
        lines.append(f"| {row.name} | {row.seconds:.3f} s | {row.spread} | {bar} | {ratio} |")
    return "\n".join(lines)


def spread(case: Case) -> str:
    """Fastest to slowest."""
    return f"{min(case.seconds):.3f} to {max(case.seconds):.3f}"


def pipeline(*words: object) -> list[str]:
    """One of our commands."""
    return [sys.executable, "-m", "pipeline", *map(str, words)]


def toy_recipe(path: Path, num_steps: int) -> Path:
    """A recipe of `num_steps` toy steps: numbers, and one step that adds them up."""
    tracks = "".join(f"  t{index}: {{value: {index + 100}}}\n" for index in range(num_steps - 1))
    path.write_text(f"name: {path.stem}\ntracks:\n{tracks}")
    return path


def toy_sweep(path: Path, num_variants: int, num_steps: int) -> Path:
    """A recipe of that many variants with no step in common."""
    toy_recipe(path, num_steps)
    sets = ""
    for variant in range(num_variants):
        fields = (f"tracks.t{index}.value: {100 + variant * num_steps + index}" for index in range(num_steps - 1))
        sets += f"    v{variant}: {{{', '.join(fields)}}}\n"
    path.write_text(f"{path.read_text()}sweep:\n  set:\n{sets}")
    return path


def quickstart_is_finished(store: Path) -> bool:
    """Whether a rerun would do nothing; asked with --dry-run, so that a benchmark never starts a training."""
    command = [*pipeline("run", QUICKSTART), "--dry-run", "--store", str(store)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode == 0 and "nothing to do" in done.stdout


def fresh(folder: Path) -> str:
    """A new empty folder."""
    return tempfile.mkdtemp(dir=folder)


def run(command: list[str], directory: Path, environment: dict[str, str] | None = None) -> None:
    """Run to the end; raises CalledProcessError after showing what a failing command printed."""
    try:
        subprocess.run(command, cwd=directory, env=os.environ | (environment or {}), check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        sys.stderr.buffer.write(error.stdout + error.stderr)
        raise


def peer_cases(folder: Path) -> Iterator[Case]:
    """The peers with 6 finished steps each. A name is "what | our counterpart"."""
    install_peers()
    dvc, snakemake = str(PEERS_VENV / "bin" / "dvc"), str(PEERS_VENV / "bin" / "snakemake")
    quiet = {"DVC_NO_ANALYTICS": "1", "PATH": f"{PEERS_VENV / 'bin'}:{os.environ['PATH']}"}
    prepare_dvc(folder / "dvc", dvc, quiet)
    prepare_snakemake(folder / "snakemake", snakemake, quiet)
    yield Case("dvc --help | --help", [dvc, "--help"], folder / "dvc", quiet)
    yield Case("dvc repro, 6 steps, nothing to do | rerun of 6 steps", [dvc, "repro"], folder / "dvc", quiet)
    yield Case(
        "snakemake, 6 steps, nothing to do | rerun of 6 steps",
        [snakemake, "--cores", "1"],
        folder / "snakemake",
        quiet,
    )


def install_peers() -> None:
    """Put both into a virtual environment of their own, once."""
    if (PEERS_VENV / "bin" / "snakemake").exists():
        return
    run([sys.executable, "-m", "venv", "--clear", str(PEERS_VENV)], ROOT)
    run(
        [
            str(ROOT / "requirements" / "uv.sh"),
            "pip",
            "install",
            "--python",
            str(PEERS_VENV / "bin" / "python"),
            *PEERS,
        ],
        ROOT,
    )


def prepare_dvc(folder: Path, dvc: str, environment: dict[str, str]) -> None:
    """A repository with a chain of 6 stages, run once."""
    folder.mkdir()
    stages = "".join(
        f"  s{i}:\n    cmd: cp {i}.txt {i + 1}.txt\n    deps: [{i}.txt]\n    outs: [{i + 1}.txt]\n" for i in range(6)
    )
    (folder / "dvc.yaml").write_text(f"stages:\n{stages}")
    (folder / "0.txt").write_text("x")
    for command in (["git", "init", "-q"], [dvc, "init", "-q"], [dvc, "repro", "-q"]):
        run(command, folder, environment)


def prepare_snakemake(folder: Path, snakemake: str, environment: dict[str, str]) -> None:
    """A workflow with a chain of 6 rules, run once."""
    folder.mkdir()
    rules = "".join(
        f"rule s{i}:\n    input: '{i}.txt'\n    output: '{i + 1}.txt'\n    shell: 'cp {{input}} {{output}}'\n"
        for i in range(6)
    )
    (folder / "Snakefile").write_text(f"rule all:\n    input: '6.txt'\n{rules}")
    (folder / "0.txt").write_text("x")
    run([snakemake, "--cores", "1"], folder, environment)


if __name__ == "__main__":
    sys.exit(main())
