"""Numbers in talk, agreed limits, promises: by example, and on the development pack's runs."""

import csv
from pathlib import Path
from typing import Any

import pytest

from stretto.commons.importers import read_logs
from stretto.commons.negotiation import (
    agreements,
    kept,
    promised,
    promises,
    proposals,
    proposed,
)
from stretto.evals.items import find_source
from tests.commons.crew import crew


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("I propose that each of us takes 9 tons.", [9]),
        ("Let us agree on at most 12 per person next month.", [12]),
        ("We should stick to the 10-ton limit.", [10]),
        ("How about 8 to 10 tons each?", [10]),
        ("Let's keep it at 7\u20138 hectares each, not more.", [8]),
        ("Nobody should take more than 11.", [11]),
        ("Everyone could aim for 6, or for 5.", [6, 5]),
        # Totals, stocks, past catches, fractions, percentages, years are no proposals.
        ("I propose that we limit our combined catch to 50 tons.", []),
        ("Each of us caught 10 tons last month.", []),
        ("Everybody should leave 50 tons in the lake.", []),
        ("Let us each take 0.5 tons.", []),
        ("Everyone should cut their catch by 20%.", []),
        ("We should all think of the stock of 100 tons.", []),
        ("We should all meet again in 3 months.", []),
        ("There are 100 tons.", []),
        ("I will take 9 if everyone agrees.", []),
        ("", []),
    ],
)
def test_what_a_text_proposes(text: str, numbers: list[int]) -> None:
    assert proposed(text) == numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("I will take 9 tons.", [9]),
        ("I took 12 last month. I'll take 8.", [8]),
        ("I\u2019ll keep my catch at 8 tons or less.", [8]),
        ("I caught 12, but I promise to take 7.", [7]),
        ("We will take 9.", []),
        ("I will do what the 5 of us agree on.", []),
        ("I took 9.", []),
    ],
)
def test_what_a_text_promises(text: str, numbers: list[int]) -> None:
    assert promised(text) == numbers


def said(month: int, agent: str, text: str) -> dict[str, Any]:
    return {"type": "utterance", "month": month, "agent": agent, "text": text}


def harvest(month: int, **demands: int | None) -> dict[str, Any]:
    return {"type": "harvest", "month": month, "demands": demands}


def test_promises_are_held_against_the_next_demand() -> None:
    events = [
        harvest(1, Ana=20, Ben=20, Cleo=20, Dan=20),
        said(1, "Ana", "I will take 10."), said(1, "Ben", "I'll take 5."),
        said(1, "Ben", "Well, I will take 9."), said(1, "Cleo", "I'll take 3."),
        said(1, "Dan", "I'll take 3."), said(1, "Ana", "Let us all take at most 10."),
        harvest(2, Ana=10, Ben=8, Cleo=4, Dan=None),
        said(2, "Ana", "I'll take 0."),
    ]  # fmt: skip
    assert (kept(events).yes, kept(events).of) == (2, 3)
    assert [(one.agent, one.units) for one in promises(events)][:3] == [
        ("Ana", 10), ("Ben", 5), ("Ben", 9),
    ]  # fmt: skip
    assert [(one.month, one.agent, one.units) for one in proposals(events)] == [(1, "Ana", 10)]


def test_a_deceiver_breaks_the_promise_of_every_month(tmp_path: Path) -> None:
    settings = {"deceptive": {"seats": ["Ana", "Ben"], "takes": 1.5}}
    says = {"Cleo": {"utterance": lambda q, _: {**q.default, "text": "I will take 10."}}}
    _, events = crew(
        tmp_path, months=3, talk="round", profile="paper", says=says, adversaries=settings
    )
    rate = kept(events)
    assert (rate.yes, rate.of) == (2, 6)


def runs() -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    folder = find_source(None)
    if folder is None:
        pytest.skip("the development pack ../shared/data/dev.tar.xz is not here")
    with (folder / "govsim_run_summary.csv").open() as file:
        told = {row["run"]: row for row in csv.DictReader(file)}
    return read_logs(folder / "govsim_events_slim.jsonl.gz"), told


def test_the_development_packs_villages_keep_their_limits() -> None:
    games, told = runs()
    fishery = agreements(g for n, g in games.items() if told[n]["scenario"].startswith("fishing"))
    assert (fishery.limits.yes, fishery.limits.of) == (258, 401)
    assert (fishery.complied.yes, fishery.complied.of) == (1049, 1105)  # 95 %
    assert (fishery.too_high.yes, fishery.too_high.of) == (56, 258)  # 22 %
    # All 112: 82 % and 50 %. The 34 runs of "trash" turn the game round: there a limit is the
    # least that each must take.
    everything = agreements(games.values())
    assert (everything.complied.yes, everything.complied.of) == (1588, 1925)
    assert (everything.too_high.yes, everything.too_high.of) == (223, 445)


def test_the_share_of_nothing_is_none(tmp_path: Path) -> None:
    told = agreements([crew(tmp_path)[0]])
    assert told.limits.of == 2
    assert told.limits.yes == 0
    assert told.complied.share is told.too_high.share is None
