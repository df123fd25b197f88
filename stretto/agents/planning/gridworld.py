"""A robot on a grid: the worked example of planning. All of it is simulated.

The robot moves to the next cell, picks up one thing at a time and places it. Cells are written as
on a chessboard, ``a1`` being the first column of the first row.
"""

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field

from stretto.agents.tool import Tool
from stretto.errors import InputError

DOMAIN = """\
(define (domain grid)
  (:requirements :strips :typing)
  (:types cell thing)
  (:predicates (at ?c - cell) (next ?a - cell ?b - cell) (lies ?t - thing ?c - cell)
               (holds ?t - thing) (free))
  (:action move :parameters (?a - cell ?b - cell)
    :precondition (and (at ?a) (next ?a ?b))
    :effect (and (not (at ?a)) (at ?b)))
  (:action pick :parameters (?t - thing ?c - cell)
    :precondition (and (at ?c) (lies ?t ?c) (free))
    :effect (and (holds ?t) (not (lies ?t ?c)) (not (free))))
  (:action place :parameters (?t - thing ?c - cell)
    :precondition (and (at ?c) (holds ?t))
    :effect (and (lies ?t ?c) (free) (not (holds ?t)))))
"""
CALLS = {"move": "move({1})", "pick": "pick({0})", "place": "place({0})"}
"""Actions of the domain to tools, for :func:`.pddl.to_code`."""


class GridError(Exception):
    """The robot cannot do this here."""


@dataclass
class GridWorld:
    """A world; also a :class:`.validate.Twin` of another one.

    Attributes:
        columns, rows: its size; at most 26 columns.
        robot: cell where the robot is.
        things: cell of each thing that lies somewhere.
        walls: cells that cannot be entered.
        holding: the thing in the robot's hand.
        goal: where things shall lie.
        log: what was done, one line a move.
    """

    columns: int
    rows: int
    robot: str = "a1"
    things: dict[str, str] = field(default_factory=dict)
    walls: frozenset[str] = frozenset()
    holding: str | None = None
    goal: Mapping[str, str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not (1 <= self.columns <= 26 and self.rows >= 1):
            raise InputError(f"grid: {self.columns} x {self.rows} cells; give 1 to 26 columns "
                             "and 1 row or more")  # fmt: skip
        for cell in [self.robot, *self.things.values(), *self.goal.values()]:
            if cell not in self.cells:
                raise InputError(f"grid: {cell!r} is no free cell of it")

    @property
    def cells(self) -> list[str]:
        """That can be entered, row by row."""
        every = (f"{chr(97 + c)}{r + 1}" for r in range(self.rows) for c in range(self.columns))
        return [cell for cell in every if cell not in self.walls]

    def twin(self) -> "GridWorld":
        """A copy in the same state, to try things in."""
        return deepcopy(self)

    def missing(self) -> str:
        """What the goal lacks, one line; "" if nothing."""
        lacking = [f"{thing} is not at {cell}" for thing, cell in self.goal.items()
                   if self.things.get(thing) != cell]  # fmt: skip
        return "; ".join(lacking)

    def tools(self) -> list[Tool]:
        """Of the robot: what they do, they do to this world."""
        return [
            Tool(self.look, effect="read", kind="physical"),
            Tool(self.near, effect="read", kind="physical"),
            *(Tool(f, effect="write", kind="physical") for f in (self.move, self.pick, self.place)),
        ]

    def look(self) -> dict[str, object]:
        """Where the robot is, what it holds, and where things lie."""
        return {"robot": self.robot, "holding": self.holding, "things": dict(self.things)}

    def near(self, thing: str) -> bool:
        """Whether a thing lies where the robot is."""
        return self.things.get(thing) == self.robot

    def move(self, cell: str) -> str:
        """Go to a cell beside the robot's.

        Args:
            cell: such as b2.
        """
        if cell not in self.neighbours(self.robot):
            raise GridError(f"{cell} is not beside {self.robot}, or a wall")
        self.robot = cell
        return self._note(f"move {cell}")

    def pick(self, thing: str) -> str:
        """Take a thing that lies where the robot is."""
        if self.holding is not None:
            raise GridError(f"the hand holds {self.holding}")
        if not self.near(thing):
            raise GridError(f"there is no {thing} at {self.robot}")
        self.holding = thing
        del self.things[thing]
        return self._note(f"pick {thing}")

    def place(self, thing: str) -> str:
        """Lay down the thing that the robot holds."""
        if self.holding != thing:
            raise GridError(f"the hand does not hold {thing}")
        self.holding = None
        self.things[thing] = self.robot
        return self._note(f"place {thing}")

    def neighbours(self, cell: str) -> list[str]:
        """Cells beside one, in the order left, down, up, right."""
        column, row = ord(cell[0]), int(cell[1:])
        beside = [(column - 1, row), (column, row - 1), (column, row + 1), (column + 1, row)]
        free = set(self.cells)
        return [name for c, r in beside if (name := f"{chr(c)}{r}") in free]

    def pddl(self) -> tuple[str, str]:
        """Domain and problem: from the present state to the goal.

        Raises:
            InputError: there is no goal, or a name that PDDL cannot write.
        """
        if not self.goal:
            raise InputError("grid: there is no goal to plan for; give goal={thing: cell}")
        held = [self.holding] if self.holding else []
        things = sorted([*self.things, *held])
        for thing in [*things, *self.goal]:
            if thing in self.cells or not re.fullmatch(r"[A-Za-z][\w-]*", thing, re.ASCII):
                raise InputError(f"grid: {thing!r} cannot be named in PDDL, or as a cell is; use "
                                 "letters, digits and -")  # fmt: skip
        facts = [f"(at {self.robot})", f"(holds {self.holding})" if self.holding else "(free)"]
        facts += [f"(lies {thing} {cell})" for thing, cell in sorted(self.things.items())]
        facts += [f"(next {a} {b})" for a in self.cells for b in self.neighbours(a)]
        wanted = [f"(lies {thing} {cell})" for thing, cell in sorted(self.goal.items())]
        return DOMAIN, (
            "(define (problem tidy) (:domain grid)\n"
            f"  (:objects {' '.join(self.cells)} - cell {' '.join(things)} - thing)\n"
            f"  (:init {' '.join(facts)})\n"
            f"  (:goal (and {' '.join(wanted)})))\n"
        )

    def _note(self, line: str) -> str:
        self.log.append(line)
        return line
