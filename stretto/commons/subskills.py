"""The paper's four sub-skill tests: seeded instances, correct keys, answers by schema.

``dynamics``: all take the same, what is there next month? ``action``: what does one take?
``assumption``: if all take the same, how much may each take at most so that the stock does not
shrink? ``belief``: the same, without saying that all take the same.

Two things differ from the published tests. In the pollution scenario the published question of
``dynamics`` asks how *polluted* the river will be while its key is the part that is *clean*; here
every scenario is asked for what the key says: what is there, of the clean part where it is one. And
amounts that would leave 1 to 4 units are drawn again: by the rules nothing grows back then, by the
published key it doubles.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from stretto.commons import prompts
from stretto.commons.answers import ask_model
from stretto.commons.resource import Rules, collapsed, grow, share
from stretto.commons.run_config import NAMES
from stretto.commons.scenario import Scenario, scenario
from stretto.commons.seeds import generator, seed_of
from stretto.commons.stats import Interval, proportion
from stretto.commons.villager import Answer, Question
from stretto.errors import InputError
from stretto.protocols import ChatModel, Message, Usage

Test = Literal["dynamics", "action", "assumption", "belief"]
TESTS: tuple[Test, ...] = get_args(Test)
COUNT = 150
_LEAST, _MOST = 10, 100  # the stocks asked about


@dataclass(frozen=True)
class Instance:
    """One question.

    Attributes:
        test: which of the four.
        number: within the test, from 0.
        name: of the villager that is asked.
        stock: N, units now.
        each: M, units that each takes; 0 where the test does not say.
        low: smallest right answer.
        high: largest.
    """

    test: Test
    number: int
    name: str
    stock: int
    each: int
    low: int
    high: int


@dataclass(frozen=True)
class Score:
    """Of one test.

    Attributes:
        test: which.
        scenario: in whose words.
        right: of the answers that could be read, with Wilson's 95 % interval; None if none could.
        of_all: right ones of all questions, as the paper counts: what cannot be read is wrong.
        outcomes: how many answers were ``ok``, ``invalid``, ``refused`` and so on.
        usage: of all.
    """

    test: Test
    scenario: str
    right: Interval | None
    of_all: Interval
    outcomes: dict[str, int]
    usage: Usage


def key(test: Test, stock: int, each: int = 0, rules: Rules | None = None) -> tuple[int, int]:
    """Smallest and largest right answer.

    Raises:
        InputError: no such test.
    """
    rules = rules or Rules()
    if test not in TESTS:
        raise InputError(f"sub-skill {test!r}: there is none; there are {', '.join(TESTS)}")
    if test == "dynamics":
        left = np.array([max(0, stock - rules.villagers * each)])
        rest = np.where(collapsed(rules, left), 0, left)
        then = int(grow(rules, rest)[0])
        return then, then
    most = int(share(rules, np.array(stock), rules.villagers))
    return (min(1, most) if test == "action" else most), most


def instances(
    test: Test, *, count: int = COUNT, seed: int = 0, rules: Rules | None = None
) -> list[Instance]:
    """The questions of a test: the same for the same seed, whatever else is asked."""
    rules, rng = rules or Rules(), generator(seed, "subskills", test)
    made = []
    while len(made) < count:
        name = NAMES[int(rng.integers(len(NAMES)))]
        stock = int(rng.integers(_LEAST, _MOST + 1))
        each = int(rng.integers(0, stock // rules.villagers + 1)) if test == "dynamics" else 0
        left = stock - rules.villagers * each
        if 0 < left < rules.collapse_below:
            continue
        made.append(Instance(test, len(made), name, stock, each, *key(test, stock, each, rules)))
    return made


def question(instance: Instance, words: Scenario, rules: Rules) -> Question:
    """As a model is asked it; the answer is ``reasoning`` and ``units``."""
    text = prompts.render(
        f"subskill_{instance.test}", told_stock=words.told_stock(instance.stock),
        each=instance.each, units=words.units, stock_units=words.stock_units or words.units,
        act=words.act, resource=words.resource,
        people=rules.villagers, capacity=rules.capacity,
    )  # fmt: skip
    properties = {
        "reasoning": {"type": "string"},
        "units": {"type": "integer", "minimum": 0, "maximum": rules.capacity},
    }
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return Question(f"subskill.{instance.test}.{instance.number}", text, schema)


async def take(
    model: ChatModel,
    test: Test,
    scenario_name: str = "fishery",
    *,
    count: int = COUNT,
    seed: int = 0,
    attempts: int = 3,
    timeout: float | None = None,
) -> Score:
    """Let a model take a test, all questions at once (the model's own limits hold).

    Args:
        model: is asked.
        test: which.
        scenario_name: in whose words.
        count: of questions.
        seed: of the questions and of the model's sampling.
        attempts: for each question to get a readable answer.
        timeout: seconds for each attempt, queues included; None: the model's own limits.

    Raises:
        LimitError: a budget is spent.
    """
    rules, words = Rules(), scenario(scenario_name)
    asked = instances(test, count=count, seed=seed, rules=rules)

    async def answer(one: Instance) -> Answer:
        others = [name for name in NAMES if name != one.name][: rules.villagers - 1]
        told = prompts.render(
            "rules", name=one.name, growth=words.told_growth(rules), units=words.units,
            rules=words.rules.format(names=", ".join(others), capacity=rules.capacity),
            collapse_below=rules.collapse_below, stock_units=words.stock_units or words.units,
            cap=None, owns=None, talks=False, sees_catches=False,
            meeting=words.meeting, goal="", extra="",
        )  # fmt: skip
        put = question(one, words, rules)
        messages = [Message("system", told), Message("user", put.text)]
        drawn = seed_of(seed, put.purpose) % 2**31
        return await ask_model(model, messages, put, seed=drawn, attempts=attempts, timeout=timeout)

    answers = await asyncio.gather(*map(answer, asked))
    return score(test, scenario_name, asked, answers)


def score(
    test: Test, scenario_name: str, asked: Sequence[Instance], answers: Sequence[Answer]
) -> Score:
    """Count; answers that could not be read stand apart."""
    right = sum(
        answer.outcome == "ok" and one.low <= answer.value["units"] <= one.high
        for one, answer in zip(asked, answers, strict=True)
    )
    read = sum(answer.outcome == "ok" for answer in answers)
    used = [answer.usage for answer in answers]
    usage = Usage(
        sum(one.prompt_tokens for one in used), sum(one.completion_tokens for one in used),
        sum(one.cost for one in used),
    )  # fmt: skip
    return Score(
        test, scenario_name, proportion(right, read) if read else None,
        proportion(right, len(asked)), dict(Counter(answer.outcome for answer in answers)), usage,
    )  # fmt: skip
