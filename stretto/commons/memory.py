"""A villager's memory: what it saw and thought, and what of it comes to mind.

As in the paper (its appendix on agents, after Generative Agents, Park et al. 2023): a memory's
weight is 0.5 recency + 3 importance + 2 relevance, the heaviest k for each focus come to mind, in
the order of their dates. The reference's deviations are switches.
"""

import datetime
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stretto.commons.seeds import generator
from stretto.commons.switches import Switches
from stretto.errors import ConfigError

KEPT = timedelta(days=63)
DECAY = 0.99


class Embedder(Protocol):
    """Texts to vectors."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, D), of length 1 each, or zeros."""
        ...


class WordLlamaEmbedder:
    """The default: averages of static vectors, 256 numbers a text, no torch and no network.

    Loaded when the first text is embedded.
    """

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, 256)."""
        if not texts:
            return np.zeros((0, 256), np.float32)
        # An empty text has no words to average.
        vectors = np.asarray(_wordllama().embed([text or "." for text in texts]), np.float32)
        vectors[[not text for text in texts]] = 0.0
        return _unit(vectors)


@lru_cache(maxsize=1)
def _wordllama() -> Any:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        import wordllama

        # Its wheel carries the weights, but it looks for its tokeniser in another folder.
        return wordllama.WordLlama.load(
            cache_dir=Path(wordllama.__file__).parent, disable_download=True
        )
    except ImportError:
        raise ConfigError(
            "embeddings: wordllama is not installed; pip install 'stretto[commons]'"
        ) from None
    finally:  # it turns on everybody's remarks when it is imported
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.getLogger("wordllama").setLevel(logging.WARNING)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-9)


@dataclass(frozen=True)
class Memory:
    """Something remembered.

    Attributes:
        text: in words.
        date: when it came about, in the game.
        expires: from then on it does not come to mind.
        kind: seen, thought, or a whole chat (which never comes to mind in the reference).
        importance: 1 to 10.
        always: until this date it comes to mind whatever is asked; None: never.
    """

    text: str
    date: datetime.date
    expires: datetime.date
    kind: Literal["seen", "thought", "chat"] = "thought"
    importance: float = 5.0
    always: datetime.date | None = None


class MemoryStream:
    """All memories of one villager.

    Args:
        embedder: of memories and foci.
        switches: recency and order.
        seed: of the shuffling, where memories of a day are shuffled; the same question is answered
            in the same order, also in a run that goes on from its record.
    """

    def __init__(self, embedder: Embedder, switches: Switches, seed: int = 0) -> None:
        self._embedder, self._switches, self._seed = embedder, switches, seed
        self._memories: list[Memory] = []
        self._vectors: list[NDArray[np.float32]] = []

    def __len__(self) -> int:
        return len(self._memories)

    def add(self, memory: Memory) -> None:
        """Remember."""
        self._memories.append(memory)

    def forget_all(self) -> None:
        """For villages without memory."""
        self._memories.clear()
        self._vectors.clear()

    def latest(self, count: int, now: datetime.date) -> list[Memory]:
        """The last ``count`` that have not expired, whatever they are about, oldest first."""
        alive = [m for m in self._memories if m.expires > now and m.kind != "chat"]
        return sorted(alive[-count:], key=lambda memory: memory.date)

    def retrieve(self, foci: Sequence[str], k: int, now: datetime.date) -> list[Memory]:
        """What comes to mind: the heaviest ``k`` for each focus, each once, oldest first."""
        ids = [
            i for i, memory in enumerate(self._memories)
            if memory.expires > now and memory.kind != "chat"
        ]  # fmt: skip
        if not ids or not foci:
            return []
        age = np.arange(len(ids))
        recency = DECAY ** (age if self._switches.recency == "paper" else age[::-1])
        importance = np.array([(self._memories[i].importance - 1) / 9 for i in ids])
        always = np.array([(self._memories[i].always or now) > now for i in ids])
        vectors, found = self._embedded()[ids], set[int]()
        for focus in self._embedder.embed(list(foci)):
            weight = 0.5 * recency + 3 * importance + 2 * (vectors @ focus)
            weight[always] = weight.max() + 1
            # Ties go to the newer one.
            found.update(np.lexsort((-age, -weight))[:k].tolist())
        chosen = [ids[i] for i in sorted(found)]
        if self._switches.order == "paper":
            generator(self._seed, "order", now.isoformat(), *foci).shuffle(chosen)
        return sorted((self._memories[i] for i in chosen), key=lambda memory: memory.date)

    def _embedded(self) -> NDArray[np.float32]:
        """(N, D), of all; embedded when first needed."""
        for memory in self._memories[len(self._vectors) :]:
            # One by one: the bits must not depend on what is embedded together.
            self._vectors.append(self._embedder.embed([memory.text])[0])
        return np.stack(self._vectors)
