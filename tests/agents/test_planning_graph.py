"""Plans as graphs: read, refused, run in the order of their needs; failures take few with them."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stretto.agents.broker import Broker, Budgets
from stretto.agents.planning import GraphPlan, validate
from stretto.agents.planning.gridworld import GridWorld
from stretto.agents.registry import Registry
from stretto.agents.tool import Tool, tool
from stretto.errors import InputError


@tool(effect="pure")
def add(a: float, b: float) -> float:
    """Add."""
    return a + b


@tool(effect="read")
def search(query: str) -> dict[str, object]:
    """Search."""
    if query == "bad":
        raise ValueError("no such page")
    return {"text": query.upper(), "hits": [len(query), 7], "odd key": 1}


REGISTRY = Registry([add, search])


def run(text, registry=REGISTRY, **settings):
    return asyncio.run(GraphPlan.read(text, registry).run(Broker(registry), **settings))


FORMS = {
    "lines": "Thought: two searches\n1. search(query='a')\n2. search('bb')\n"
    "3. add($1.hits[0], b=$2.hits[0])\n4. join()\n<END_OF_PLAN>",
    "assignments": "$1 = search('a')\n$2 = search('bb')\n$3 = add(a=$1.hits[0],\n   b=$2.hits[0])",
    "json": json.dumps(
        {
            "steps": [
                {"tool": "search", "arguments": {"query": "a"}},
                {"id": 2, "tool": "search", "arguments": {"query": "bb"}},
                {"id": "3", "tool": "add", "arguments": {"a": "$1.hits[0]", "b": "${2.hits[0]}"}},
            ]
        }
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_three_ways_to_write_the_same_plan(form):
    result = run(FORMS[form])
    assert result.ok and result.values["3"] == 3 and result.feedback().good
    assert [each.step.needs for each in result.steps] == [(), (), ("1", "2")]
    assert result.to_json() == run(FORMS[form]).to_json()


def test_rewoo():
    text = "Plan: look it up\n#E1 = search[who wrote it]\nPlan: more\n#E2 = search[born: #E1]\n"
    assert run(text).values["2"]["text"].startswith('BORN: {"TEXT": "WHO WROTE IT"')


def test_text_with_values_and_dollars():
    result = run('1. search("a")\n2. search("costs $$5 for ${1.text}, $1[0]? ${1[\'odd key\']}")')
    assert result.values["2"]["text"].startswith('COSTS $5 FOR A, {"TEXT": "A", ')
    assert result.values["2"]["text"].endswith("}[0]? 1")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("think", "there is no step in it"),
        ("1. search('a'\n2. add(1, 2)", r"line 1: \"search\('a'\" is no call with plain"),
        ("1. search(open('x').read())", "plan, line 1: .* is no call with plain values"),
        ("1. search('a')\n1. search('b')", "there are two steps 1"),
        ("1. search($3)\n2. add(1, 2)", r"1: there is no step \$3; refer to \$1, \$2, or write"),
        ("1. search('it costs $5')", r"there is no step \$5.*write \$\$ for a dollar sign"),
        ("1. add($2, 1)\n2. add($3, 1)\n3. add($1, 1)", "1 needs 2 needs 3 needs 1; break"),
        ("1. add($1, 1)", "wait for each other: 1 needs 1"),
        ("1. add(1, 2) after $2\n2. add($1, 1)", "1 needs 2 needs 1"),
        ("1. serch('a')", "step 1: there is no tool 'serch'; choose from .*search"),
        ("1. add(1)", "step 1: tool add: argument b is missing"),
        ("1. add(1, 2)\n2. add($1)", "step 2: tool add: argument b is missing beside a"),
        ("1. add(1, 2)\n2. add($1, 2, c=3)", "step 2: tool add: there is no argument c"),
        ("1. add(1, 2)\n2. add($1, 2, 3)", "step 2: tool add: 3 positional arguments"),
        ("1. add(1, 'x')", "step 1: tool add: argument b is 'x'"),
        ("[" + '{"tool": "add"},' * 1000 + '{"tool": "add"}]', "it has 1001 steps; give 1000"),
        ('[{"tool": "add"', "it is no JSON"),
        ('[{"tool": "add", "arguments": {}, "need": [1]}]', "step 1: there is no 'need'"),
        ('[{"name": "add"}]', "step 1: give"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_in_one_line(text, why):
    with pytest.raises(InputError, match=why) as raised:
        GraphPlan.read(text, REGISTRY)
    assert "\n" not in str(raised.value)


def test_failure_takes_only_its_dependants_with_it():
    text = "1. search('bad')\n2. search('$1')\n3. search('$2')\n4. search('ok')\n5. add($4.no, 1)"
    result = run(text)
    assert [each.status for each in result.steps] == [
        "failed", "cancelled", "cancelled", "done", "failed",
    ]  # fmt: skip
    assert result.steps[1].error == "needs step 1, which failed"
    assert result.steps[2].error == "needs step 2, which was cancelled"
    assert result.steps[4].error == "$4.no: the value of step 4 has no .no"
    told = result.feedback()
    assert (told.line, told.text) == (
        1, "step 1, line 1: 1. search('bad'): tool search: ValueError: no such page",
    )  # fmt: skip
    assert "seconds" not in result.to_json()


class Recorder:
    """Tools that tell how many of them run at a time, and in which order."""

    def __init__(self):
        self.running = self.most = 0
        self.order = []

    async def read(self, name: str, other: str = "") -> str:
        self.running += 1
        self.most = max(self.most, self.running)
        for _ in range(5):
            await asyncio.sleep(0)
        self.running -= 1
        self.order.append(name)
        return name

    async def write(self, name: str, other: str = "") -> str:
        assert self.running == 0
        return await self.read(name, other)

    def registry(self):
        return Registry([Tool(self.read, effect="read"), Tool(self.write, effect="write")])


def test_independent_steps_run_at_once_and_needs_are_kept():
    text = "1. read('a')\n2. read('b')\n3. read('c')\n4. read('d', other=$1)"
    seen = Recorder()
    assert run(text, seen.registry()).ok
    assert seen.most == 3 and seen.order[-1] == "d"
    seen = Recorder()
    assert run(text, seen.registry(), at_once=1).ok and seen.most == 1
    with pytest.raises(InputError, match="at_once is 0"):
        run(text, seen.registry(), at_once=0)


def test_writes_keep_their_order_and_reads_stay_on_their_side():
    text = "1. read('a')\n2. write('b')\n3. write('c')\n4. read('d')\n5. read('e')"
    seen = Recorder()
    assert run(text, seen.registry()).ok
    assert seen.order == ["a", "b", "c", "d", "e"] and seen.most == 2
    seen = Recorder()  # a write that needs a later read comes after it, and nothing waits for ever
    assert run("1. write('x', other=$3)\n2. read('y')\n3. read('z')", seen.registry()).ok
    assert seen.order[-1] == "x"


def test_a_write_without_needs_survives_the_one_before_it():
    grid = GridWorld(2, 2)
    registry = Registry(grid.tools())
    assert [e.status for e in run("1. pick('mug')\n2. move('a2')", registry).steps] == [
        "failed", "done",
    ]  # fmt: skip
    result = run("1. pick('mug')\n2. move('a1') after $1", registry)
    assert [e.status for e in result.steps] == ["failed", "cancelled"] and grid.robot == "a2"


def test_budgets_hold():
    plan = GraphPlan.read("1. search('a')\n2. search('b')", REGISTRY)
    result = asyncio.run(plan.run(Broker(REGISTRY, budgets=Budgets(calls=1))))
    assert [each.status for each in result.steps] == ["done", "failed"]


@settings(max_examples=40)
@given(st.data())
def test_any_graph_runs_each_step_once_after_its_needs(data):
    count = data.draw(st.integers(1, 8))
    order = data.draw(st.permutations(range(count)))  # what comes later may need what came before
    lines, needs = [], {}
    for place, key in enumerate(order):
        chosen = data.draw(st.lists(st.sampled_from(order[:place]), unique=True)) if place else []
        needs[key] = chosen
        kind = data.draw(st.sampled_from(["read", "write"]))
        after = f" after {', '.join(f'${k}' for k in chosen)}" if chosen else ""
        lines.append((key, f"{key}. {kind}('{key}'){after}"))
    seen = Recorder()
    assert run("\n".join(line for _, line in sorted(lines)), seen.registry()).ok
    assert sorted(seen.order) == sorted(map(str, range(count)))
    for key, chosen in needs.items():
        assert all(seen.order.index(str(k)) < seen.order.index(str(key)) for k in chosen)


def test_trial_on_the_twin():
    grid = GridWorld(2, 1, things={"mug": "b1"}, goal={"mug": "a1"})
    registry = Registry(grid.tools())
    code = "move('b1')\npick('mug')\nmove('a1')\nplace('mug')\n"

    def trial(text):
        return asyncio.run(validate(GraphPlan.chain(text, registry), registry, grid.twin))

    assert trial(code).good and grid.log == []
    told = trial(code.replace("pick", "place", 1))
    assert told.line == 2 and "the hand does not hold mug" in told.text
    with pytest.raises(InputError, match="line 2: 'if x: pass' is no call"):
        GraphPlan.chain("move('b1')\nif x: pass", registry)
    texts = ["$1", "costs $5", "$$", "${x}"]  # in code they are texts and nothing else
    plan = GraphPlan.chain("\n".join(f"search({text!r})" for text in texts), REGISTRY)
    found = asyncio.run(plan.run(Broker(REGISTRY)))
    assert [value["text"] for value in found.values.values()] == [t.upper() for t in texts]
    assert asyncio.run(GraphPlan.chain(code, registry).run(Broker(registry))).ok
    assert grid.things == {"mug": "a1"}
