"""What a base model says of itself: prompts from open data sets, answered by our own engine.

Exit heads must foretell what the model would say, so they learn from its own answers, greedy for
the most part. The answers grow in one file, so a run that was stopped goes on.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stretto.errors import InputError
from stretto.streams import IGNORE, SINGLE, Cells
from stretto.streams.examples.base import read_rows, sentences
from stretto.streams.shards import Sample
from stretto.streams.tokens import StreamCodec
from stretto.training.exit_config import AnswerSettings

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
TEMPLATE = "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
TEMPLATE += "<|im_start|>assistant\n"
_ABSTRACT_WORDS = 110
_TOGETHER = 256
_TEMPERATURE = 0.7

Tell = Callable[[int, int, str], None]


def _roleplay(row: dict[str, Any]) -> str:
    return f"{row['instruction']}\n{row['input']}".strip()


def _abstract(row: dict[str, Any]) -> str:
    kept: list[str] = []
    for sentence in sentences(" ".join(" ".join(row["CONTEXTS"]).split())):
        if sum(len(part.split()) for part in kept) > _ABSTRACT_WORDS:
            break
        kept.append(sentence)
    return "Summarise this abstract in a few sentences:\n\n" + " ".join(kept)


def _function(row: dict[str, Any]) -> str:
    return f"{row['text']} Use Python."


def _task(row: dict[str, Any]) -> str:
    return f"Write a Python function for this task.\n\n{row['task_description']}"


def _passage(row: dict[str, Any]) -> str:
    return row["prompt"].strip()


def _seed(row: dict[str, Any]) -> str:
    return f"{row['instruction']}\n\n{row['instances'][0]['input']}".strip()


_SOURCES: tuple[tuple[str, str, Callable[[dict[str, Any]], str], int], ...] = (
    ("chat", "gpteacher_roleplay.jsonl", _roleplay, 5),
    ("chat", "selfinstruct_seed.jsonl", _seed, 1),
    ("passage", "t0_permissive.jsonl", _passage, 2),
    ("summary", "pubmedqa_400.jsonl", _abstract, 3),
    ("code", "mbpp_601_974_minus_plus.jsonl", _function, 2),
    ("code", "codeio_hq.jsonl", _task, 3),
)
"""Domain, file, how a row becomes a request, and the share of requests, in sixteenths."""


def requests(source: Path, count: int, seed: int) -> list[tuple[str, str]]:
    """``count`` requests, each (domain, text), mixed; none twice, so there may be fewer.

    Raises:
        InputError: a file is missing or damaged.
    """
    rng, found = np.random.default_rng(seed), []
    for domain, name, text, share in _SOURCES:
        texts = list(dict.fromkeys(text(row) for _, row in read_rows(source / name)))
        wanted = -(-count * share // 16)
        found += [(domain, texts[i]) for i in rng.permutation(len(texts))[:wanted]]
    return [found[i] for i in rng.permutation(len(found))]


@dataclass(frozen=True)
class Request:
    """What the model is asked, and how it is to answer.

    Attributes:
        number: its place among all.
        domain: what sort of text it is.
        prompt: token ids, in the model's chat format.
        temperature: 0 is greedy.
        seed: of a sampled answer.
    """

    number: int
    domain: str
    prompt: list[int]
    temperature: float
    seed: int


Speak = Callable[[Sequence[Request]], list[list[int]]]
"""Answers requests together: token ids of each, ``end`` last if it came to its end."""


def answer(
    asked: Sequence[tuple[str, str]],
    path: Path,
    codec: StreamCodec,
    speak: Speak,
    config: AnswerSettings,
    seed: int,
    tell: Tell = lambda done, total, what: None,
) -> None:
    """Answer the requests that are not answered yet, some at a time, a line each.

    Args:
        asked: from :func:`requests`.
        path: JSON lines; what it holds already is kept.
        codec: the model's tokeniser.
        speak: the model.
        config: how long, how sampled.
        seed: of the choice of sampled answers, and of these.
        tell: told how many of all have been looked at.
    """
    done = sum(1 for _ in _lines(path)) if path.exists() else 0
    while done < len(asked):
        batch = []
        for number, (domain, text) in enumerate(asked[done : done + _TOGETHER], start=done):
            is_sampled = np.random.default_rng((seed, number)).random() < config.sampled
            heat = _TEMPERATURE if is_sampled else 0.0
            batch.append(Request(number, domain, prompt_ids(codec, text), heat, seed + number))
        short = [request for request in batch if len(request.prompt) <= config.max_prompt]
        said = {r.number: ids for r, ids in zip(short, speak(short), strict=True)}
        lines = [{**asdict(request), "answer": said.get(request.number, [])} for request in batch]
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        done += len(batch)
        tell(done, len(asked), "requests answered")


def prompt_ids(codec: StreamCodec, text: str) -> list[int]:
    """A request in the chat format of SmolLM2; what looks like markup in it stays text."""
    head, tail = TEMPLATE.format(system=SYSTEM, user="\0").split("\0")
    return [*codec.encode(head, markup=True), *codec.encode(text), *codec.encode(tail, markup=True)]


def samples(path: Path, codec: StreamCodec, stop_id: int) -> list[Sample]:
    """The answers as samples of one stream: labels where the model spoke, and nowhere else.

    An answer that ended says ``stop_id`` last, as the model did.
    """
    found = []
    for line in _lines(path):
        said = [stop_id if t == codec.special.end else t for t in line["answer"]]
        if not said:
            continue
        prompt = line["prompt"]
        tokens = np.array(prompt + said[:-1], np.int32)
        labels = np.full(len(tokens), IGNORE, np.int32)
        labels[len(prompt) - 1 :] = said
        zeros, rows = np.zeros_like(tokens), np.arange(len(tokens), dtype=np.int32)
        cells = Cells(tokens, zeros, rows, labels)
        meta = {"task": line["domain"], "id": str(line["number"])}
        found.append(Sample(cells, SINGLE.names[0], len(prompt), meta))
    return found


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for _, line in read_rows(path):
        if not {"prompt", "answer", "domain"} <= line.keys():
            raise InputError(f"{path}: not a file of answers; remove it and run again")
        yield line
