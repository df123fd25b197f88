"""Finding the few texts of many that a request is about: BM25, with texts that come and go.

Robertson and Zaragoza 2009. The libraries for it (bm25s, rank-bm25) build an index once; tools are
added and removed at run time, so this one counts as they come.
"""

import math
import re
from collections import Counter
from typing import NamedTuple

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")
_COMMON = frozenset(
    ("a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "in", "is", "it", "of", "on",
     "or", "that", "the", "to", "with")
)  # fmt: skip


class Found(NamedTuple):
    """A text by its key, and how well it fits (above 0)."""

    key: str
    score: float


def words(text: str) -> list[str]:
    """Lower-case words; ``snake_case`` and ``camelCase`` are taken apart, plurals made singular."""
    found = (word.lower() for word in _WORDS.findall(text))
    return [_singular(word) for word in found if word not in _COMMON]


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    is_plural = len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word[:-1] if is_plural else word


class TextIndex:
    """Texts by key.

    Args:
        k1: how soon a repeated word stops to count.
        b: how much long texts are held back, from 0 to 1.
    """

    def __init__(self, k1: float = 1.2, b: float = 0.75) -> None:
        self._k1, self._b = k1, b
        self._counts: dict[str, Counter[str]] = {}
        self._keys: dict[str, set[str]] = {}  # by word
        self._total = 0  # words of all texts

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, key: str, text: str) -> None:
        """Take a text in; one with this key is replaced."""
        self.remove(key)
        counts = self._counts[key] = Counter(words(text))
        self._total += counts.total()
        for word in counts:
            self._keys.setdefault(word, set()).add(key)

    def remove(self, key: str) -> None:
        """Take a text out; nothing happens if it is not there."""
        counts = self._counts.pop(key, None)
        if counts is None:
            return
        self._total -= counts.total()
        for word in counts:
            self._keys[word].discard(key)
            if not self._keys[word]:
                del self._keys[word]

    def find(self, query: str, top: int = 5) -> list[Found]:
        """The texts that fit best, best first; equal ones by key. Texts that share no word with
        the query are not among them.
        """
        scores: dict[str, float] = {}
        mean = self._total / max(1, len(self._counts)) or 1.0
        for word in set(words(query)):
            keys = self._keys.get(word, ())
            rarity = math.log(1 + (len(self._counts) - len(keys) + 0.5) / (len(keys) + 0.5))
            for key in keys:
                counts = self._counts[key]
                times, length = counts[word], counts.total() / mean
                held_back = self._k1 * (1 - self._b + self._b * length)
                score = rarity * times * (self._k1 + 1) / (times + held_back)
                scores[key] = scores.get(key, 0.0) + score
        best = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:top]
        return [Found(key, score) for key, score in best]
