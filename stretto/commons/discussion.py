"""The meeting at the end of a month: a report, talk, and what is made of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stretto.commons import prompts, townhall
from stretto.commons.stage import Stage
from stretto.commons.village import Harvest
from stretto.commons.villager import Question

MODERATOR = "Moderator"
LARGE = 10**9  # beyond any limit; numbers stay numbers


@dataclass(frozen=True)
class Talk:
    """What came of a meeting.

    Attributes:
        utterances: how many villagers' utterances there were.
        limit: agreed most for each, if there was one.
    """

    utterances: int
    limit: int | None


async def meet(stage: Stage, harvest: Harvest) -> Talk:
    """Report, talk, extract the agreed limit, let all think about it."""
    lines = []
    if told := await report(stage, harvest):
        lines.append({"who": MODERATOR, "text": told})
    reports = len(lines)
    ways = {"meeting": _in_turns, "round": _round, "townhall": _at_once}
    said = await ways[stage.config.talk](stage, lines)
    limit = await _record(stage, lines) if len(lines) > reports else None
    if limit is not None:
        text = f"The village agreed that nobody takes more than {limit} {stage.scenario.units}."
        stage.tell(stage.names, "limit", text, always=True)
    await stage.each(lambda villager, ask, situation: villager.digest(ask, situation))
    return Talk(said, limit)


async def report(stage: Stage, harvest: Harvest) -> str:
    """Tell everybody what each took, as far as it is told; mechanisms may change what is."""
    if not stage.config.sees_catches:
        return ""
    told: dict[str, int] = dict(harvest.received)
    for mechanism in stage.mechanisms:
        told = await mechanism.report(stage, harvest, told)
    text = in_words(stage, told)
    stage.log("report", text=text)
    stage.tell(stage.names, "report", text, MODERATOR, always=True)
    return text


def in_words(stage: Stage, catches: Mapping[str, int]) -> str:
    """Everybody's catch; nothing is said of those who are not there."""
    unit, units, took = stage.scenario.unit, stage.scenario.units, stage.scenario.took
    return " ".join(
        f"{name} {took} {got} {unit if got == 1 else units}." for name, got in catches.items()
    )


async def _in_turns(stage: Stage, lines: list[dict[str, str]]) -> int:
    """As in the paper's code: the first villager begins, each speaker names the next."""
    speaker, count = stage.names[0], 0
    while count < stage.config.utterances:
        count += 1
        others = [name for name in stage.names if name != speaker]
        # Who lives alone talks to nobody else.
        itself = stage.config.switches.turns == "paper" or not others
        candidates = stage.names if itself else others
        value = await _speak(stage, speaker, count, lines, candidates)
        if value is None or value["done"]:
            break
        speaker = value["next"]
    return count


async def _round(stage: Stage, lines: list[dict[str, str]]) -> int:
    """Each once, in order."""
    names = stage.names[: stage.config.utterances]
    for count, name in enumerate(names, 1):
        await _speak(stage, name, count, lines, [])
    return len(names)


async def _at_once(stage: Stage, lines: list[dict[str, str]]) -> int:
    """All together, one row a token of each."""
    told = lines[0]["text"] if lines else ""
    text = prompts.render(
        "townhall", rules=stage.rules_for_all, names=", ".join(stage.names), report=told,
        meeting=stage.scenario.meeting, units=stage.scenario.units,
    )  # fmt: skip
    answer = (await stage.ask({townhall.NAME: Question("townhall", text, {})}))[townhall.NAME]
    if answer.outcome != "ok":
        return 0
    tokens = dict(zip(stage.names, answer.value["tokens"].values(), strict=True))
    # One after the other would have taken a row for each token of each.
    stage.log("townhall", rows=answer.value["rows"], in_turns=sum(tokens.values()), tokens=tokens)
    count = 0
    for name, spoken in zip(stage.names, answer.value["said"].values(), strict=True):
        if said := " ".join(spoken.split()):
            count += 1
            lines.append({"who": name, "text": said})
            stage.log("utterance", agent=name, text=said)
            stage.tell(stage.names, "said", said, name)
    return count


async def _speak(
    stage: Stage, name: str, count: int, lines: list[dict[str, str]], candidates: list[str]
) -> dict | None:
    """One utterance; None if there was none to be had. Without candidates none is to be named."""
    others = [other for other in stage.names if other != name]
    text = prompts.render(
        "utterance", meeting=stage.scenario.meeting, others=" and ".join(others),
        transcript=lines, candidates=", ".join(candidates),
    )  # fmt: skip
    properties: dict[str, Any] = {"text": {"type": "string"}}
    if candidates:
        properties["done"] = {"type": "boolean"}
        properties["next"] = {"type": "string", "enum": candidates}
    schema = {"type": "object", "required": list(properties), "properties": properties}
    focus = ("", *(line["text"] for line in lines[-4:]))
    quiet = {"text": "", "done": count >= len(stage.names), "next": next(iter(candidates), "")}
    question = Question(f"utterance.{count}", text, schema, default=quiet, focus=focus, memories=5)
    answer = (await stage.ask({name: question}))[name]
    if answer.outcome != "ok":
        return None
    # On one line: nobody can pass for another, or for the moderator.
    said = " ".join(answer.value["text"].split())
    if said:
        lines.append({"who": name, "text": said})
        stage.log("utterance", agent=name, text=said)
        stage.tell(stage.names, "said", said, name)
    return answer.value


async def _record(stage: Stage, lines: list[dict[str, str]]) -> int | None:
    """Summary and agreed limit, asked at once of the model that keeps the record."""
    wild = stage.config.switches.limits == "paper"
    number = {
        "type": ["integer", "null"], "minimum": 0,
        "maximum": LARGE if wild else stage.village.rules.capacity,
    }  # fmt: skip
    summary = Question(
        "summary", prompts.render("summary", transcript=lines),
        {"type": "object", "properties": {"summary": {"type": "string"}}, "required": ["summary"]},
        default={"summary": ""},
    )  # fmt: skip
    limit = Question(
        "limit",
        prompts.render(
            "limit", transcript=lines, units=stage.scenario.units, strict=not wild
        ),
        {
            "type": "object", "required": ["reasoning", "limit"],
            "properties": {"reasoning": {"type": "string"}, "limit": number},
        },
        default={"reasoning": "", "limit": None},
    )  # fmt: skip
    told = await stage.framework([summary, limit])
    if told[0].outcome == "ok":
        stage.log("summary", text=told[0].value["summary"])
    agreed = told[1].value["limit"] if told[1].outcome == "ok" else None
    if agreed is not None:
        stage.log("limit", value=agreed)
    return agreed
