"""M3ToolEval: the rules case by case, the tools, and whole conversations in the sandbox."""

import asyncio
import json
from importlib.resources import files

import pytest

from stretto.agents.sandbox import open_sandbox
from stretto.errors import ConfigError, InputError, LimitError, StrettoError
from stretto.evals import m3_tools
from stretto.evals.m3_rules import (
    TURNS,
    Score,
    Task,
    is_accepted,
    load_tasks,
    prompt,
    read,
    score,
    score_record,
)
from stretto.evals.m3tooleval import POLICY, load_data, run_all, run_task, summary
from stretto.protocols import Completion

TRAVEL = json.loads((files("stretto.evals") / "m3_travel.json").read_text("utf-8"))
PAGES = {"/": "\n".join(f"line {n}" for n in range(7)) + "\n- [Clickable '/a']", "/a": "price 5"}
DATA = {"pages": PAGES, "flights": TRAVEL["flights"], "hotels": TRAVEL["hotels"]}

ACCEPTED = [
    ("3", 3),
    (" 3 ", 3),
    ("3.0", 3),
    ("1_000", 1000),
    ("161.25", 161.25),
    ("161", 161.25),  # int(161.25): a float loses its fraction
    ("50400", 50400.0),
    ("50400.00", 50400.0),
    ("'KMPP'", "KMPP"),
    ("0", False),  # int(False)
    ("False", False),
    ("True", True),
    ("[226800.0, 225984.0]", [226800.0, 225984.0]),
    ("{'T': 1, 'A': 2}", {"T": 1, "A": 2}),
    ("('A', 3)", ("A", 3)),
    (3, 3),  # a result of a single tool
    ([1, 2], [1, 2]),
    ("nan", float("nan")),  # by its text
]
REFUSED = [
    ("4", 3),
    ("3 units", 3),
    ("380.42", 380.41999999999996),  # rounded as it was asked for, and yet refused
    ("kmpp", "KMPP"),
    ("KMPP.", "KMPP"),
    ("[226800, 225984]", [226800.0, 225984.0]),  # the comparison of lists never comes about
    ("[226800.0,225984.0]", [226800.0, 225984.0]),  # nor is the text read as a literal before
    ("{'A': 2, 'T': 1}", {"T": 1, "A": 2}),
    ("A", ("A", 3)),
    ("", 0),
    (None, 0),
]


@pytest.mark.parametrize(("answer", "expected"), ACCEPTED)
def test_accepted(answer: object, expected: object) -> None:
    assert is_accepted(answer, expected)


@pytest.mark.parametrize(("answer", "expected"), REFUSED)
def test_refused(answer: object, expected: object) -> None:
    assert not is_accepted(answer, expected)


@pytest.mark.parametrize(
    ("generation", "kind", "content"),
    [
        ("Answer: 5\n", "answer", "5"),
        ("Thought: easy. Answer: 5 apples", "answer", "5 apples"),
        ("Answer: 5 Answer: 6", "answer", "5"),
        ("Answer: 5\nThought: hm. Answer: 6", "answer", "5"),
        ("Action: f, 1 End Action", "action", "f, 1 "),
        ("Action:\nprint(1)\nEnd Action\nmore", "action", "print(1)\n"),
        ("Action: f, 1", "action", "f, 1"),
        ("Action: f, 1 End Action Answer: 2", "action", "f, 1 "),
        ("Action: f Thought: g Answer: 2", "action", "f"),
        ("Thought: x Answer: 2 Action: f", "answer", "2"),
        ("I say. Thought: x Answer: 2 Action: f", "invalid", "Say either 'Action:' or 'Answer:'."),
        ("answer: 5", "invalid", "Say either 'Action:' or 'Answer:'."),
    ],
)
def test_read(generation: str, kind: str, content: str) -> None:
    said = read(generation)
    assert (said.kind, said.content) == (kind, content)
    assert read(said.kept).content == content  # what is kept says the same


def task(expected: object = 3, *, single: bool = False, tools: tuple[str, ...] = ()) -> Task:
    shown = tuple({"name": n, "description": "d", "signature": f"{n}(...)"} for n in tools)
    return Task("family/name", "Do it.", expected, shown, single)


def test_score() -> None:
    assert score(task(), ["Answer: 4", "Action: f", "what", "Answer: 3"]) == Score(
        True, 4, "correct"
    )
    assert score(task(), ["Answer: 3", "Answer: 4"]).turns == 1
    assert score(task(), ["Answer: 4"] * 9 + ["Answer: 3"]).correct
    assert score(task(), ["Answer: 4"] * TURNS + ["Answer: 3"]) == Score(False, TURNS, "limit")
    assert not score(task(), ["Action: f End Action"], results=[3]).correct
    assert score(task(single=True), ["Action: f End Action"], results=[3]).correct


def test_score_record() -> None:
    said = [{"role": "user", "content": "Answer: 3"}, {"role": "assistant", "content": "Answer: 4"}]
    record = {"task_name": "a", "expected_output": 3, "is_single_tool_task": False}
    assert score_record(record | {"messages": said}) == Score(False, 1, "limit")
    said += [{"role": "assistant", "content": "Answer: 3"}]
    assert score_record(record | {"messages": said}) == Score(True, 2, "correct")
    with pytest.raises(InputError, match="messages"):
        score_record(record)
    with pytest.raises(InputError, match="results of its actions"):
        score_record(record | {"messages": said, "is_single_tool_task": True})


# The tools.


def test_tools_give_what_tasks_expect() -> None:
    names = ["find_flights", "book_hotel", "budget_calculator", "min", "max", "sum"]
    t = m3_tools.provide(names, DATA)

    def leg(start: str, end: str, day: str, nights: int, *wishes: str) -> float:
        flight = t["min"](f["price"] for f in t["find_flights"](start, f'"{end}"', day))
        hotel = t["min"](h["price_per_night"] for h in t["book_hotel"](end, *wishes))
        return t["budget_calculator"](flight, hotel, nights)

    assert leg("E", "B", "2023-11-10", 3) == 615
    assert leg("E", "B", "2023-12-15", 7, "gym", "pool") == 1480
    legs = [leg("E", "C", "2023-12-01", 2, "pool"), leg("C", "B", "2023-12-03", 3),
            leg("B", "D", "2023-12-06", 2, "gym")]  # fmt: skip
    assert t["sum"](*legs) == 2200
    with pytest.raises(ValueError, match="Origin"):
        t["find_flights"]("AB", "A", "2023-12-25")
    hex_ = m3_tools.convert_hex_to_ascii("7a686b7a686d666d686b")
    assert m3_tools.caesar_decode(m3_tools.reverse_string(hex_), 5) == "fchahcufcu"
    assert m3_tools.caesar_decode("Ab 1", "2") == "Yz 1"
    dna = m3_tools.reverse_transcribe_mrna_to_dna("AUGCGU")
    assert m3_tools.count_nucleotides(dna) == {"T": 1, "A": 2, "C": 2, "G": 1}
    assert m3_tools.find_max_nucleotide("A", 1, "T", 4) == ("T", 4)
    assert m3_tools.translate_mrna_to_amino_acid("AUGUU") == "Methionine-X"
    assert m3_tools.calculator("2 + (3 * 4)") == 14
    assert m3_tools.calculator("2 +") == "Failed to evaluate expression: 2 +"


def test_browser() -> None:
    names = ["click_url", "go_to_previous_page", "scroll_down", "scroll_up", "view"]
    t = m3_tools.provide(names, DATA)
    assert "[Viewing page 1 of 2]\n\nline 0" in t["view"]()
    assert "line 4" in t["view"]() and "line 5" not in t["view"]()
    assert "line 5" in t["scroll_down"]()
    assert t["scroll_down"]() == "[Reached the bottom of the page.]\n"
    assert t["click_url"]("'/a'").startswith("[Opened page: /a]\n----------\n[Web Page Name: /a]")
    assert t["click_url"]("/b") == "[URL not found.]"
    assert "line 0" in t["go_to_previous_page"]()
    assert t["go_to_previous_page"]() == "[No previous page.]"
    assert t["scroll_up"]() == "[Reached the top of the page.]\n"


# Conversations. Nothing here is a model's work: turns are written beforehand.


class Turns:
    """Says what it was told to say."""

    name, scripted = "turns", True

    def __init__(self, *texts: str | Exception) -> None:
        self.texts, self.asked = list(texts), []

    async def complete(self, messages, **options):
        self.asked.append((list(messages), options))
        text = self.texts.pop(0)
        if isinstance(text, Exception):
            raise text
        return Completion(text, scripted=True)


def play(dialect, what: Task, *texts: str | Exception):
    model = Turns(*texts)

    async def go():
        async with open_sandbox("auto", POLICY, warm=0) as box:
            return await run_task(model, what, dialect, box, DATA)

    return asyncio.run(go()), model


def seen(outcome) -> list[str]:
    return [text for role, text in outcome.messages[1:] if role == "user"]


def test_code_keeps_its_variables() -> None:
    outcome, model = play(
        "code",
        task(615, tools=("find_flights", "budget_calculator", "min")),
        "Action:\nx = find_flights('E', 'B', '2023-11-10')\nEnd Action",
        "Thought: cheap. Action:\nprint(min(f['price'] for f in x))\nEnd Action",
        "Action:\nbudget_calculator(165, 150, 3)\nEnd Action",
        "Action:\n1 / 0\nEnd Action",
        "Action:\nimport os; os.listdir('/work')\nEnd Action",
        "Answer: 616",
        "Answer: 615",
    )
    assert outcome.score == Score(True, 7, "correct") and outcome.scripted
    told = seen(outcome)
    assert told[0].startswith("[Ran without output")
    assert told[1:3] == ["165", "615"]
    assert "ZeroDivisionError" in told[3] and "Error" in told[4]
    assert told[5].startswith("That answer is wrong") and len(told) == 6
    assert model.asked[0][1] == {"max_tokens": 512, "temperature": 0.0, "seed": None}


def test_json_and_text_call_one_tool() -> None:
    what = task("price 5", tools=("click_url", "view"))
    outcome, _ = play(
        "json",
        what,
        'Action: {"tool": "view", "args": []} End Action',
        'Action: {"tool": "click_url", "args": "/a"} End Action',
        'Action: {"tool": "scroll_down", "args": []} End Action',
        'Action: {"tool": "click_url", "args": [1]} End Action',
        "Action: click_url('/a') End Action",
        "Answer: price 5",
    )
    told = seen(outcome)
    assert outcome.score.turns == 6 and outcome.score.correct
    assert "line 0" in told[0] and "price 5" in told[1]
    assert told[2] == "There is no tool named scroll_down"
    assert told[3].startswith("The tool click_url failed with [1]")
    assert told[4].startswith("That is no action.")
    outcome, _ = play(
        "text",
        task(8, tools=("find_maximum", "calculator", "view")),
        "Action: find_maximum, 3, 7.5 End Action",
        "Action: calculator, '9' * 3000 End Action",
        "Answer: 8",
    )
    assert seen(outcome)[0] == "7.5"
    assert seen(outcome)[1].endswith("...\n[Output Truncated]")
    assert len(seen(outcome)[1]) == 2000 + len("...\n[Output Truncated]")


def test_single_tool_task_is_right_by_its_result() -> None:
    outcome, model = play("text", task(7, single=True, tools=("find_maximum",)),
                          "Action: find_maximum, 3, 7 End Action", "Answer: 1")  # fmt: skip
    assert outcome.score == Score(True, 1, "correct") and len(model.texts) == 1


def test_ten_turns_and_no_more() -> None:
    outcome, model = play("text", task(), *["hm"] * 12)
    assert outcome.score == Score(False, 10, "limit") and len(model.texts) == 2


def test_full_context_ends_a_task_and_a_spent_budget_the_run() -> None:
    full = StrettoError("maximum context length is 2048 tokens")
    outcome, _ = play("text", task(), "hm", full)
    assert outcome.score == Score(False, 1, "context_limit")
    with pytest.raises(LimitError):
        play("text", task(), LimitError("the context of this budget is spent"))
    with pytest.raises(StrettoError, match="refused"):
        play("text", task(), StrettoError("refused"))


def test_run_goes_on_where_it_stopped(tmp_path) -> None:
    tasks = [Task(f"t/{n}", "Do it.", n, ()) for n in range(3)]
    folder = tmp_path / "run"
    go = {"data": DATA, "folder": folder, "together": 1}
    with pytest.raises(ExceptionGroup):
        asyncio.run(run_all(Turns("Answer: 0", StrettoError("down")), tasks, "json", **go))
    with (folder / "outcomes.jsonl").open("a") as file:
        file.write('{"task_name": "t/1", "mess')  # as a kill leaves it
    model = Turns("Answer: 1", *["Answer: 9"] * 10)
    records = asyncio.run(run_all(model, tasks, "json", **go, resume=True))
    assert [r["is_correct"] for r in records] == [True, True, False]
    lines = (folder / "outcomes.jsonl").read_text().splitlines()
    assert [json.loads(line)["task_name"] for line in lines] == ["t/0", "t/1", "t/2"]
    assert [score_record(r).turns for r in records] == [r["n_turns"] for r in records] == [1, 1, 10]
    told = summary(records)
    assert (told["tasks"], told["turns"], told["scripted"]) == (3, 4, True)
    assert told["success"] == pytest.approx(200 / 3)
    with pytest.raises(ConfigError, match="holds a run of"):
        asyncio.run(run_all(model, tasks, "text", **go, resume=True))


def test_files(tmp_path) -> None:
    line = {"name": "a/b", "instruction": "Do.", "expected_output": 1, "single_tool": False,
            "tools": [{"name": "f", "description": "d", "signature": "f()"}]}  # fmt: skip
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps(line) + "\n")
    (loaded,) = load_tasks(path)
    assert (loaded.name, loaded.expected) == ("a/b", 1)
    for dialect in ("code", "json", "text"):
        text = prompt(loaded, dialect)
        assert "[1] f: d\n    Signature: f()" in text and "Instruction: Do." in text
    path.write_text("{}")
    with pytest.raises(InputError, match="tasks"):
        load_tasks(path)
    with pytest.raises(InputError, match="no M3ToolEval"):
        load_tasks(tmp_path / "none")
    with pytest.raises(InputError, match="no pages"):
        load_data(tmp_path)
    (tmp_path / "m3_web_pages.jsonl").write_text('{"name": "/", "content": "x"}\n')
    assert load_data(tmp_path)["pages"] == {"/": "x"}


def test_over_an_endpoint(tmp_path) -> None:
    """The whole way: HTTP, a tool in the sandbox, an answer; and a prompt that is too long."""
    pytest.importorskip("benchmarks.endpoint")  # not in an installed package
    from benchmarks.endpoint import Endpoint
    from stretto.agents.chat import EndpointChat

    def answer(body) -> str:
        said = body["messages"][-1]["content"]
        return f"Answer: {said}" if said == "14" else "Action: calculator, 2 + (3 * 4) End Action"

    tasks = [Task("t/1", "Work it out.", 14, task(tools=("calculator",)).tools)]

    async def go(endpoint, folder):
        async with EndpointChat("mock", base_url=endpoint.url, api_key="k", retries=0) as model:
            return await run_all(model, tasks, "text", DATA, folder)

    with Endpoint(answer=answer) as endpoint:
        (record,) = asyncio.run(go(endpoint, tmp_path / "a"))
    assert (record["is_correct"], record["n_turns"], record["scripted"]) == (True, 2, False)
    assert [m["role"] for m in record["messages"]] == ["user", "assistant", "user", "assistant"]
    with Endpoint(answer=answer, fails=["", "context"]) as endpoint:
        (record,) = asyncio.run(go(endpoint, tmp_path / "b"))
    assert (record["end_reason"], record["n_turns"]) == ("context_limit", 1)
