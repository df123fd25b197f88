"""Families of reasoning-gym (Apache-2.0), with worked steps written here.

Each has a question that can come first, parts that arrive one by one, and one short step a part.
"""

import re
from collections.abc import Callable
from typing import Any

from stretto.errors import InputError
from stretto.streams.examples.base import Example, final_step, join_chunks, sentences

_SEEDS = {"train": 7, "dev": 1_000_003}
_SPARE = 4
"""Items drawn for each one wanted; what the other split has is left out."""

_CONFIGS: dict[str, dict[str, int]] = {
    "leg_counting": {
        "min_animals": 3, "max_animals": 6, "min_instances": 1, "max_instances": 4,
    },
    "chain_sum": {"min_terms": 5, "max_terms": 9, "min_digits": 1, "max_digits": 1},
    "needle_haystack": {"min_num_statements": 5, "max_num_statements": 10},
}  # fmt: skip


def generate(task: str, limit: int, split: str) -> list[Example]:
    """The first ``limit`` items of a family; ``train`` and ``dev`` share none.

    Raises:
        InputError: unknown split.
    """
    if split not in _SEEDS:
        raise InputError(f"split {split!r}: choose from {', '.join(_SEEDS)}")
    examples: dict[tuple[str, ...], Example] = {}
    for item in _items(task, limit * _SPARE + 64, _SEEDS[split]):
        example = _WRITERS[task](item)
        # One half of all possible texts belongs to each split, whatever the seeds bring.
        if _half(example.chunks) == split and len(examples) < limit:
            name = f"{task}-{split}-{len(examples)}"
            chunks, steps, answer, needs = (
                example.chunks, example.steps, example.answer, example.needs,
            )  # fmt: skip
            examples.setdefault(chunks, Example(name, task, chunks, steps, answer, needs))
    return list(examples.values())


def _half(chunks: tuple[str, ...]) -> str:
    import hashlib

    return ("train", "dev")[hashlib.sha1("".join(chunks).encode()).digest()[0] % 2]


def _items(task: str, size: int, seed: int) -> list[dict[str, Any]]:
    import reasoning_gym

    return list(reasoning_gym.create_dataset(task, size=size, seed=seed, **_CONFIGS[task]))


def _leg_counting(item: dict[str, Any]) -> Example:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    parts, steps, total = ["How many legs are there in total?"], [], 0
    animals = item["metadata"]["animals"].items()
    for animal, count in animals:
        legs = count * ANIMALS[animal]
        total += legs
        parts.append(f"{count} {animal}{'s' if count > 1 else ''},")
        steps.append(f"{animal} {legs}, total {total}\n")
    parts[-1] = f"{parts[-1][:-1]}."
    return _example(parts, steps, item["answer"])


def _chain_sum(item: dict[str, Any]) -> Example:
    terms = re.findall(r"[+-]?\s*\d+", item["metadata"]["expression"])
    total = int(terms[0])
    steps = [f"{total}\n"]
    for term in terms[1:]:
        total += int(term.replace(" ", ""))
        steps.append(f"{total}\n")
    return _example(["What is the sum?", *(t.strip() for t in terms)], steps, item["answer"])


def _needle_haystack(item: dict[str, Any]) -> Example:
    question = item["metadata"]["question"].removesuffix(" Reply only with a name.")
    statements = sentences(item["question"].split("\n")[0])
    name = item["answer"]
    steps = [f"{s.split()[0]} {'yes' if s.split()[0] == name else 'no'}\n" for s in statements]
    return _example([question, *statements], steps, name)


def _example(parts: list[str], steps: list[str], answer: str) -> Example:
    """Step i needs part i + 1; the answer needs all. It is said as the text has it."""
    needs = (*range(2, len(parts) + 1), len(parts))
    return Example("", "", join_chunks(parts), (*steps, final_step(answer)), answer.lower(), needs)


_WRITERS: dict[str, Callable[[dict[str, Any]], Example]] = {
    "leg_counting": _leg_counting,
    "chain_sum": _chain_sum,
    "needle_haystack": _needle_haystack,
}
