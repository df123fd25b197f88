"""``stretto demo-agent``: requests become real calls of tools, with the lanes live."""

import asyncio
import sys
import tempfile
import time
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from stretto.agents.events import AgentEvent
    from stretto.cli.play import View
    from stretto.engine import Session
    from stretto.evals.local_agent import LocalModels, Step, Watcher
    from stretto.protocols import Row

MODEL = "stretto-smollm2-135m"
PHRASER = "smollm2-135m"
REQUESTS = (
    "How many people live in Oslo?",
    "Set the thermostat of the kitchen to 21 degrees and convert 26.2 miles to kilometres.",
    'Write a note titled "Shopping" that says "milk and eggs".',
)
_FRAME_S = 0.1
_SHOWN = 160  # characters of a grammar


def demo_agent(
    *requests: str, model: str = MODEL, phraser: str = PHRASER, backend: str = "auto"
) -> None:
    """Watch an agent on the default model find a tool, call it and tell what came of it.

    Five small tools work on this machine: cities, units, sums, a simulated house, notes in a
    temporary folder. Rules take a request apart and a word search finds the tool; the model, held
    to a grammar, writes the call on its code stream; the call is made from the sandbox; its result
    arrives on the result stream; the base model puts it into words.

    Args:
        requests: what to do, in English; without, three that show how it works.
        model: multi-stream model with the agent streams: name or folder.
        phraser: base model that puts results into words: name or folder.
        backend: what computes; see stretto demo --help.
    """
    started = time.monotonic()
    console = Console(file=sys.stdout, markup=False, highlight=False, soft_wrap=True)
    models = load_models(model, phraser, backend)
    loaded = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="stretto-notes-") as folder:
        steps = asyncio.run(perform(models, requests or REQUESTS, Path(folder), console))
        console.print()
        for path in sorted(Path(folder).iterdir()):
            console.print(f"in the folder of notes: {path.name}: {path.read_text()!r}")
    done = sum(step.outcome == "answered" for step in steps)
    console.print(
        f"{done} of {len(steps)} parts were done in {time.monotonic() - loaded:.1f} s (loading "
        f"took {loaded - started:.1f} s). Tools are found by a word search, not by the model, "
        "whose arguments are right in some two of three cases."
    )


def load_models(model: str = MODEL, phraser: str = PHRASER, backend: str = "auto") -> "LocalModels":
    """Both engines, with a word on stderr about what takes so long.

    Raises:
        CheckpointError: a model cannot be loaded.
        InputError: ``model`` lacks the agent streams.
    """
    from stretto.cli.play import load_engine
    from stretto.evals.local_agent import LocalModels

    engine = load_engine(model, backend)
    return LocalModels(engine, model, load_engine(phraser, backend))


async def perform(
    models: "LocalModels", requests: tuple[str, ...], folder: Path, console: Console
) -> "list[Step]":
    """Do the requests one after another, and show them."""
    from stretto.evals.demo_tools import demo_registry
    from stretto.evals.local_agent import LocalAgent

    registry, steps = demo_registry(folder), []
    for request in requests:
        console.print(f"\nrequest    {request}", style="bold")
        with ExitStack() as stack:
            show = Show(console, models, stack)
            agent = LocalAgent(models, registry, watcher=show.watcher())
            async with aclosing(agent.stream(request)) as events:
                async for event in events:
                    show.on_event(event)
        assert agent.result is not None
        for step in agent.result.steps:
            tell(step, console)
        steps += agent.result.steps
    return steps


class Show:
    """Shows each part of a request while it is done.

    Args:
        console: where.
        models: at work.
        stack: closes the view, whatever happens.
    """

    def __init__(self, console: Console, models: "LocalModels", stack: ExitStack) -> None:
        self._console, self._models, self._stack = console, models, stack
        self._view: View | None = None
        self._drawn = 0.0

    def watcher(self) -> "Watcher":
        """What the agent tells beside its events."""
        from stretto.evals.local_agent import Watcher

        return Watcher(self._on_open, self._on_row, on_phrase=lambda _: self._close())

    def on_event(self, event: "AgentEvent") -> None:
        """A part begins, or all are over."""
        if event.kind == "end":
            self._close()
        if event.kind != "plan":
            return
        self._close()
        names, grammar = event.data["tools"], event.data["grammar"]
        others = f" (before {', '.join(names[1:])})" if names[1:] else ""
        self._console.print(f"part       {event.data['request']}")
        self._console.print(f"retrieved  {names[0] + others if names else 'no tool'}")
        if grammar:
            source = grammar.splitlines()[0].removeprefix("start: ")
            source = source if len(source) <= _SHOWN else source[: _SHOWN - 1] + "…"
            self._console.print(f"forced     code may only be  {source}")

    def _on_open(self, session: "Session") -> None:
        from stretto.cli.lanes import Lanes
        from stretto.cli.play import open_view

        special = self._models.engine.codec.special
        lanes = Lanes(session.streams, special, now=session.clock.now)
        lanes.title = f"{self._models.name}, every stream live; code is held to the grammar"
        view = open_view(self._console, lanes, session.streams, special.end)
        self._view = self._stack.enter_context(view)

    def _on_row(self, row: "Row") -> None:
        if self._view is not None:
            self._view.add(row)
            if time.monotonic() - self._drawn > _FRAME_S:
                self._view.draw()
                self._drawn = time.monotonic()

    def _close(self) -> None:
        self._stack.close()
        self._view = None


def tell(step: "Step", console: Console) -> None:
    """What was called, what came back, what was said, and when."""
    console.print(f"\npart       {step.need.text}")
    if step.result is None:
        console.print(f"answer     {step.answer}  [rule]")
        return
    for event in step.events("call"):
        call: dict[str, Any] = event.data
        arguments = ", ".join(f"{key}={value!r}" for key, value in call["arguments"].items())
        came = call["value"] if call["ok"] else call["error"]
        console.print(f"called     {call['tool']}({arguments}), {call['decision']}ed, "
                      f"{1e3 * call['seconds']:.1f} ms")  # fmt: skip
        console.print(f"returned   {came}")
    console.print(f"said       {step.result.answer or 'nothing'}  [the say stream's own words]")
    by = "the base model's words" if step.outcome == "answered" else "the tool's error"
    console.print(f"answer     {step.answer}  [{by}]")
    written = [e.time for e in step.events("text") if e.stream == "code" and e.data["text"]]
    called = [event.time for event in step.events("call")]
    times = {"code begins": written[:1], "call returns": called[:1], "all done": [step.seconds]}
    told = ", ".join(f"{what} {at[0]:.2f} s" for what, at in times.items() if at)
    console.print(f"time       {told}", style="dim")
