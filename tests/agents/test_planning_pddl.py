"""Plans from PDDL, trials on twins, and revision by scripted models."""

import ast
import asyncio
import importlib.util
import os
import sys

import pytest

from stretto.agents.broker import Broker
from stretto.agents.planning import (
    Action,
    Draft,
    GraphPlan,
    make_plan,
    solve,
    stand_in,
    to_code,
    validate,
)
from stretto.agents.planning.gridworld import CALLS, DOMAIN, GridWorld
from stretto.agents.planning.pddl import _reason
from stretto.agents.registry import Registry
from stretto.agents.tool import Tool
from stretto.errors import ConfigError, InputError
from stretto.protocols import ChatModel, Completion, Usage

if importlib.util.find_spec("pyperplan") is None:  # importorskip would import it
    pytest.skip("pyperplan is not installed", allow_module_level=True)


def world():
    return GridWorld(3, 3, things={"Mug": "c3", "pen": "b1"}, walls=frozenset({"b2"}),
                     goal={"Mug": "a1", "pen": "a1"})  # fmt: skip


def solved(domain, problem, **settings):
    return asyncio.run(solve(domain, problem, **settings))


def test_solved_tried_and_carried_out():
    grid = world()
    registry = Registry(grid.tools())
    solution = solved(*grid.pddl(), search="bfs")
    assert solution.ending == "solved" and solution.told.good
    code = to_code(solution.actions, CALLS)
    assert "pick('Mug')" in code  # as the problem spells it, though the solver does not
    assert len(code.splitlines()) == 14  # 10 moves, 2 picks, 2 places: none shorter
    plan = GraphPlan.chain(code, registry)
    assert asyncio.run(validate(plan, registry, grid.twin)).good and grid.log == []
    assert asyncio.run(plan.run(Broker(registry))).ok
    assert grid.missing() == "" and len(grid.log) == 14
    done = solved(*grid.pddl())
    assert done.ending == "solved" and done.actions == ()
    assert "pyperplan" not in sys.modules  # its licence is not ours


def test_the_same_plan_each_time():
    texts = world().pddl()
    assert solved(*texts).actions == solved(*texts).actions


PROBLEM = GridWorld(2, 1, things={"mug": "b1"}, goal={"mug": "a1"}).pddl()[1]


@pytest.mark.parametrize(
    ("domain", "problem", "why"),
    [
        (DOMAIN[:-2], PROBLEM, "domain, line 1: this bracket is never closed"),
        (DOMAIN + ")", PROBLEM, "domain, line 15: there is a closing bracket too many"),
        (DOMAIN + "(x)", PROBLEM, "the text goes on after its last bracket"),
        (DOMAIN, "go " + PROBLEM, "problem, line 1: 'go' stands outside of brackets"),
        (DOMAIN, DOMAIN, "it begins with"),
        ("", PROBLEM, "domain: it begins with"),
        (DOMAIN, PROBLEM.replace("(lies mug a1)", "(lays mug a1)"), "line 4: there is no predicate "
         "'lays'; declared are: at, free, holds, lies, next"),
        (DOMAIN, PROBLEM.replace("(at a1)", "(at a1 b1)"), "line 3: 'at' takes 1 arguments, 2 are"),
        (DOMAIN, PROBLEM.replace("(at a1)", "a1"), "line 3: 'a1' is no fact"),
        (DOMAIN, PROBLEM.replace("(and (lies mug a1))", "(or (at a1) (at b1))"), "'or' cannot"),
        (DOMAIN, PROBLEM.replace("(:goal", "(:gaol"), "there must be one"),
        (DOMAIN.replace("(and (at ?a) (next ?a ?b))", "(not (at ?b))", 1), PROBLEM, "line 7: 'not' "
         "cannot stand here; in a precondition or a goal write and"),
        (DOMAIN, PROBLEM.replace("a1 b1 - cell", "a1 - cell"), "object b1 referenced"),
        (DOMAIN, PROBLEM.replace("grid", "gird"), "pddl: "),
        (DOMAIN.replace("?t - thing ?c - cell)\n", "?t - thing ?c - sell)\n"), PROBLEM, "sell"),
        (DOMAIN.replace("(", "(" * 200, 1), PROBLEM, "nested too deeply"),
        (DOMAIN, PROBLEM + ";" * 200_000, "more than 200000 characters"),
    ],
)  # fmt: skip
def test_mistakes_come_back_as_one_clear_line(domain, problem, why):
    solution = solved(domain, problem)
    assert solution.ending == "malformed" and not solution.actions and not solution.told.good
    assert why in solution.told.text and "\n" not in solution.told.text


def test_unsolvable_is_not_malformed():
    solution = solved(DOMAIN, PROBLEM.replace("(free)", ""))
    assert solution.ending == "unsolvable" and "no plan reaches the goal" in solution.told.text


def test_time_and_memory_are_limited():
    big = GridWorld(6, 6, things={f"box-{n}": "f6" for n in range(9)},
                    goal={f"box-{n}": "a1" for n in range(9)}).pddl()  # fmt: skip
    assert solved(*big, search="bfs", seconds=0.6).ending == "limit"
    for memory in ("8M", "24M"):
        assert solved(*big, search="bfs", memory=memory, seconds=60).ending == "limit"
    with pytest.raises(ConfigError, match="seconds is 0"):
        solved(DOMAIN, PROBLEM, seconds=0)


def test_the_solver_gets_a_folder_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    # A program called validate would be started by the solver if it were on its path.
    trap = tmp_path / "validate"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert solved(DOMAIN, PROBLEM).ending == "solved"
    assert [path.name for path in tmp_path.iterdir()] == ["validate"]


def test_names_that_pddl_cannot_write_are_refused():
    for name in ("a1", "a mug", "mug) (at b1", ""):
        with pytest.raises(InputError, match="cannot be named in PDDL"):
            GridWorld(2, 1, things={name: "b1"}, goal={name: "a1"}).pddl()
    with pytest.raises(InputError, match="no goal to plan for"):
        GridWorld(2, 1).pddl()
    with pytest.raises(InputError, match="'c1' is no free cell"):
        GridWorld(2, 1, robot="c1")


def test_reasons():
    assert _reason("x\na.SemanticError: 'Error: unknown type'\n") == "unknown type"
    assert _reason("KeyError: 3") == "the solver cannot read this (KeyError)"


def test_actions_become_calls_and_never_more_than_calls():
    actions = [Action("go-to", ("a'b", "c")), Action("noop"), Action("Pick", ("x", "y"))]
    code = to_code(actions, {"noop": "", "pick": "grasp(what={1})"})
    assert code == "go_to(\"a'b\", 'c')\ngrasp(what='y')\n"
    assert all(isinstance(node, ast.Expr) for node in ast.parse(code).body)
    with pytest.raises(InputError, match="action noop: it has 0 arguments"):
        to_code(actions, {"noop": "wait({0})"})


def test_twins_are_like_the_real_tools():
    grid = world()
    real = Registry(grid.tools())

    def stands(tools):
        class Other(GridWorld):
            def tools(self):
                return tools

        return stand_in(real, Other(2, 2))

    def move(place: str) -> None: ...

    with pytest.raises(ConfigError, match="twin: move takes other arguments"):
        stands([Tool(move)])
    with pytest.raises(ConfigError, match="there is no real tool fly"):
        stands([Tool(move, name="fly")])
    real.get("move").guards = "of the real robot"
    untried = stands([])
    assert untried.get("move").guards is None
    plan = GraphPlan.read("1. near('pen')\n2. move('a2')", untried)
    result = asyncio.run(plan.run(Broker(untried)))
    assert result.steps[0].status == "done" and grid.log == []
    assert "move changes something and has no twin" in result.steps[1].error


class Scripted:
    """Answers written beforehand; it says so."""

    name, scripted = "scripted", True

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    async def complete(self, messages, *, seed=None, **_):
        self.asked.append((list(messages), seed))
        return Completion(self.answers.pop(0), usage=Usage(5, 2, 0.5), scripted=True)


def plan_by(model, grid, **settings):
    registry = Registry(grid.tools())

    async def judge(plan):
        return await validate(plan, registry, grid.twin)

    def read(text):
        return GraphPlan.chain(text, registry)

    return asyncio.run(make_plan(model, "bring the mug", read, judge, **settings))


def test_a_plan_is_revised_until_the_twin_is_content():
    grid = GridWorld(2, 1, things={"mug": "b1"}, goal={"mug": "a1"})
    good = "move('b1')\npick('mug')\nmove('a1')\nplace('mug')\n"
    model = Scripted("walk there", "move('b1')\nplace('mug')", f"Now:\n```python\n{good}```")
    assert isinstance(model, ChatModel)
    made = plan_by(model, grid, seed=7)
    assert made.plan is not None and made.plan.text == good and made.scripted
    assert [draft.told.good for draft in made.drafts] == [False, False, True]
    assert (made.usage.prompt_tokens, made.usage.cost, made.model) == (15, 1.5, "scripted")
    assert [seed for _, seed in model.asked] == [7, 8, 9]
    last = model.asked[-1][0][-1].content
    assert "step 2, line 2: place('mug'): tool place: GridError: the hand does not hold mug" in last
    assert "->   2 place('mug')" in last and grid.log == []


def test_a_model_writes_the_problem_and_the_solver_the_plan():
    grid = GridWorld(2, 1, things={"mug": "b1"}, goal={"mug": "a1"})
    registry = Registry(grid.tools())
    problem = grid.pddl()[1]

    async def read(text):
        solution = await solve(DOMAIN, text)
        if solution.ending != "solved":
            raise InputError(solution.told.text)
        return GraphPlan.chain(to_code(solution.actions, CALLS), registry)

    async def judge(plan):
        return await validate(plan, registry, grid.twin)

    wrong = problem.replace("(at a1)", "(on a1)")
    easy = problem.replace("(lies mug a1)", "(holds mug)")  # solved, but it is not the goal
    model = Scripted(wrong, problem.replace("(free)", ""), easy, problem)
    made = asyncio.run(make_plan(model, "bring the mug", read, judge, rounds=4))
    assert [draft.told.text.partition(";")[0] for draft in made.drafts] == [
        "pddl problem, line 3: there is no predicate 'on'",
        "pddl: no plan reaches the goal from the initial state",
        "after the last step: the goal is not reached: mug is not at a1",
        "all 4 steps passed",
    ]
    assert made.plan is not None and made.plan.steps[-1].tool == "place"


def test_rounds_are_bounded_and_the_last_failure_is_no_plan():
    model = Scripted("pick('mug')", "pick('mug')", "never asked")
    made = plan_by(model, GridWorld(2, 1, goal={"mug": "a1"}), rounds=2)
    assert made.plan is None and len(made.drafts) == 2 and len(model.answers) == 1
    assert made.messages[-1].role == "assistant"
    with pytest.raises(InputError, match="rounds is 0"):
        plan_by(model, GridWorld(2, 1), rounds=0)


def test_what_broke_off_in_the_real_world_is_planned_anew():
    grid = GridWorld(2, 1, things={"mug": "b1"}, goal={"mug": "a1"})
    registry = Registry(grid.tools())
    begun = GraphPlan.chain("move('b1')\nplace('mug')", registry)
    told = asyncio.run(begun.run(Broker(registry))).feedback()
    model = Scripted("pick('mug')\nmove('a1')\nplace('mug')")
    made = plan_by(model, grid, failed=Draft(begun.text, told))
    assert made.plan is not None  # from b1, where the robot now is
    assert "was begun and failed:\nmove('b1')" in model.asked[0][0][1].content
