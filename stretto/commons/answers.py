"""Asking a model until its answer can be used, and recording it when it cannot.

An answer is a JSON object by the question's schema. One that cannot be read is asked for again,
with what was wrong; after the last attempt it is an outcome of its own, never a number. Timeouts,
refusals, empty answers and failing endpoints are outcomes too.
"""

import asyncio
import json
import math
from collections.abc import Awaitable, Sequence
from typing import Any, cast

from stretto.commons.villager import Answer, Outcome, Question
from stretto.errors import LimitError, StrettoError
from stretto.protocols import ChatModel, Completion, Message, Usage


async def ask_model(
    model: ChatModel,
    messages: Sequence[Message],
    question: Question,
    *,
    seed: int,
    attempts: int = 3,
    timeout: float | None = None,
    temperature: float | None = 0.0,
    max_tokens: int = 1000,
) -> Answer:
    """An answer that fits the schema and passes the check, or the outcome of the last attempt.

    Args:
        model: is asked.
        messages: the conversation up to and with the question.
        question: whose schema and check the answer must pass.
        seed: of the first attempt; later ones count up.
        attempts: how often it is asked.
        timeout: seconds for each attempt, waiting for its turn included; None: only the model's own
            limits count.
        temperature: of the sampling.
        max_tokens: of each answer.

    Raises:
        LimitError: a budget is spent: the run stops and can be resumed.
    """
    said = list(messages)
    usage, answer = Usage(), Answer(None, "error")
    for attempt in range(1, attempts + 1):
        try:
            completion = await asyncio.wait_for(
                model.complete(
                    said, schema=question.schema, seed=(seed + attempt - 1) % 2**31,
                    max_tokens=max_tokens, temperature=temperature,
                ),
                timeout,
            )  # fmt: skip
        except LimitError:
            raise
        except TimeoutError:
            answer = Answer(None, "timeout", why=f"no answer in {timeout or 0:g} s")
        except StrettoError as error:
            # The client has tried again already.
            answer = Answer(None, "error", why=str(error))
            return _with(answer, attempt, usage, model)
        else:
            usage = _sum(usage, completion.usage)
            value, outcome, why = _read(completion, question)
            answer = Answer(value, outcome, completion.text, why=why)
            if outcome == "ok":
                return _with(answer, attempt, usage, model)
            if completion.text.strip():
                said = [*messages, Message("assistant", completion.text)]
                said.append(Message("user", f"That cannot be used: {why}. Answer again, as JSON."))
    return _with(answer, attempts, usage, model)


async def together(*calls: Awaitable[Any]) -> list[Any]:
    """What calls give, in their order; the first error is raised when all have ended.

    Unlike ``asyncio.gather`` alone it leaves no call running behind: what the others are answered,
    and was paid for, reaches the record.
    """
    given = await asyncio.gather(*calls, return_exceptions=True)
    for one in given:
        if isinstance(one, BaseException):
            raise one
    return list(given)


def parse(text: str) -> Any:
    """The first JSON object in a text, which may stand in a fence or among words.

    A whole number is an int however it is written, ``10.0`` too.

    Raises:
        ValueError: there is none, or none without NaN and infinite numbers.
    """
    decoder = json.JSONDecoder(parse_float=_number, parse_constant=_number)
    start = text.find("{")
    while start >= 0:
        try:
            return decoder.raw_decode(text, start)[0]
        except ValueError:
            start = text.find("{", start + 1)
        except RecursionError:
            break
    raise ValueError("there is no JSON object in it")


def _number(text: str) -> int | float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number")
    return int(number) if number.is_integer() else number


def _read(completion: Completion, question: Question) -> tuple[Any, Outcome, str]:
    from jsonschema import Draft202012Validator

    if completion.finish_reason in ("refusal", "content_filter"):
        return None, "refused", f"the model refused ({completion.finish_reason})"
    if not completion.text.strip():
        return None, "empty", "it is empty"
    try:
        value = parse(completion.text)
    except ValueError as error:
        cut = " and was cut off" if completion.finish_reason == "length" else ""
        return None, "invalid", f"{error}{cut}"
    wrong = next(iter(Draft202012Validator(question.schema).iter_errors(value)), None)
    if wrong is not None:
        where = "/".join(map(str, wrong.absolute_path))
        return None, "invalid", f"{where + ': ' if where else ''}{wrong.message}"
    why = question.check(value)
    return (None, "invalid", why) if why else (value, "ok", "")


def _with(answer: Answer, attempts: int, usage: Usage, model: ChatModel) -> Answer:
    return Answer(
        answer.value, cast("Outcome", answer.outcome), answer.text, attempts, answer.why, usage,
        model.name, model.scripted,
    )  # fmt: skip


def _sum(a: Usage, b: Usage) -> Usage:
    return Usage(
        a.prompt_tokens + b.prompt_tokens,
        a.completion_tokens + b.completion_tokens,
        a.cost + b.cost,
    )
