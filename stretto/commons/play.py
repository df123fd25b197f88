"""One run: months of harvest, report, talk and reflection, recorded as it goes.

All requests of a phase go out together, so the chain of requests that wait for each other is what
is left: harvest, utterances one by one, record, thoughts, ratings, insights, ratings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stretto import __version__
from stretto import config as configs
from stretto.commons import prompts
from stretto.commons.adversaries import adversaries_of
from stretto.commons.calendar import first_day, last_day, meeting_day
from stretto.commons.chat_villager import ChatVillager
from stretto.commons.code_villager import CodeVillager
from stretto.commons.discussion import meet, report
from stretto.commons.game import Game
from stretto.commons.journal import Journal
from stretto.commons.mechanisms import Mechanism, mechanisms_of
from stretto.commons.memory import Embedder, WordLlamaEmbedder
from stretto.commons.metrics import measure
from stretto.commons.policies import policy
from stretto.commons.run_config import RunConfig
from stretto.commons.scenario import scenario
from stretto.commons.seeds import seed_of
from stretto.commons.stage import FRAMEWORK, Stage
from stretto.commons.townhall import Hall, TownHall
from stretto.commons.village import Harvest, Village
from stretto.commons.villager import Answer, Question, ScriptedVillager, Villager
from stretto.errors import ConfigError
from stretto.protocols import ChatModel

JOURNAL = "game.jsonl"


async def play(
    config: RunConfig,
    models: Mapping[str, ChatModel] | None = None,
    folder: Path | None = None,
    *,
    embedder: Embedder | None = None,
    human: Callable[[str], Villager] | None = None,
    hall: Hall | None = None,
    on_answer: Callable[[Answer], None] = lambda _: None,
    on_month: Callable[[Harvest], None] = lambda _: None,
) -> Game:
    """Play a run to its end, or on from where it was broken off.

    Args:
        config: of the run.
        models: chat models by the names that seats give.
        folder: keeps ``game.jsonl``; None: nothing is kept.
        embedder: of memories; by default wordllama, loaded when first needed.
        human: name -> a person's seat.
        hall: multi-stream model by which all speak at once, for ``talk: townhall``.
        on_answer: told of every new answer.
        on_month: told of every harvest, as it comes.

    Raises:
        ConfigError: a seat's model, a mechanism or a scenario is not there.
        InputError: the folder holds another game.
        LimitError: a budget is spent; play again to go on.
    """
    people = _people(config, models or {}, embedder, human)
    if config.talk == "townhall":
        if hall is None:
            raise ConfigError("talk: townhall: needs a multi-stream model, and none is given here")
        people.append(TownHall(hall, len(config.names), rows=config.rows, seed=config.seed))
    journal = Journal(folder / JOURNAL if folder is not None else None)
    first = config.names[: config.rules.villagers]
    village = Village(config.rules, first, seed=config.seed)
    mechanisms = mechanisms_of(config.mechanisms)
    words = scenario(config.scenario)
    stage = Stage(config, words, village, people, journal, on_answer, mechanisms)
    _start(stage)
    for mechanism in mechanisms:
        await mechanism.begin(stage)
    utterances, limits = [], []
    while True:
        stage.new_month()
        stage.today = first_day(village.month)
        for name, month in config.arrivals.items():
            if month == village.month:
                _arrive(stage, name)
        await stage.prepare()
        for mechanism in mechanisms:
            await mechanism.before_harvest(stage)
        harvest = await _harvest(stage, mechanisms)
        on_month(harvest)
        for mechanism in mechanisms:
            await mechanism.after_harvest(stage, harvest)
        said, limit = await _evening(stage, harvest, mechanisms)
        stage.log("evening", utterances=said, limit=limit)
        for mechanism in mechanisms:
            await mechanism.after_talk(stage, harvest)
        utterances.append(said)
        limits.append(np.nan if limit is None else float(limit))
        stage.today = last_day(village.month)
        await stage.each(lambda villager, ask, situation: villager.reflect(ask, situation))
        if village.ended:
            break
        village.next_month()
    game = village.game(utterances, limits, stage.transfers)
    reason = "collapse" if game.collapsed else "horizon"
    stage.log("end", reason=reason, **{
        form: asdict(measure(game, form)) for form in ("strict", "legacy")
    })  # fmt: skip
    return game


def _start(stage: Stage) -> None:
    seats = [
        {"name": name, "model": villager.model, "scripted": villager.scripted}
        for name, villager in stage.villagers.items()
    ]
    stage.journal.write(
        "start", stretto=__version__, config=configs.dump(stage.config), seats=seats,
        prompts=prompts.hashes(),
    )  # fmt: skip


def _arrive(stage: Stage, name: str) -> None:
    """A newcomer; the village is told."""
    stage.village.arrive(name)
    stage.log("arrival", agent=name, model=stage.villagers[name].model)
    stage.tell(stage.names, "arrival", f"{name} has come to live in the village.", always=True)


async def _harvest(stage: Stage, mechanisms: Sequence[Mechanism]) -> Harvest:
    """Everybody decides at once; mechanisms may change a demand before it counts."""
    village, words = stage.village, stage.scenario
    stage.log("month", stock=village.stock, share=village.share)
    stage.tell(stage.names, "stock", words.told_stock(village.stock), always=True)
    if (how := stage.config.told_threshold) != "no":
        told = stage.told_share if how == "number" else None
        text = prompts.render("threshold", share=told, units=words.units)
        stage.tell(stage.names, "threshold", text, always=True)
    answers = await stage.ask({name: _harvest_question(stage) for name in stage.names})
    # On one line each: nobody can pass for another, or for the moderator.
    said = {
        n: " ".join(str((a.value or {}).get("message", "")).split()) for n, a in answers.items()
    }
    stage.messages = {name: text for name, text in said.items() if text}
    demands: dict[str, int | None] = {}
    for name, answer in answers.items():
        demands[name] = answer.value["units"] if answer.outcome == "ok" else None
        if demands[name] is None and stage.config.switches.parsing == "paper":
            demands[name] = 0
    wanted = dict(demands)
    for mechanism in mechanisms:
        for name, units in demands.items():
            if units is not None:
                demands[name] = mechanism.demand(stage, name, units)
    harvest = village.harvest(demands)
    stage.log("harvest", **{k: v for k, v in asdict(harvest).items() if k != "month"})
    stage.today = meeting_day(stage.month)
    for name, answer in answers.items():
        heed = getattr(stage.villagers[name], "heed", None)
        if heed is not None:
            heed(answer)
        told = _result(stage, harvest, name, wanted[name])
        stage.tell([name], "result", told, always=True)
        if answer.outcome == "ok" and stage.config.profile == "lean":
            _note(stage, name, answer.value)
    return harvest


def _harvest_question(stage: Stage) -> Question:
    config, words, capacity = stage.config, stage.scenario, stage.village.rules.capacity
    lean = config.profile == "lean"
    # Who forgets is asked for a note too: villages with and without memory begin alike.
    wanted = {"message": lean and config.talk in ("meeting", "round"), "note": lean}
    text = prompts.render(
        "harvest", month=stage.month, stock=words.told_stock(stage.village.stock),
        units=words.units, act=words.act, capacity=capacity, **wanted,
    )  # fmt: skip
    properties: dict[str, Any] = {
        "reasoning": {"type": "string"}, "units": {"type": "integer", "minimum": 0},
    }  # fmt: skip
    default: dict[str, Any] = {"reasoning": ""}
    for key in (key for key, yes in wanted.items() if yes):
        properties[key], default[key] = {"type": "string"}, ""
    if config.switches.parsing == "corrected":
        properties["units"]["maximum"] = capacity
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return Question(
        "harvest", text, schema, default=default, focus=(words.place,), memories=words.memories
    )


def _result(stage: Stage, harvest: Harvest, name: str, wanted: int | None) -> str:
    words, got = stage.scenario, harvest.received[name]
    tried = f" of {wanted} that you wanted" if words.tells_demand and wanted is not None else ""
    return f"You {words.took} {got} {words.unit if got == 1 else words.units}{tried}."


def _note(stage: Stage, name: str, value: Mapping[str, Any]) -> None:
    note = getattr(stage.villagers[name], "note", None)
    if note is not None:
        note(str(value.get("note", "")), stage.month)


async def _evening(
    stage: Stage, harvest: Harvest, mechanisms: Sequence[Mechanism]
) -> tuple[int, int | None]:
    """Report and talk; how many spoke, and the limit they agreed on."""
    config = stage.config
    if config.talk == "none":
        await report(stage, harvest)
        return 0, None
    for mechanism in mechanisms:
        await mechanism.before_talk(stage, harvest)
    if config.profile == "lean" and config.talk != "townhall":
        await report(stage, harvest)
        return _messages(stage), None
    talk = await meet(stage, harvest)
    return talk.utterances, talk.limit


def _messages(stage: Stage) -> int:
    """Lean villagers wrote what they want to say with the harvest: it is heard now."""
    count = 0
    for name, text in stage.messages.items():
        count += 1
        stage.log("utterance", agent=name, text=text)
        stage.tell(stage.names, "said", text, name)
    return count


def _people(
    config: RunConfig,
    models: Mapping[str, ChatModel],
    embedder: Embedder | None,
    human: Callable[[str], Villager] | None,
) -> list[Villager]:
    """Everybody, newcomers too, and whoever keeps the record."""
    words = scenario(config.scenario)
    twists = adversaries_of(config.adversaries, config.names)
    people: list[Villager] = []
    used = [seat.model.removeprefix("code:") for seat in config.everybody]
    first_model = next((model for model in used if model in models), "")
    # The reference lets the first villager's model speak for all.
    voice = models.get(first_model) if config.switches.speakers == "paper" else None

    def chat(name: str, model: str) -> ChatVillager:
        if model not in models:
            known = ", ".join(models) or "none"
            raise ConfigError(f"seat {name}: there is no model {model!r}; there are: {known}")
        return ChatVillager(
            name, models[model], embedder=embedder or WordLlamaEmbedder(), profile=config.profile,
            switches=config.switches, act=words.act, attempts=config.attempts,
            timeout=config.timeout, temperature=config.temperature, has_memory=config.memory,
            max_tokens=config.max_tokens, seed=config.seed, voice=voice,
        )  # fmt: skip

    for seat in config.everybody:
        if seat.model.startswith("script:"):
            wanted = seat.model.removeprefix("script:")
            villager: Villager = ScriptedVillager(seat.name, policy(wanted, config.seed), wanted)
        elif seat.model == "human":
            if human is None:
                raise ConfigError(f"seat {seat.name}: nobody is there to play; use commons play")
            villager = human(seat.name)
        elif seat.model.startswith("code:"):
            villager = CodeVillager(
                chat(seat.name, seat.model.removeprefix("code:")),
                words,
                sees_catches=config.sees_catches,
                seed=seed_of(config.seed, "code", seat.name),
            )
        else:
            villager = chat(seat.name, seat.model)
        for twist in twists:
            villager = twist(villager)
        people.append(villager)
    keeper = config.framework or first_model
    people.append(chat(FRAMEWORK, keeper) if keeper else
                  ScriptedVillager(FRAMEWORK, policy("threshold"), "none"))  # fmt: skip
    return people
