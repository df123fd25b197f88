"""What is there as source: parts within their budget, nothing lost or twice, text never code."""

import ast
import html
import json
import math
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stretto.agents.perception import TYPES, LiveData, LivePage, LiveTable
from stretto.agents.perception.data import _STEP
from stretto.agents.perception.elements import Row
from stretto.agents.perception.source import _FRAME, _LINE, MIN_BUDGET, render
from stretto.errors import ConfigError, InputError

pytest.importorskip("bs4")

NAMES: dict = {}
exec(TYPES, NAMES)  # as a sandbox does
ALLOWED = (ast.Expression, ast.Call, ast.Name, ast.Load, ast.keyword, ast.Constant, ast.List,
           ast.Dict, ast.UnaryOp, ast.USub)  # fmt: skip


def parts_of(live, budget):
    part = live.show(budget)
    while part is not None:
        yield part
        again = part.more()
        part = part.more()
        assert (part and part.source) == (again and again.source)


def seen(live, budget=MIN_BUDGET):
    """Items of all parts, joined; each part is checked on the way."""
    items = []
    for part in parts_of(live, budget):
        assert len(part.source) <= budget
        assert part.source.replace("\n", "").isprintable()  # nothing invisible
        tree = ast.parse(part.source.strip(), mode="eval")
        for node in ast.walk(tree):
            assert isinstance(node, ALLOWED), ast.dump(node)
            if isinstance(node, ast.Call):
                assert isinstance(node.func, ast.Name)
                assert node.func.id == "float" or isinstance(NAMES[node.func.id], type)
        shown = eval(part.source, NAMES)
        assert type(shown).__name__ == live.kind and shown.start == len(items)
        for item in shown.items:
            if type(item).__name__ == "Rest":
                before = items[item.of]
                text = getattr(before, item.field) + item.text
                items[item.of] = replace(before, **{item.field: text})
            else:
                items.append(item)
        of = shown.of
        assert (part.rest is None) == (part.left == 0)
    assert of == len(items)
    assert [repr(item) for item in items] == [
        repr(item) for item in live.items(budget - _FRAME - _LINE)
    ]  # classes differ, names and fields do not
    return items


TEXT = st.text(max_size=30) | st.text(min_size=300, max_size=1500)
SCALAR = (
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.just(-(10**60))
    | st.just("')\n__import__('os').system('x') #") | st.just("\u202e\x00\ud800\\'\"")
)  # fmt: skip
JSON = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(TEXT, inner, max_size=8),
    max_leaves=25,
)
_MISSING = object()


def rebuilt(items):
    """The value that ``Value``, ``Slice``, ``Keys`` and ``Number`` items tell of."""
    holder: dict = {"root": _MISSING}

    def steps(path):
        found, at = [], 0
        while at < len(path):
            step = _step(path, at)
            found.append(step[0])
            at = step[1]
        return found

    def _step(path, at):
        match = _STEP.match(path, at)
        if match[2]:
            return int(match[2]), match.end()
        return match[1] or ast.literal_eval(match[3]), match.end()

    def put(keys, value):
        target, key = holder, "root"
        for each in keys:
            if target[key] is _MISSING:
                target[key] = [] if isinstance(each, int) else {}
            target, key = target[key], each
            if isinstance(target, list):
                while len(target) <= key:
                    target.append(_MISSING)
            else:
                target.setdefault(key, _MISSING)
        assert target[key] is _MISSING, "shown twice"
        target[key] = value

    for item in items:
        kind = type(item).__name__
        if kind == "Value":
            put(steps(item.path), item.value)
        elif kind == "Number":
            put(steps(item.path), int(item.digits))
        elif kind == "Slice":
            for number, value in enumerate(item.values, start=item.first):
                put([*steps(item.path), number], value)
        elif kind == "Keys":
            for key, value in item.values.items():
                put([*steps(item.path), key], value)
    return holder["root"]


@settings(max_examples=50)
@given(JSON, st.sampled_from([MIN_BUDGET, 700, 4000]))
@example([float("nan"), float("-inf"), -0.0, -1, 10**50], MIN_BUDGET)
@example({"a" * 900: {"b'" * 300: ["x" * 2000, {}, []]}}, MIN_BUDGET)
@example([[[[[0] * 300]]]] * 3, MIN_BUDGET)
@example({f"key {n}": n for n in range(200)}, MIN_BUDGET)
def test_data_nothing_is_lost_and_nothing_comes_twice(value, budget):
    assert repr(rebuilt(seen(LiveData(value), budget))) == repr(value)


@settings(max_examples=40)
@given(st.lists(TEXT, unique=True, min_size=1, max_size=12), st.data())
def test_tables_nothing_is_lost_and_nothing_comes_twice(names, data):
    row = st.lists(SCALAR, min_size=len(names), max_size=len(names))
    rows = data.draw(st.lists(row, max_size=6))
    items = seen(LiveTable(names, rows))
    assert [item.name for item in items if type(item).__name__ == "Column"] == names
    found: dict = {}
    for item in items:
        kind = type(item).__name__
        if kind == "Row":
            assert item.number not in found
            found[item.number] = item.cells
        elif kind == "Cell":
            cells = found.setdefault(item.row, [])
            assert len(cells) == item.column
            cells.append(item.value)
    wanted = [[str(v) if v == -(10**60) else v for v in row] for row in rows]
    assert repr([found[n] for n in range(len(rows))]) == repr(wanted)


@settings(max_examples=40)
@given(st.lists(TEXT, max_size=8))
def test_pages_nothing_is_lost_and_nothing_comes_twice(texts):
    escaped = [html.escape(text.replace("\x00", "")) for text in texts]
    page = LivePage("".join(f"<p>{text}</p><a href='/{n}'>{text}</a>"
                            for n, text in enumerate(escaped)))  # fmt: skip
    items = seen(page)
    links = [item for item in items if type(item).__name__ == "Link"]
    assert [link.target for link in links] == [f"/{n}" for n in range(len(texts))]
    words = [" ".join(html.unescape(text).split()) for text in escaped]
    assert [link.text for link in links] == words
    assert [i.text for i in items if type(i).__name__ == "Text"] == [w for w in words if w]


@settings(max_examples=60)
@given(st.text(max_size=300))
def test_any_text_is_a_page(text):
    seen(LivePage(f"<title>{text}</title><h1>{text}</h1><input value={text}><table><td>{text}"))


def test_budget_is_used_well_and_not_too_small():
    page = LivePage("".join(f"<p>paragraph {n} of the page</p>" for n in range(100)))
    parts = list(parts_of(page, 1000))
    assert all(len(part.source) > 850 for part in parts[:-1])
    assert parts[0].source == page.show(1000).source
    assert [part.left for part in parts] == sorted([p.left for p in parts], reverse=True)
    with pytest.raises(ConfigError, match=f"budget is 10 characters; give {MIN_BUDGET} or more"):
        page.show(10)
    empty = LivePage("").show()
    assert empty.source == "Page(start=0, of=0, items=[])\n" and empty.more() is None


def test_fields_as_by_default_are_left_out():
    assert render(Row(1, ["a", None])) == "Row(number=1, cells=['a', None])"


def test_types_of_data_come_first_and_nodes_are_typed():
    data = LiveData.parse('{"users": [{"name": "Ada", "age": 36}, {"name": "Bob", "age": null}]}')
    assert data.show().source == (
        "Data(start=0, of=6, items=[\n"
        "    Field(path='', type='dict'),\n"
        "    Field(path='users', type='list'),\n"
        "    Field(path='users[]', type='dict'),\n"
        "    Field(path='users[].name', type='str'),\n"
        "    Field(path='users[].age', type='int | None'),\n"
        "    Value(path='', value={'users': [{'name': 'Ada', 'age': 36}, {'name': 'Bob', 'age': "
        "None}]}),\n"
        "])\n"
    )
    assert data.root.users[0].name == "Ada" and len(data.root.users) == 2
    assert [user.age for user in data.root.users] == [36, None]
    assert data.get("users[1].name") == "Bob" and data.get() == data.value
    assert data.keys("users[0]") == ["name", "age"] and data.length("users") == 2
    assert (data.keys("users"), data.length("users[0].age")) == ([], 0)
    with pytest.raises(AttributeError, match="users has no 'nobody'"):
        data.root.users.nobody  # noqa: B018
    many = LiveData({f"id-{n}": {"n": n} for n in range(60)})
    assert "Field(path='{}.n', type='int')" in many.show().source


@pytest.mark.parametrize(
    ("path", "why"),
    [("users[2]", r"nothing at 'users\[2\]'; 'users' is a list of 1"), ("users.x", "a list of 1"),
     ("names", "nothing at 'names'; the data is an object with 'users', 'odd"),
     ("users[0].a[0]", "is a int"), ("a b", "cannot be read from ' b'"), ("$", "cannot be read")],
)  # fmt: skip
def test_paths_that_lead_nowhere(path, why):
    data = LiveData({"users": [{"a": 1}], "odd key": 2, "a": []})
    with pytest.raises(InputError, match=why):
        data.get(path)
    assert data.get("['odd key']") == 2


def test_what_is_no_data_is_refused():
    with pytest.raises(InputError, match="it is no JSON: Expecting value: line 1"):
        LiveData.parse("")
    for value, why in (({1: 2}, "a key that is no text"), ([{1}], "a set is no JSON")):
        with pytest.raises(InputError, match=why):
            LiveData(value)
    deep = json.loads("[" * 300 + "]" * 300)
    with pytest.raises(InputError, match="nested more than 200 deep"):
        LiveData(deep)
    with pytest.raises(InputError, match="it is no JSON"):
        LiveData.parse("[" * 100_000)


CSV = """\
name,year,price,code,seen,on,big
Ada,1815,1.50,007,true,1815-12-10,12345678901234567
"Bob, Jr.",,2,010,False,2000-01-01,1

Cy "x",1900,-3e2,,TRUE,,2
"""


def test_csv():
    table = LiveTable.from_csv(CSV.replace('Cy "x"', '"Cy ""x"""'))
    assert table.dtypes == {"name": "str", "year": "int", "price": "float", "code": "str",
                            "seen": "bool", "on": "date", "big": "str"}  # fmt: skip
    assert table.head(1) == [{"name": "Ada", "year": 1815, "price": 1.5, "code": "007",
                              "seen": True, "on": "1815-12-10",
                              "big": "12345678901234567"}]  # fmt: skip
    assert table.column("year") == [1815, None, 1900] and len(table) == 3
    assert table.rows(2)[0]["name"] == 'Cy "x"' and table.rows(1, 0) == []
    told = table.describe()
    assert told["price"] == {"type": "float", "count": 3, "missing": 0, "distinct": 3,
                             "min": -300.0, "max": 2.0, "mean": -98.83333333333333}  # fmt: skip
    assert told["on"]["max"] == "2000-01-01" and "mean" not in told["on"]
    assert told["seen"] == {"type": "bool", "count": 3, "missing": 0, "distinct": 2}
    assert table.__stretto_summary__() == "3 rows x 7 columns"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: LiveTable.from_csv(""), "the text is empty"),
        (lambda: LiveTable.from_csv("a,b\n1,2\n1,2,3"), "line 3: 3 cells for 2 columns"),
        (lambda: LiveTable.from_csv('a\n"x'), "it is no CSV: unexpected end of data"),
        (lambda: LiveTable.from_csv("a,a"), "there are two columns 'a'"),
        (lambda: LiveTable(["a"], [[1, 2]]), "row 0 has 2 cells, not 1"),
        (lambda: LiveTable(["a"], []).column("b"), "there is no column 'b'; choose from 'a'"),
        (lambda: LiveTable(["a"], []).rows(-1), "give 0 or more"),
    ],
)
def test_tables_that_are_none(make, why):
    with pytest.raises(InputError, match=why):
        make()


def test_records_and_parquet(tmp_path):
    records = [{"a": 1, "b": [1]}, {"b": None, "c": 2.5}, {"a": 2.5}]
    table = LiveTable.from_records(records)
    assert table.columns == ["a", "b", "c"] and table.rows(1) == [
        {"a": None, "b": None, "c": 2.5}, {"a": 2.5, "b": None, "c": None},
    ]  # fmt: skip
    assert table.dtypes == {"a": "float", "b": "str", "c": "float"}
    assert math.isclose(table.describe()["a"]["mean"], 1.75)
    mixed = LiveTable(["x", "y", "n"], [[1, math.nan, None], ["a", math.inf, None]])
    assert mixed.dtypes == {"x": "mixed", "y": "float", "n": "none"}
    assert "min" not in mixed.describe()["y"]
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"n": [1, None], "s": ["x", "y"]}), path)
    assert LiveTable.from_parquet(path).head() == [{"n": 1, "s": "x"}, {"n": None, "s": "y"}]
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"table .*t\.parquet: "):
        LiveTable.from_parquet(path)
