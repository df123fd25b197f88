"""Asking several villagers the same thing, and counting votes."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from stretto.commons import prompts
from stretto.commons.stage import Stage
from stretto.commons.villager import Question

Method = Literal["plurality", "approval", "ranked"]
Option = TypeVar("Option", bound=Hashable)
REASONING = {"reasoning": {"type": "string"}}


async def poll(
    stage: Stage,
    purpose: str,
    properties: Callable[[str], Mapping[str, Any]] | Mapping[str, Any],
    default: Callable[[str], Mapping[str, Any]] | Mapping[str, Any],
    *,
    names: Sequence[str] | None = None,
    check: Callable[[str, Any], str] = lambda _name, _value: "",
    **data: Any,
) -> dict[str, Any]:
    """Usable answers by villager; who gave none is left out, and the record says why.

    Args:
        stage: of the run.
        purpose: of the question, unique within a month; the prompt is the file of its kind.
        properties: JSON schema of the answer's fields beside ``reasoning``, by villager or for all.
        default: those fields as a scripted villager answers.
        names: who is asked; by default everybody.
        check: villager, answer -> why it will not do, or an empty text.
        data: fields of the prompt beside ``me``, ``others``, ``unit``, ``units``, ``told_stock``.
    """
    words = stage.scenario
    questions = {}
    for name in stage.names if names is None else names:
        fields = properties(name) if callable(properties) else properties
        given = default(name) if callable(default) else default
        text = prompts.render(
            purpose.partition(".")[0], me=name, unit=words.unit, units=words.units,
            told_stock=words.told_stock(stage.village.stock),
            others=[other for other in stage.names if other != name], **data,
        )  # fmt: skip
        schema = {
            "type": "object", "properties": {**REASONING, **fields},
            "required": [*REASONING, *fields],
        }  # fmt: skip
        questions[name] = Question(
            purpose, text, schema, lambda value, name=name: check(name, value),
            default={"reasoning": "", **given}, focus=(words.place,), memories=words.memories,
        )  # fmt: skip
    answers = await stage.ask(questions)
    return {name: answer.value for name, answer in answers.items() if answer.outcome == "ok"}


def allowed(stage: Stage, units: int | None, of_share: float) -> int:
    """Most that one may take this month: what an institution set, a number, or a part of phi(t)."""
    if stage.quota is not None:
        return stage.quota
    return units if units is not None else part(stage.village.share, of_share)


def part(of: int, share: float) -> int:
    """So much of ``of``, rounded down; a rounding error of 1e-9 must not cost a unit."""
    return int(of * share + 1e-9)


async def vote(
    stage: Stage, about: str, options: Sequence[Option], method: Method, **data: Any
) -> Option | None:
    """Let all vote; None if no ballot can be used or nothing stands for election.

    Args:
        stage: of the run.
        about: what is voted on; part of the question's purpose.
        options: numbers or names; of equals the earlier wins.
        method: of voting.
        data: fields of the prompt ``vote`` beside the options and the method.
    """
    if not options:
        return None
    items = {"enum": list(options)}
    # Scripted villagers without words of their own are for the first.
    if method == "plurality":
        properties, default = {"choice": items}, {"choice": options[0]}
    else:
        properties = {"choices": {"type": "array", "items": items, "uniqueItems": True}}
        default = {"choices": [options[0]]}
    answers = await poll(
        stage, f"vote.{about}", properties, default, about=about, options=list(options),
        method=method, **data,
    )  # fmt: skip
    ballots = [
        [answer["choice"]] if method == "plurality" else answer["choices"]
        for answer in answers.values()
    ]
    won = winner(ballots, options, method)
    stage.log("vote", about=about, method=method, options=list(options), ballots=len(ballots),
              won=won)  # fmt: skip
    return won


def winner(
    ballots: Sequence[Sequence[Option]], options: Sequence[Option], method: Method
) -> Option | None:
    """Who wins; the earlier option of equals, None without a vote.

    ``plurality`` counts first choices, ``approval`` all that stand on a ballot, ``ranked`` is
    instant run-off: while none has more than half, the last of the first choices is struck (of
    equals the later option).
    """
    if method == "approval":
        return _most(Counter(o for ballot in ballots for o in ballot), options)
    if method == "plurality":
        return _most(Counter(ballot[0] for ballot in ballots if ballot), options)
    standing = list(options)
    while True:
        firsts = Counter(
            next(o for o in ballot if o in standing)
            for ballot in ballots
            if any(o in standing for o in ballot)
        )
        best = _most(firsts, standing)
        if best is None or 2 * firsts[best] > firsts.total():
            return best
        standing.remove(min(reversed(standing), key=lambda o: firsts[o]))


def _most(counts: Counter[Option], options: Sequence[Option]) -> Option | None:
    return max(options, key=lambda o: counts[o]) if counts.total() else None
