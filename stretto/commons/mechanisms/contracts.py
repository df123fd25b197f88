"""Contracts: one proposes a limit and a penalty; those who sign are held to it."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from stretto.commons.mechanisms import Mechanism
from stretto.commons.polls import poll
from stretto.commons.stage import Stage
from stretto.commons.village import Harvest


@dataclass(frozen=True)
class Settings:
    """What counts as a contract.

    Attributes:
        unanimous: it holds only if all sign; if not, it holds for those who do, from two on.
        most: largest penalty that can be proposed, units of payoff for each unit above the limit.
    """

    unanimous: bool = True
    most: Annotated[int, Field(ge=1)] = 5


class Plugin(Mechanism):
    """A new contract each month, proposed by each in turn; penalties go to the other signers."""

    Settings = Settings

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._signers: list[str] = []
        self._limit = self._penalty = 0

    async def begin(self, stage: Stage) -> None:
        """Tell the rule."""
        who = "if all of you sign it" if self._settings.unanimous else "for those who sign it"
        stage.announce(
            "Before each harvest one of you, in turn, proposes a contract: the most that a signer "
            f"may take this month, and what a signer pays for each {stage.scenario.unit} above, "
            f"which the other signers get. It holds {who}."
        )

    async def before_harvest(self, stage: Stage) -> None:
        """Propose, sign."""
        self._signers = []
        proposer = stage.names[(stage.month - 1) % len(stage.names)]
        whole = stage.village.rules.capacity
        terms = {
            "limit": {"type": "integer", "minimum": 0, "maximum": whole},
            "penalty": {"type": "integer", "minimum": 0, "maximum": self._settings.most},
        }
        told = await poll(
            stage, "contract", terms,
            {"limit": stage.village.share, "penalty": self._settings.most},
            names=[proposer], stock=stage.village.stock, most=self._settings.most,
        )  # fmt: skip
        if proposer not in told:
            return
        self._limit, self._penalty = told[proposer]["limit"], told[proposer]["penalty"]
        others = [name for name in stage.names if name != proposer]
        signed = await poll(
            stage, "sign", {"sign": {"type": "boolean"}}, {"sign": True}, names=others,
            proposer=proposer, limit=self._limit, penalty=self._penalty,
            unanimous=self._settings.unanimous,
        )  # fmt: skip
        signers = [n for n in stage.names if n == proposer or (n in signed and signed[n]["sign"])]
        holds = len(signers) == len(stage.names) if self._settings.unanimous else len(signers) > 1
        stage.log("contract", mechanism="contracts", by=proposer, limit=self._limit,
                  penalty=self._penalty, signers=signers, holds=holds)  # fmt: skip
        if holds:
            self._signers = signers
            stage.announce(
                f"A contract holds this month for {', '.join(signers)}: at most {self._limit} "
                f"{stage.scenario.units} each, and a penalty of {self._penalty} for each above.",
                lasting=False,
            )
        else:
            stage.announce("No contract holds this month.", lasting=False)

    async def after_harvest(self, stage: Stage, harvest: Harvest) -> None:
        """Who broke it pays the others."""
        for name in self._signers:
            above = harvest.received[name] - self._limit
            others = [other for other in self._signers if other != name]
            if above > 0 and others and self._penalty:
                due = float(above * self._penalty)
                paid = {name: -due, **{other: due / len(others) for other in others}}
                stage.pay("contracts", "breach", paid)
                text = f"{name} broke the contract and pays the others the worth of {due:g}."
                stage.tell(stage.names, "report", text, always=True)
