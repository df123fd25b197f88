"""What drafts are measured on: prompts of three tasks, and how long a generation takes."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stretto.engine import Engine, Limits, SamplingParams, Speculation, VirtualClock
from stretto.engine.backends import open_backend
from stretto.engine.batch import RowBatch
from stretto.engine.stats import Drafted
from stretto.errors import InputError
from stretto.models import MultiStreamLM, load_codec
from stretto.models.checkpoint import is_checkpoint
from stretto.models.exits import Exits
from stretto.streams import StreamSet
from stretto.streams.examples import Example, demo_items

TASKS = ("chat", "summary", "code")
_FILES = {
    "chat": "user252.jsonl",
    "summary": "pubmedqa_100.jsonl",
    "code": "humaneval164.jsonl",
}
_ASK = {
    "summary": "Summarise this abstract in three sentences.\n\n",
    "code": "Complete this Python function.\n\n",
}
_CHAT = (
    "What is the capital of France, and what is it known for?",
    "How do I bake bread at home?",
    "Explain photosynthesis to a child.",
    "Write a short letter to my landlord about a leaking tap.",
    "Give me five ideas for a birthday party in the garden.",
    "What is the difference between weather and climate?",
    "Rewrite this more politely: Send me the report today, I have waited long enough.",
    "Tell me a story about an owl and a lighthouse.",
)
_CODE = (
    'def mean(numbers: list[float]) -> float:\n    """The mean of some numbers.\n\n'
    "    >>> mean([1.0, 2.0, 6.0])\n    3.0\n    \"\"\"\n",
    'def is_prime(n: int) -> bool:\n    """Whether a number has no divisor but one and itself.\n\n'
    "    >>> is_prime(7)\n    True\n    >>> is_prime(9)\n    False\n    \"\"\"\n",
    'def count_words(text: str) -> dict[str, int]:\n    """How often each word occurs.\n\n'
    "    >>> count_words('a b a')\n    {'a': 2, 'b': 1}\n    \"\"\"\n",
    'def flatten(nested: list) -> list:\n    """All items of lists in lists, in order.\n\n'
    "    >>> flatten([1, [2, [3]]])\n    [1, 2, 3]\n    \"\"\"\n",
)  # fmt: skip
_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def load_prompts(source: Path | None, limit: int) -> dict[str, list[str]]:
    """What users ask, by task: the first of the development pack, or a few of our own.

    Args:
        source: the unpacked pack, or None.
        limit: prompts a task.

    Raises:
        InputError: a file is not what it should be.
    """
    if source is None:
        abstracts = ["".join(item.chunks) for item in _abstracts()]
        own = {"chat": list(_CHAT), "summary": abstracts, "code": list(_CODE)}
    else:
        own = {task: _read(source / name, task) for task, name in _FILES.items()}
    return {task: [_ASK.get(task, "") + text for text in own[task][:limit]] for task in TASKS}


def chat(text: str) -> str:
    """A user's message as a model of one stream was taught to read it (ChatML)."""
    turns = ("system", _SYSTEM), ("user", text)
    said = "".join(f"<|im_start|>{who}\n{what}<|im_end|>\n" for who, what in turns)
    return said + "<|im_start|>assistant\n"


class Shared:
    """A model on a back end, for engines that differ in nothing but how they draft.

    Args:
        name: of the model, or its folder.
        backend: as for an engine.
        exits: folder of exit heads; None takes those that ship for the model, if any.

    Attributes:
        lm: the model.
        backend: that runs it.
        exits: its exit heads, or None.

    Raises:
        CheckpointError, ConfigError: as :meth:`Engine.load`.
    """

    def __init__(self, name: str, backend: str = "auto", exits: Path | None = None) -> None:
        self.lm = MultiStreamLM.from_pretrained(name, device="cpu")
        self.exits = self.lm.exits if exits is None else Exits.load(exits, self.lm)
        self.backend = open_backend(backend, self.lm)
        self._codec, self._stops = load_codec(name), ()
        if not is_checkpoint(name):
            eos: Any = self.lm.base.generation_config.eos_token_id
            self._stops = tuple(eos) if isinstance(eos, list) else (eos,)

    def engine(self, speculation: Speculation | None = None, exits: Exits | None = None) -> Engine:
        """One more engine; only one of them may have sessions at a time.

        Args:
            speculation: how it drafts.
            exits: other heads than the model's.
        """
        return Engine(
            self.lm, self._codec, backend=self.backend, stop_ids=self._stops,
            speculation=speculation, exits=exits or self.exits,
        )  # fmt: skip


@dataclass(frozen=True)
class Timed:
    """One generation.

    Attributes:
        rows: what was said, all streams (R, S) as lists.
        ms: a row, from the second one on: the prompt is not counted. NaN if there is none.
        passes: forward passes that those rows took.
    """

    rows: list[list[int]]
    ms: float
    passes: int


def generate(
    engine: Engine,
    text: str,
    *,
    max_rows: int,
    streams: StreamSet | None = None,
    sampling: SamplingParams | Mapping[str, SamplingParams] | None = None,
    seed: int = 0,
) -> Timed:
    """Let a model answer, and take the time.

    Args:
        engine: runs nothing else.
        text: what the user says; put into the chat format for a model of one stream.
        max_rows: at most.
        streams, sampling, seed: of the session.
    """
    alone = len(engine.streams) == 1
    session = engine.open(
        streams,
        prompts={"text": chat(text)} if alone else {"user": text},
        sampling=sampling,
        limits=Limits(max_rows=max_rows),
        seed=seed,
        clock=VirtualClock(lambda cells, cached: 1.0),
    )
    session.close()
    while not session.rows and session.finish_reason is None:
        engine.step()
    first, passes = len(session.rows), engine.stats().steps
    start = time.perf_counter()
    engine.run([session])
    seconds, rows = time.perf_counter() - start, len(session.rows) - first
    ms = 1e3 * seconds / rows if rows else float("nan")
    return Timed(session.table.rows.tolist(), ms, engine.stats().steps - passes)


def drafted_since(engine: Engine, before: Mapping[str, Drafted]) -> Drafted:
    """What was drafted, of all kinds, since an engine's counts were ``before``."""
    total = Drafted()
    for kind, now in engine.stats().drafted.items():
        then = before.get(kind, Drafted())
        for name in vars(total):
            more = getattr(now, name) - getattr(then, name)
            setattr(total, name, getattr(total, name) + more)
    return total


def silent_pass(lm: MultiStreamLM, line: int, cells: int, row: int) -> RowBatch:
    """A pass over cells that leave nothing in the cache, all of them asked."""
    tokens = np.full((1, cells), lm.special.silence)
    rows, none = np.full((1, cells), row), np.zeros((1, cells), np.int64)
    asked = np.arange(cells)
    return RowBatch(
        np.array([line]), tokens, none, rows, none, asked, asked * 0, np.zeros(cells), []
    )


def _abstracts() -> list[Example]:
    return [item for name, item in demo_items().items() if name.startswith("pubmedqa")]


def _read(path: Path, task: str) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    found = []
    for number, line in enumerate(filter(None, lines), 1):
        try:
            found.append(_text(json.loads(line), task))
        except (ValueError, KeyError, TypeError, IndexError):
            raise InputError(f"{path}, line {number}: no item of the task {task}") from None
    return found


def _text(item: dict, task: str) -> str:
    if task == "summary":
        return " ".join(item["CONTEXTS"])
    if task == "code":
        return item["prompt"]
    more = item["instances"][0]["input"]
    return item["instruction"] + (f"\n\n{more}" if more else "")
