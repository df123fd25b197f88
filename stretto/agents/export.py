"""What attempts taught, as data: conversations to imitate, preferences, rewards.

Conversations are written as lines ``{"id", "messages"}``, which ``stretto data convert chat`` makes
tables of, or straight as a folder of shards, which ``stretto train RECIPE --data FOLDER`` takes.
Preferences and rewards are JSON lines in the conversational form that preference and reinforcement
trainers read (``prompt``, ``chosen``, ``rejected``; ``prompt``, ``completion``, ``reward``).
``stretto train`` itself imitates only; it learns from rewards by what :func:`supervised` lets pass.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from stretto.agents.chat_wire import message_json
from stretto.agents.repair import Trajectory
from stretto.errors import InputError
from stretto.runs import atomic_write
from stretto.streams import AGENT, SINGLE, StreamCodec, StreamTable, chat
from stretto.streams.shards import Sample, save_shards


def supervised(
    trajectories: Iterable[Trajectory], *, least: float = 1.0, whole: bool = False
) -> Iterator[dict[str, Any]]:
    """Conversations whose last attempt earned ``least`` or more.

    Args:
        trajectories: what was tried.
        least: reward that lets one pass, 0 to 1.
        whole: keep failed attempts and what was said of them, to teach repair; otherwise the task
            is followed by the good answer alone, to teach solving it at once.

    Raises:
        InputError: ``least`` is outside 0 to 1.
    """
    if not 0 <= least <= 1:
        raise InputError(f"least: a reward lies in 0 to 1, got {least}")
    for number, trajectory in enumerate(trajectories):
        if not trajectory.attempts or trajectory.attempts[-1].reward < least:
            continue
        messages = _messages(trajectory)
        if not whole:
            messages = [*_prompt(trajectory), messages[-1]]
        yield {"id": _name(trajectory, number), "messages": messages, "model": trajectory.model}


def preference(trajectories: Iterable[Trajectory]) -> Iterator[dict[str, Any]]:
    """Pairs of answers to the same task, the better one chosen; equals make no pair.

    Trajectories of the same task are compared with each other, too.
    """
    for name, prompt, answers in _by_task(trajectories):
        for (a, x), (b, y) in combinations(answers.items(), 2):
            if x != y:
                chosen, rejected = (a, b) if x > y else (b, a)
                yield {
                    "id": name,
                    "prompt": prompt,
                    "chosen": [{"role": "assistant", "content": chosen}],
                    "rejected": [{"role": "assistant", "content": rejected}],
                    "margin": abs(x - y),
                }


def reward(trajectories: Iterable[Trajectory]) -> Iterator[dict[str, Any]]:
    """Every answer with its reward, told what it was told."""
    for number, trajectory in enumerate(trajectories):
        messages = _messages(trajectory)
        at = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        for i, attempt in zip(at, trajectory.attempts, strict=True):
            yield {
                "id": _name(trajectory, number),
                "prompt": messages[:i],
                "completion": [messages[i]],
                "reward": attempt.reward,
                "source": attempt.feedback.source,
                "model": trajectory.model,
            }


def write_jsonl(path: str | Path, items: Iterable[dict[str, Any]]) -> int:
    """Write a line of JSON each; returns how many. The file appears whole or not at all."""
    lines = [json.dumps(item, ensure_ascii=False) + "\n" for item in items]
    atomic_write(path, "".join(lines))
    return len(lines)


def write_shards(
    folder: str | Path, conversations: Iterable[dict[str, Any]], codec: StreamCodec
) -> int:
    """Write conversations of :func:`supervised` as data for ``stretto train``; returns how many.

    Raises:
        InputError: there are none, or one cannot be a table.
    """
    samples = []
    for item in conversations:
        try:
            table = chat.from_messages(item["messages"], codec)
        except InputError as error:
            raise InputError(f"conversation {item['id']}: {error}") from None
        table.meta |= {"id": item["id"], "task": "chat", "set": "agent"}
        samples.append(Sample.of(table, AGENT))
    if not samples:
        raise InputError("no conversation is good enough to learn from; lower `least`")
    about = {"recipe": {"source": "stretto.agents.export"}, "seed": 0}
    save_shards(Path(folder), samples, AGENT, codec.special, {"agent": AGENT}, about)
    return len(samples)


def write_completions(
    folder: str | Path, conversations: Iterable[dict[str, Any]], codec: StreamCodec
) -> int:
    """As :func:`write_shards`, for a model of one stream that is given plain text.

    The table is of the set ``SINGLE``: the one message before the answer, word for word without a
    chat template, is the prompt; the answer and ``end`` are learnt.

    Raises:
        InputError: there are none, or one has more than a question and an answer.
    """
    samples = []
    for item in conversations:
        if [message["role"] for message in item["messages"]] != ["user", "assistant"]:
            raise InputError(f"conversation {item['id']}: not one question and one answer")
        asked, answer = (codec.encode(message["content"]) for message in item["messages"])
        rows = np.array([*answer, codec.special.end], np.int32)[:, None]
        meta = {"id": item["id"], "task": "completion", "set": "single"}
        table = StreamTable(SINGLE, codec.special, {"text": asked}, rows, meta, codec)
        samples.append(Sample.of(table, SINGLE))
    if not samples:
        raise InputError("no answer is good enough to learn from; try more samples or problems")
    about = {"recipe": {"source": "stretto.agents.export"}, "seed": 0}
    save_shards(Path(folder), samples, SINGLE, codec.special, {"single": SINGLE}, about)
    return len(samples)


def _prompt(trajectory: Trajectory) -> list[Any]:
    """The messages before the first answer."""
    messages = _messages(trajectory)
    return messages[: [message["role"] for message in messages].index("assistant")]


def _messages(trajectory: Trajectory) -> list[dict[str, Any]]:
    return [message_json(message) for message in trajectory.messages]


def _by_task(
    trajectories: Iterable[Trajectory],
) -> Iterator[tuple[str, list[Any], dict[str, float]]]:
    """Each task with its distinct answers and their rewards."""
    tasks: dict[str, tuple[str, list[Any], dict[str, float]]] = {}
    for number, trajectory in enumerate(trajectories):
        if not trajectory.attempts:
            continue
        prompt = _prompt(trajectory)
        key = json.dumps(prompt, sort_keys=True)
        _, _, answers = tasks.setdefault(key, (_name(trajectory, number), prompt, {}))
        for attempt in trajectory.attempts:
            answers.setdefault(attempt.text, attempt.reward)
    yield from tasks.values()


def _name(trajectory: Trajectory, number: int) -> str:
    return trajectory.id or f"attempt-{number}"
