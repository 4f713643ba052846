"""Which evaluation item a training row repeats, by shared runs of words.

A word of the item is covered when item and row share a run of 13 words that contains it; the row repeats the item when
it covers more than half of the item's words. So a changed name or number is forgiven, and one common phrase does not
suffice. The share of covered words is Tulu 3's rule (Lambert et al. 2024, arXiv:2411.15124, section 3.2, with runs of
8), runs of 13 are GPT-3's (Brown et al. 2020, arXiv:2005.14165, appendix C) and lm-eval's (docs/decontamination.md),
which take a single one for a repetition. Why not 8: of MBPP's 374 training tasks it takes 125 for repetitions of test
tasks, most by "write a python function to find the sum of"; 13 takes 17, nearly all of which are the same task.

An item with fewer words than a run has to be in the row as a whole. Words are runs of letters and digits in lower case,
after Unicode's NFKC; a Chinese or Japanese character is a word.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from sys import intern
from typing import Any

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
Run = tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """One question of a benchmark."""

    benchmark: str
    id: str
    num_words: int


@dataclass(frozen=True)
class Match:
    """The item that a row repeats most of."""

    item: Item
    share: float
    """Of the item's words, those that the row covers."""
    text: str
    """The part of the row, as it is compared."""


@dataclass(frozen=True)
class Found:
    """A run of an item in a text: the words from `start` to `end` of the text, those from `at` of the item."""

    item: Item
    at: int
    start: int
    end: int


@dataclass
class Index:
    """The items by their runs of words: a few hundred bytes for each word of theirs."""

    run_length: int
    min_share: float
    shortest: int
    """Items with fewer words are not compared."""
    _runs: dict[Run, list[tuple[Item, int]]] = field(default_factory=dict)
    """Run -> where it begins in which items."""
    _whole: dict[Run, list[tuple[Item, Run]]] = field(default_factory=dict)
    """The first `shortest` words -> the short items that begin with them."""

    def add(self, benchmark: str, item_id: str, text: str) -> bool:
        """Whether the item is long enough to be compared."""
        words = tuple(intern(word) for word in WORD.findall(folded(text)))
        item = Item(benchmark, item_id, len(words))
        if len(words) < self.shortest:
            return False
        if len(words) < self.run_length:
            self._whole.setdefault(words[: self.shortest], []).append((item, words))
        for at, run in enumerate(_windows(words, self.run_length)):
            self._runs.setdefault(run, []).append((item, at))
        return True

    def match(self, texts: Iterable[str]) -> Match | None:
        """The item of which the texts of one row together cover the most, if that is more than `min_share`."""
        found = {text: runs for text in map(folded, texts) if (runs := list(self._found(WORD.findall(text))))}
        covered: dict[Item, set[int]] = defaultdict(set)
        for each in (each for runs in found.values() for each in runs):
            covered[each.item].update(range(each.at, each.at + each.end - each.start))
        if not covered:
            return None
        item = max(covered, key=lambda each: (len(covered[each]) / each.num_words, each.num_words))
        share = len(covered[item]) / item.num_words
        return Match(item, share, _shown(item, found)) if share > self.min_share else None

    def _found(self, words: list[str]) -> Iterator[Found]:
        if not self._runs.keys().isdisjoint(_windows(words, self.run_length)):  # at C's speed; seldom true
            for start, run in enumerate(_windows(words, self.run_length)):
                for item, at in self._runs.get(run, ()):
                    yield Found(item, at, start, start + self.run_length)
        if not self._whole.keys().isdisjoint(_windows(words, self.shortest)):
            for start, run in enumerate(_windows(words, self.shortest)):
                for item, whole in self._whole.get(run, ()):
                    if tuple(words[start : start + len(whole)]) == whole:
                        yield Found(item, 0, start, start + len(whole))


def folded(text: str) -> str:
    """The text as it is compared."""
    return (text if text.isascii() else unicodedata.normalize("NFKC", text)).lower()


def texts_in(value: Any) -> Iterator[str]:
    """All texts in a row, whatever its fields are called and however they are nested."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts_in(each)


def _windows(words: list[str] | Run, length: int) -> Iterator[Run]:
    return zip(*(words[start:] for start in range(length)), strict=False)


def _shown(item: Item, found: dict[str, list[Found]]) -> str:
    """From the first to the last word that is the item's, in the first text that has one."""
    text, own = next((text, own) for text, runs in found.items() if (own := [e for e in runs if e.item == item]))
    places = list(WORD.finditer(text))
    return text[places[min(each.start for each in own)].start() : places[max(each.end for each in own) - 1].end()]
