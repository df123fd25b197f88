"""What a request needs, by simple rules: its parts in order, and the tool that fits each.

For models too small to choose. A request is cut where a sentence ends, at "then", and at an "and"
before a word that a tool's name begins with. The rules are English; a part that leans on an earlier
one ("... and write it down") gets no more than its own words.
"""

import re
from dataclasses import dataclass

from stretto.agents.registry import Registry
from stretto.agents.retrieval import words
from stretto.agents.tool import Tool
from stretto.errors import InputError

_CUT = re.compile(r"(?<=[.!?;])\s+(?=\w)|,?\s+(?:and\s+)?then,?\s+", re.IGNORECASE)
_ASKING = frozenset(
    ("what", "which", "who", "when", "where", "how", "do", "does", "did", "can", "could", "would",
     "will", "please", "tell", "give", "me", "my", "you", "your", "i", "we", "us", "this", "it")
)  # fmt: skip
_AND = re.compile(r",?\s+and\s+(?=(\w+))", re.IGNORECASE)


@dataclass(frozen=True)
class Need:
    """A part of a request.

    Attributes:
        text: the part, with a capital letter.
        tools: that share words with it, best first; maybe none.
    """

    text: str
    tools: tuple[Tool, ...]


def needs(request: str, registry: Registry, top: int = 3) -> list[Need]:
    """The parts of a request with the tools that fit them.

    Raises:
        InputError: the request is empty.
    """
    verbs = {first for tool in registry for first in words(tool.name)[:1]}
    parts = [half for part in _CUT.split(request.strip()) for half in _halves(part, verbs)]
    found = [
        Need(part[0].upper() + part[1:], tuple(registry.find(_topic(part), top)))
        for part in map(str.strip, parts)
        if part
    ]
    if not found:
        raise InputError("the request is empty; say what is to be done")
    return found


def _topic(part: str) -> str:
    """Without the words by which people ask, which every tool's description has too."""
    return " ".join(word for word in words(part) if word not in _ASKING)


def _halves(part: str, verbs: set[str]) -> list[str]:
    cuts = [match for match in _AND.finditer(part) if words(match[1])[:1] and
            words(match[1])[0] in verbs]  # fmt: skip
    starts = [0, *(match.end() for match in cuts)]
    ends = [*(match.start() for match in cuts), len(part)]
    return [part[a:b] for a, b in zip(starts, ends, strict=True)]
