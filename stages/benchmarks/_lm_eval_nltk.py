"""Data that lm-eval's code loads through NLTK, which would wait for its server to answer. Standard library only."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from pipeline.downloads import environment

KINDS = ("tokenizers", "corpora", "taggers")


def nltk_problems(packages: Iterable[str]) -> list[str]:
    """A line for each package that is in none of NLTK's folders."""
    missing = [
        package
        for package in sorted(packages)
        if not any((folder / kind / package).exists() for folder in _folders() for kind in KINDS)
    ]
    looked, get = ", ".join(map(str, _folders()[:2])), f"python -m nltk.downloader -d {_folders()[0]}"
    remedy = f"which is in none of {looked}, ...; on a machine with network: {get}"
    return [f"its code needs NLTK's {package}, {remedy} {package}" for package in missing]


def _folders() -> list[Path]:
    """Where NLTK looks, in its order: https://www.nltk.org/data.html."""
    named = environment().get("NLTK_DATA") or os.environ.get("NLTK_DATA", "")
    usual = [Path.home() / "nltk_data", *(Path(sys.prefix, each, "nltk_data") for each in ("", "share", "lib"))]
    system = [Path(each, "nltk_data") for each in ("/usr/share", "/usr/local/share", "/usr/lib", "/usr/local/lib")]
    return [*(Path(each) for each in named.split(os.pathsep) if each), *usual, *system]
