"""Plans as code: read, checked, run step by step, tried on a twin; no sandbox is needed."""

import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stretto.agents.planning import CodePlan, validate
from stretto.agents.planning.code import _plain
from stretto.agents.planning.gridworld import GridWorld
from stretto.agents.registry import Registry
from stretto.agents.sandbox import open_sandbox
from stretto.errors import ConfigError, InputError, SandboxError

TOOLS = {"near": "read", "look": "read", "move": "write", "pick": "write"}

PLAN = """\
# fetch the mug
assert near("mug")
else: move("b1")

assert near("mug"), "the mug is elsewhere"
else:
    move("b2")
pick("mug")
"""


class Session:
    """As a sandbox's, in this process: names are kept, tools are called through ``on_call``."""

    def __init__(self, on_call, names, loop=None):
        self.on_call, self.names = on_call, names
        self.closed = False

    async def exec(self, code):
        loop = asyncio.get_running_loop()

        def host(name):
            def call(*args, **kwargs):
                return asyncio.run_coroutine_threadsafe(
                    self.on_call(name, list(args), kwargs), loop
                ).result()

            return call

        names = {name: host(name) for name in self.names}
        try:
            await asyncio.to_thread(exec, compile(code, "<cell>", "exec"), names)
        except BaseException as error:
            trace, line = error.__traceback__, None
            while trace is not None:
                if trace.tb_frame.f_code.co_filename == "<cell>":
                    line = trace.tb_lineno
                trace = trace.tb_next
            told = SimpleNamespace(type=type(error).__name__, message=str(error), line=line)
            return SimpleNamespace(ok=False, error=told, limit=None)
        return SimpleNamespace(ok=True, error=None, limit=None)

    async def fork(self, *, on_call=None):
        self.copy = Session(on_call, self.names)
        return self.copy

    async def close(self):
        self.closed = True


def world(**settings):
    settings = {"things": {"mug": "b2"}, "goal": {}, **settings}
    return GridWorld(3, 2, **settings)


def try_plan(text, grid):
    registry = Registry(grid.tools())
    plan = CodePlan.read(text, registry.effects)
    session = Session(None, list(registry.effects))
    told = asyncio.run(validate(plan, registry, grid.twin, session=session))
    assert session.copy.closed and not session.closed
    return told


def test_steps_know_their_lines_effects_and_preconditions():
    plan = CodePlan.read(PLAN, TOOLS)
    assert [(step.line, step.effect, step.tools) for step in plan.steps] == [
        (2, "write", {"near", "move"}),
        (5, "write", {"near", "move"}),
        (8, "write", {"pick"}),
    ]
    assert plan.steps[1].conditions == ("near('mug')",)
    assert plan.effect == "write" and plan.tools == {"near", "move", "pick"}


def test_else_after_assert_is_python_line_by_line():
    written = _plain('if x:\n    assert (a and\n      b)\n    else: f()\nelse:\n    s = "else:"\n')
    assert written == (
        "if x:\n    try: assert (a and\n      b)\n    except AssertionError: f()\n"
        'else:\n    s = "else:"\n'
    )


PARTS = [
    "assert x",
    "if x:\n    y()\nelse:\n    assert z",
    "s = '''\nassert q\nelse: r\n'''",
    "for i in y:\n    assert i\nelse:\n    z()",
    "# else:",
    "x = 1; assert x",
]


@settings(max_examples=40)
@given(st.lists(st.sampled_from(PARTS)))
def test_python_stays_as_it_is(parts):
    text = "\n".join(parts)
    assert _plain(text) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "there is no step in it"),
        ("assert 'x\nelse: pick('mug')", "line 1, column .*: unterminated string literal"),
        ("pick(", r"line 1, column 5: '\(' was never closed"),
        ("near('mug')\nfly('a1')", r"line 2: what .* does cannot be told; call the tools"),
        ("import os\nos.remove('x')", "line 2: what .* does cannot be told"),
        ("if near('mug'):\n    assert move('a2')", "line 2: the precondition .* changes something"),
        ("for c in ['a1']:\n    assert zap(c)", "line 2: the precondition .* cannot be told"),
    ],
)  # fmt: skip
def test_what_is_no_plan_is_refused_in_one_line(text, why):
    with pytest.raises(InputError, match=why) as raised:
        CodePlan.read(text, TOOLS)
    assert "\n" not in str(raised.value)


def test_loop_variables_may_be_asked_about():
    plan = CodePlan.read("for c in ['mug']:\n    assert near(c)\n    pick(c)", TOOLS)
    assert plan.steps[0].conditions == ("near(c)",)


def test_recovery_is_taken_only_where_needed():
    assert try_plan(PLAN, world()).good
    again = PLAN.replace('move("b1")', 'move("b2")')
    told = try_plan(again, world(robot="b2"))  # it is near already: nothing is moved
    assert told.good and told.source == "twin"


def test_first_failing_step_is_told_with_its_line_and_the_world_is_untouched():
    grid = world()
    told = try_plan(
        "move('b1')\n\nfor c in ['c1']:\n    move(c)\n    pick('mug')\npick('mug')", grid
    )
    assert not told.good and told.line == 5
    assert told.text.startswith(
        "step 2, line 5: pick('mug'): CallError: tool pick: GridError: there"
    )
    assert "->   5     pick('mug')" in told.at("trace")
    assert grid.robot == "a1" and grid.log == []


def test_a_broken_precondition_is_told_as_one():
    told = try_plan("assert near('mug'), 'go there'\npick('mug')", world())
    assert told.text.endswith(
        "assert near('mug'), 'go there': the precondition does not hold: go there"
    )


def test_the_goal_counts():
    told = try_plan("move('b1')", world(goal={"mug": "a1"}))
    assert told.text == "after the last step: the goal is not reached: mug is not at a1"


def test_code_needs_a_session():
    grid = world()
    plan = CodePlan.read("look()", TOOLS)
    with pytest.raises(ConfigError, match="runs in a sandbox"):
        asyncio.run(validate(plan, Registry(grid.tools()), grid.twin))


def test_in_a_real_sandbox():
    grid = world()
    registry = Registry(grid.tools())
    plan = CodePlan.read(PLAN, registry.effects)
    bad = CodePlan.read("move('b1')\nassert near('mug')\npick('mug')", registry.effects)

    async def main():
        names = list(registry.effects)
        async with open_sandbox() as box, box.session(tools=names) as session:
            return [await validate(each, registry, grid.twin, session=session)
                    for each in (plan, bad, plan)]  # fmt: skip

    try:
        good, wrong, again = asyncio.run(main())
    except SandboxError as error:
        pytest.skip(f"no sandbox here: {error}")
    assert good.good and again.to_json() == good.to_json()
    assert wrong.text == "step 2, line 2: assert near('mug'): the precondition does not hold"
    assert grid.robot == "a1"
