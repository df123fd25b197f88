"""Plays the demo and draws it as an SVG picture of a terminal: one moment, the end, the summary."""

import argparse
import io
from dataclasses import replace
from pathlib import Path
from typing import Self

from rich.console import Console

from stretto.cli.demo import BASELINE, ITEM, MODEL, Settings, perform
from stretto.cli.lanes import Lanes
from stretto.protocols import Row
from stretto.streams.examples import demo_items


class Snapshot:
    """A view that draws the lanes once while the text is still arriving, and once at the end."""

    def __init__(self, console: Console, lanes: Lanes, at: float, to_read: int, height: int):
        self.lanes = lanes
        self._console, self._moment, self._height = console, at * to_read, height
        self._is_drawn = not to_read

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._console.print("[dim]... and at the end[/]" if self.lanes.to_read else "")
        # Whole texts of the streams would make the picture long; the baseline's is short.
        self.lanes.is_whole = not self.lanes.to_read
        self._console.print(self.lanes, height=self._height)

    def add(self, row: Row) -> None:
        """Take one row; draw at the moment asked for."""
        self.lanes.add(row)
        if not self._is_drawn and self.lanes.num_read >= self._moment:
            self._is_drawn = True
            self._console.print(self.lanes, height=self._height)
            self.lanes.title = ""

    def draw(self) -> None:
        """Drawn in :meth:`add`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--item", default=ITEM, choices=demo_items())
    parser.add_argument("--streams", default="audit")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--baseline", default=BASELINE)
    parser.add_argument("--at", type=float, default=0.7, help="share of the text read (0.7)")
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--height", type=int, default=11, help="lines of the moment (11)")
    options = parser.parse_args()

    example = replace(demo_items()[options.item], id=options.item)
    settings = Settings(
        example, streams=options.streams, model=options.model, baseline=options.baseline
    )
    console = Console(
        record=True, file=io.StringIO(), width=options.width, force_terminal=True, highlight=False
    )
    console.print("[bold]$ make demo[/]")
    perform(
        settings,
        console,
        lambda lanes, streams, end: Snapshot(
            console, lanes, options.at, lanes.to_read or 0, options.height
        ),
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    console.save_svg(str(options.output), title="stretto demo")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
