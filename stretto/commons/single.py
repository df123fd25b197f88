"""One run before one's eyes: months as they come, a person's seat, models on this machine."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from stretto.commons.human import HumanVillager, Terminal
from stretto.commons.ledger import Ledger
from stretto.commons.model_config import open_models
from stretto.commons.sweep import is_done, load, run_folder
from stretto.commons.village import Harvest
from stretto.commons.worker import Limits, play_planned
from stretto.errors import InputError


async def play_single(
    folder: Path,
    limits: Limits,
    local: str,
    say: Callable[[str], None],
    prompt: Callable[[str], None],
) -> None:
    """Play the one run of a sweep, or on from where it was broken off.

    Args:
        folder: of the sweep.
        limits: of what it may take.
        local: opens models on this machine, as ``module:function``.
        say: is told of every month, and what a person sees.
        prompt: writes the beginning of a line that a person then types.

    Raises:
        InputError: another process plays it, or it failed.
        LimitError: a budget is spent, or a person left; play again to go on.
    """
    sweep, (one, *_) = load(folder)
    if is_done(folder, one.id):
        return
    people = [seat.name for seat in one.config.everybody if seat.model == "human"]
    terminal = Terminal(sys.stdin.fileno(), prompt) if people else None

    def human(name: str) -> HumanVillager:
        assert terminal is not None
        return HumanVillager(name, terminal, say)

    def on_month(harvest: Harvest) -> None:
        if not people:
            say(told(harvest))

    lock = FileLock(run_folder(folder, one.id) / ".lock", blocking=False)
    run_folder(folder, one.id).mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"{folder}: another process plays this run") from None
    try:
        async with AsyncExitStack() as stack:
            budget = Ledger(folder / "ledger.jsonl", **asdict(limits))
            models = await open_models(
                stack, sweep.models, cache=folder / "cache.jsonl", budget=budget, local=local
            )
            try:
                failed = await play_planned(folder, one, models, human=human, on_month=on_month)
            finally:  # other questions of the month may still be on their way, and are kept
                rest = asyncio.all_tasks() - {asyncio.current_task()}
                await asyncio.gather(*rest, return_exceptions=True)
    finally:
        lock.release()
    if failed:
        raise InputError(f"{folder}: {failed}")


def told(harvest: Harvest) -> str:
    """A month in a line."""
    catches = ", ".join(
        f"{name} {got}" if harvest.demands[name] is not None else f"{name} no answer"
        for name, got in harvest.received.items()
    )
    over = "; everything is over" if harvest.collapsed else ""
    return f"month {harvest.month:2}: {harvest.stock:3} -> {harvest.left:3}   {catches}{over}"
