"""Institutions: what each does to demands, payoffs and what is known; bytes and kills over all."""

import asyncio
import json
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stretto.commons.mechanisms.permits import Order, clear
from stretto.commons.metrics import measure
from stretto.commons.play import play
from stretto.commons.plugins import names
from stretto.commons.polls import winner
from stretto.commons.resource import Rules
from stretto.commons.run_config import Newcomer, RunConfig, Seat
from stretto.errors import ConfigError
from tests.commons.crew import crew, of, voter
from tests.commons.talking import Letters

NAMES = ["Ana", "Ben", "Cleo", "Dan", "Eva"]


def test_a_binding_quota_cuts_and_one_that_is_told_does_not(tmp_path: Path) -> None:
    game, events = crew(tmp_path / "a", takes="constant:20", mechanisms={"quotas": {}})
    assert game.received.tolist() == [[10] * 5] * 2
    assert [cut["wanted"] for cut in of(events, "cut")] == [20] * 10
    settings: dict[str, Any] = {"units": 7, "binding": False}
    game, events = crew(tmp_path / "b", takes="constant:12", mechanisms={"quotas": settings})
    assert game.received[0].tolist() == [12] * 5
    assert "more than 7 tons" in of(events, "rule")[0]["text"]
    each = {"units": 5, "each": {"Ben": 9}}
    game, _ = crew(tmp_path / "c", takes="constant:20", mechanisms={"quotas": each})
    assert game.received[0].tolist() == [5, 9, 5, 5, 5]


def test_fines_change_payoffs_and_no_catch(tmp_path: Path) -> None:
    takes = {"Ben": "constant:14"}
    fines = {"per_unit": 2.0, "flat": 1.0}
    game, events = crew(tmp_path / "a", takes=takes, months=1, mechanisms={"fines": fines})
    assert game.received.tolist() == [[10, 14, 10, 10, 10]]
    assert game.transfers.tolist() == [[0, -9, 0, 0, 0]]
    assert of(events, "transfer")[0]["units"] == {"Ben": -9.0}
    told = measure(game)
    assert told.payoff == pytest.approx(told.gain - 9 / 5)
    fines |= {"shared": True}
    game, _ = crew(tmp_path / "b", takes=takes, months=1, mechanisms={"fines": fines})
    assert game.transfers.tolist() == [[9 / 4, -9, 9 / 4, 9 / 4, 9 / 4]]
    assert measure(game).payoff == measure(game).gain


def test_fines_and_audits_go_by_a_quota_that_others_set(tmp_path: Path) -> None:
    both = {"quotas": {"units": 8, "binding": False}, "fines": {"per_unit": 1.0}}
    game, _ = crew(tmp_path, months=1, mechanisms=both)
    assert game.transfers.tolist() == [[-2.0] * 5]


def test_sanctions_cost_those_who_do_them(tmp_path: Path) -> None:
    def moves(*made: tuple[str, str, int]) -> Any:
        told = [dict(zip(("who", "what", "spend"), move, strict=True)) for move in made]
        return {"sanction": lambda *_: {"reasoning": "", "moves": told}}

    says = {"Ana": moves(("Ben", "punish", 2)), "Ben": moves(("Cleo", "reward", 1))}
    settings = {"sanctions": {"punish": 3.0, "reward": 2.0}}
    game, events = crew(tmp_path, months=1, says=says, mechanisms=settings)
    assert game.transfers.tolist() == [[-2, -7, 2, 0, 0]]
    assert [event["what"] for event in of(events, "transfer")] == ["punish", "reward"]
    with pytest.raises(ConfigError, match="must be above 0"):
        crew(tmp_path / "b", mechanisms={"sanctions": {"punish": 0.0}})


@pytest.mark.parametrize(
    "moves",
    [[{"who": "Ben", "what": "punish", "spend": 9}], [{"who": "Zoe", "what": "punish", "spend": 1}],
     [{"who": "Ben", "what": "bribe", "spend": 1}], [{"who": "Ben", "what": "punish", "spend": 0}],
     [{"who": "Ben", "what": "punish", "spend": 4}, {"who": "Dan", "what": "punish", "spend": 4}]],
)  # fmt: skip
def test_sanctions_that_cannot_be_are_outcomes_and_move_nothing(moves: Any, tmp_path: Path) -> None:
    seats = (Seat("m"), *[Seat("script:threshold")] * 4)
    config = RunConfig(
        seats, rules=Rules(months=1), mechanisms={"sanctions": {}}, attempts=1, utterances=1
    )
    game = asyncio.run(play(config, {"m": voter(moves=moves)}, tmp_path, embedder=Letters()))
    assert not game.transfers.any()
    answers = [
        event["outcome"]
        for event in map(json.loads, (tmp_path / "game.jsonl").read_text().splitlines())
        if event["type"] == "answer" and event["purpose"] == "sanction" and event["agent"] == "Ana"
    ]
    assert answers == ["invalid"]


orders = st.lists(
    st.builds(
        Order, st.sampled_from(NAMES), st.sampled_from(["buy", "sell", "none"]),
        st.integers(0, 12), st.integers(0, 9).map(float),
    ), max_size=5, unique_by=lambda order: order.name,
)  # fmt: skip


@given(orders)
def test_a_market_gives_what_it_takes_at_prices_that_all_accept(made: list[Order]) -> None:
    moved, price = clear(made)
    assert sum(moved.values()) == 0
    for order in made:
        got = moved.get(order.name, 0)
        if order.side == "buy":
            assert 0 <= got <= order.units
            assert not got or price <= order.price
        elif order.side == "sell":
            assert -order.units <= got <= 0
            assert not got or price >= order.price
        else:
            assert not got
    # Nobody is left who would still trade.
    left_bids = [o.price for o in made if o.side == "buy" and moved.get(o.name, 0) < o.units]
    left_asks = [o.price for o in made if o.side == "sell" and -moved.get(o.name, 0) < o.units]
    assert not left_bids or not left_asks or max(left_bids) < min(left_asks)


def test_permits_are_traded_and_cap_the_harvest(tmp_path: Path) -> None:
    def order(side: str, count: int, price: float) -> Any:
        value = {"reasoning": "", "side": side, "count": count, "price": price}
        return {"trade": lambda *_: value}

    says = {"Ana": order("sell", 4, 1.0), "Ben": order("buy", 9, 3.0)}
    game, events = crew(
        tmp_path, takes="constant:20", says=says, months=1, mechanisms={"permits": {}}
    )
    assert game.received.tolist() == [[6, 14, 10, 10, 10]]
    assert of(events, "trade")[0]["price"] == 2.0
    assert game.transfers.tolist() == [[8, -8, 0, 0, 0]]


def test_ways_to_vote_differ() -> None:
    ballots = [["a", "b"]] * 4 + [["b", "c"]] * 3 + [["c", "b"]] * 2
    options = ["a", "b", "c"]
    assert winner(ballots, options, "plurality") == "a"
    assert winner(ballots, options, "approval") == "b"
    assert winner(ballots, options, "ranked") == "b"
    assert winner([], options, "ranked") is None
    assert winner([[]], options, "approval") is None
    assert winner([["b"], ["a"]], options, "plurality") == "a"
    assert winner([["c"], ["b"]], options, "ranked") == "b"
    assert winner([["c"], ["b"], ["a"], ["a", "b"]], options, "ranked") == "a"


@pytest.mark.parametrize("method", ["plurality", "approval", "ranked"])
def test_what_is_voted_binds_next_month(method: str, tmp_path: Path) -> None:
    def wants(units: int) -> Any:
        ballot = {"choice": units, "choices": [units]}
        return {"propose": lambda *_: {"limit": units}, "vote": lambda *_: ballot}

    says = dict(zip(NAMES, map(wants, (5, 8, 5, 9, 5)), strict=True))
    voting = {"voting": {"method": method}}
    game, events = crew(tmp_path, takes="threshold", says=says, months=3, mechanisms=voting)
    assert game.received.tolist() == [[10] * 5, [5] * 5, [5] * 5]
    assert [vote["won"] for vote in of(events, "vote")] == [5, 5]
    assert of(events, "vote")[0]["options"] == [5, 8, 9]


def test_options_that_are_given_need_no_proposals(tmp_path: Path) -> None:
    _, events = crew(tmp_path, mechanisms={"voting": {"options": [12, 6], "binding": False}})
    assert of(events, "vote")[0]["options"] == [6, 12]
    assert not [event for event in of(events, "answer") if event["purpose"] == "propose"]


def test_a_leader_is_elected_for_a_term_and_sets_the_quota(tmp_path: Path) -> None:
    ben = {"vote": lambda *_: {"choice": "Ben"}, "quota": lambda *_: {"limit": 7}}
    ana = {"quota": lambda *_: {"limit": 1}}
    says = {**dict.fromkeys(NAMES, ben), "Ana": ana | {"vote": ben["vote"]}}
    settings = {"leader": {"term": 2}}
    game, events = crew(tmp_path, says=says, months=3, mechanisms=settings)
    assert game.received.tolist() == [[7] * 5] * 3
    assert [(vote["month"], vote["won"]) for vote in of(events, "vote")] == [(1, "Ben"), (3, "Ben")]


def test_a_leader_without_an_answer_sets_nothing_and_last_months_quota_is_gone(
    tmp_path: Path,
) -> None:
    limit = {"quota": lambda _, situation: {"limit": 7} if situation.month == 1 else None}
    settings = {"leader": {"binding": False}, "fines": {}}
    game, events = crew(tmp_path, says={"Ana": limit}, months=2, mechanisms=settings)
    assert game.transfers.tolist() == [[-3.0] * 5, [0.0] * 5]
    asked = [event for event in of(events, "answer") if event["purpose"] == "quota"]
    assert [event["outcome"] for event in asked] == ["ok", "refused"]


def test_a_mediator_is_gentle_only_if_all_delegate(tmp_path: Path) -> None:
    yes = {"delegate": lambda *_: {"delegate": True}}
    says = dict.fromkeys(NAMES, yes)
    game, _ = crew(
        tmp_path / "a", takes="constant:20", says=says, months=1, mechanisms={"mediator": {}}
    )
    assert game.received.tolist() == [[10] * 5]
    del says["Dan"]
    settings = {"mediator": {"otherwise": 1.5}}
    game, _ = crew(
        tmp_path / "b", takes={"Dan": "constant:3"}, says=says, months=1, mechanisms=settings
    )
    assert game.demands.tolist() == [[15, 15, 15, 3, 15]]


def test_contracts_hold_those_who_sign(tmp_path: Path) -> None:
    says = {
        "Ana": {"contract": lambda *_: {"limit": 8, "penalty": 2}},
        "Eva": {"sign": lambda *_: {"sign": False}},
    }
    game, events = crew(tmp_path / "a", says=says, months=1, mechanisms={"contracts": {}})
    assert not of(events, "contract")[0]["holds"]
    assert not game.transfers.any()
    takes = {"Ben": "constant:11", "Ana": "constant:8", "Cleo": "constant:8", "Dan": "constant:8"}
    signers = {"contracts": {"unanimous": False}}
    game, events = crew(tmp_path / "b", takes=takes, says=says, months=1, mechanisms=signers)
    assert of(events, "contract")[0]["signers"] == ["Ana", "Ben", "Cleo", "Dan"]
    assert game.transfers.tolist() == [[2, -6, 2, 2, 0]]
    assert of(events, "contract")[0]["by"] == "Ana"


def test_ratings_are_told_to_all_next_month(tmp_path: Path) -> None:
    def rates(who: str, rating: int) -> Any:
        one = {"who": who, "rating": rating, "why": "They are kind."}
        return {"rate": lambda *_: {"ratings": [one]}}

    says = {"Ana": rates("Ben", 5), "Cleo": rates("Ben", 2), "Ben": rates("Ana", 1)}
    _, events = crew(tmp_path, says=says, months=3, mechanisms={"reputation": {}})
    assert of(events, "standing")[0]["means"] == {"Ana": 1.0, "Ben": 3.5}
    told = [rule["text"] for rule in of(events, "rule") if not rule["lasting"]]
    assert told == ["Standing in the village: Ana 1.0, Ben 3.5."] * 2


def test_what_is_seen_of_catches_may_be_little_wrong_or_a_lie(tmp_path: Path) -> None:
    _, events = crew(tmp_path / "a", mechanisms={"monitoring": {"chance": 0.0}})
    assert [report["text"] for report in of(events, "report")] == ["", ""]
    game, events = crew(tmp_path / "b", months=12, mechanisms={"monitoring": {"noise": 3.0}})
    errors = [told - 10 for seen in of(events, "seen") for told in seen["told"].values()]
    assert 2.0 < float(np.std(errors)) < 4.2
    assert game.received.tolist() == [[10] * 5] * 12
    says = {"Ben": {"claim": lambda *_: {"claim": 3}}}
    takes = {"Ben": "constant:14"}
    lies = {"monitoring": {"claims": True}}
    says |= {"Eva": {"claim": lambda *_: {"claim": None}}}
    _, events = crew(tmp_path / "c", takes=takes, says=says, months=1, mechanisms=lies)
    assert "Eva" not in of(events, "report")[0]["text"]
    assert "Ben caught 3 tons." in of(events, "report")[0]["text"]
    assert of(events, "harvest")[0]["received"]["Ben"] == 14
    _, events = crew(tmp_path / "d", months=12, mechanisms={"monitoring": {"chance": 0.5}})
    assert 15 < sum(len(seen["told"]) for seen in of(events, "seen")) < 45


def test_the_model_is_told_what_the_report_says_and_its_own_catch(tmp_path: Path) -> None:
    model = voter(units=10, claim=3)
    config = RunConfig(
        (Seat("m"),), rules=Rules(months=2), mechanisms={"monitoring": {"claims": True}}
    )
    asyncio.run(play(config, {"m": model}, tmp_path, embedder=Letters()))
    last = [prompt for prompt in model.prompts if "start of month 2" in prompt]
    assert all("Ben caught 3 tons." in prompt and "You caught 10 tons" in prompt for prompt in last)
    assert all("nobody checks it" in prompt for prompt in last)


def test_audits_find_by_chance(tmp_path: Path) -> None:
    takes, audits = "constant:12", {"chance": 1.0, "per_unit": 3.0, "cost": 0.5}
    game, _ = crew(tmp_path / "a", takes=takes, months=1, mechanisms={"audits": audits})
    assert game.transfers.tolist() == [[-6.5] * 5]
    game, _ = crew(tmp_path / "b", takes=takes, mechanisms={"audits": {"chance": 0.0}})
    assert not game.transfers.any()
    _, events = crew(tmp_path / "c", months=12, mechanisms={"audits": {"chance": 0.5}})
    assert 15 < sum(len(one["catches"]) for one in of(events, "audit")) < 45


def test_rules_of_a_month_are_gone_in_the_next(tmp_path: Path) -> None:
    model = voter()
    config = RunConfig((Seat("m"),), rules=Rules(months=2), mechanisms={"quotas": {"units": 9}})
    asyncio.run(play(config, {"m": model}, tmp_path, embedder=Letters()))
    assert all(prompt.count("nobody may take more than 9 tons") <= 1 for prompt in model.prompts)
    assert "nobody may take more than 9 tons" in model.prompts[-1]
    # What somebody wanted is what they said, not what was cut.
    assert "You caught 9 tons of 10 that you wanted." in model.prompts[-1]


@pytest.mark.parametrize("name", names("mechanisms"))
def test_newcomers_live_under_every_mechanism(name: str, tmp_path: Path) -> None:
    config = RunConfig(
        (Seat("script:threshold"),), rules=Rules(villagers=4, months=3),
        newcomers=(Newcomer(2, Seat("script:half")),), mechanisms={name: {}},
    )  # fmt: skip
    game = asyncio.run(play(config, {}, tmp_path))
    assert game.present.sum(axis=1).tolist()[:2] == [4, 5]


# Settings by which everything that can be drawn is drawn.
DRAWN: dict[str, Any] = {
    "monitoring": {"chance": 0.6, "noise": 2.0, "claims": True}, "audits": {"cost": 0.1},
    "voting": {"method": "ranked"}, "contracts": {"unanimous": False}, "fines": {"shared": True},
}  # fmt: skip
ALL = {name: DRAWN.get(name, {}) for name in names("mechanisms")}
EACH = [
    *((name, {name: ALL[name]}, "lean") for name in ALL),
    ("all", ALL, "lean"),
    ("all", ALL, "paper"),
]


def run(config: RunConfig, folder: Path, jitter: float = 0.0) -> tuple[bytes, int]:
    folder.mkdir(exist_ok=True)
    model = voter(jitter)
    asyncio.run(play(config, {"m": model}, folder, embedder=Letters()))
    return (folder / "game.jsonl").read_bytes(), sum(model.asked.values())


@pytest.mark.parametrize(
    ("mechanisms", "profile"), [one[1:] for one in EACH], ids=[f"{n}-{p}" for n, _, p in EACH]
)
def test_same_bytes_and_nothing_asked_twice_after_a_kill(
    mechanisms: Any, profile: Any, tmp_path: Path
) -> None:
    config = RunConfig(
        (Seat("m"),), rules=Rules(months=2), profile=profile, utterances=2, mechanisms=mechanisms,
    )  # fmt: skip
    whole, asked = run(config, tmp_path / "whole")
    assert b'"outcome": "invalid"' not in whole
    assert run(config, tmp_path / "again", jitter=0.001)[0] == whole
    count = 12 if len(mechanisms) > 1 else 3
    for cut in np.random.default_rng(0).integers(0, len(whole), count).tolist():
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "game.jsonl").write_bytes(whole[:cut])
        bytes_, again = run(config, folder)
        assert bytes_ == whole
        kept = whole[:cut].count(b'"type": "answer"') - (not whole[:cut].endswith(b"\n"))
        assert again <= asked - kept


def test_institutions_of_others_are_found_by_entry_point(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from stretto.commons.mechanisms import Mechanism, mechanisms_of

    @dataclass(frozen=True)
    class Settings:
        tax: int = 1

    class Tax(Mechanism):
        def __init__(self, settings: Settings) -> None:
            self.tax = settings.tax

        async def after_harvest(self, stage: Any, harvest: Any) -> None:
            stage.pay("tax", "tax", dict.fromkeys(harvest.received, -self.tax))

    Tax.Settings = Settings  # type: ignore[attr-defined]
    module = type(sys)("a_package_of_others")
    module.Tax = Tax  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_package_of_others", module)
    point = metadata.EntryPoint("tax", "a_package_of_others:Tax", "stretto.mechanisms")
    monkeypatch.setattr(
        metadata, "entry_points", lambda group: [point] if group == point.group else []
    )
    game, _ = crew(tmp_path, months=1, mechanisms={"tax": {"tax": 2}})
    assert game.transfers.tolist() == [[-2] * 5]
    assert "tax" in names("mechanisms")
    with pytest.raises(ConfigError, match=r"mechanisms\.tax"):
        mechanisms_of({"tax": {"rate": 2}})


def test_settings_that_are_wrong_name_their_place() -> None:
    seats = (Seat("script:greedy"),)
    for settings in ({"fines": {"per_unit": -1}}, {"audits": {"chance": 2}}, {"quotas": {"x": 1}}):
        (name,) = settings
        with pytest.raises(ConfigError, match=f"mechanisms.{name}"):
            asyncio.run(play(RunConfig(seats, mechanisms=settings)))
