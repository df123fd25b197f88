import ast
import os
import random
import tokenize
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stretto.agents.actions import Splitter, split

LIBRARY = Path(os.__file__).parent
FORMATS = """\
x = f"{d["a"]} {{ {y!r:>{w}} {z:{a:{b}}} {f'{1 + 1}'}"
y = f\"\"\"{
  x["k"]  # comment }
}\"\"\"
if f"{x:%H:%M}":
    z = f"{(lambda: 1)():d}" ; q = 1
else:
    pass
w = rf"\\\\{x}\\\\d{{3}}"
"""


def pieces(text, rng):
    most, start = rng.choice([1, 6, 40, 400]), 0
    while start < len(text):
        length = rng.randint(1, most)
        yield text[start : start + length]
        start += length


def run(text, rng=None):
    """Statements, the error, and after how many characters it was told."""
    splitter, found, told, taken = Splitter(), [], None, 0
    for piece in pieces(text, rng) if rng else text:
        found += splitter.push(piece)
        taken += len(piece)
        if splitter.error and told is None:
            told = taken
    return found + splitter.finish(), splitter.error, told


def expected(text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body = ast.parse(text).body
    firsts = [min([n.lineno, *(d.lineno for d in getattr(n, "decorator_list", []))]) for n in body]
    return [(line, ast.dump(node)) for line, node in zip(firsts, body, strict=True)]


def told(found):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [(s.line, ast.dump(ast.parse(s.source).body[0])) for s in found]


def library(most_bytes):
    files = sorted(path for path in LIBRARY.rglob("*.py") if "site-packages" not in path.parts)
    return [path for path in files if 0 < path.stat().st_size < most_bytes]


def read(path):
    """Its text and statements; None if this interpreter cannot read it."""
    try:
        with tokenize.open(path) as file:
            text = file.read()
        return text, expected(text)
    except (SyntaxError, ValueError):
        return None


def check_library(count, most_bytes, seed):
    rng, files, done = random.Random(seed), library(most_bytes), 0
    while done < count:
        known = read(rng.choice(files))
        if known is None:
            continue
        text, want = known
        if rng.random() < 0.2:
            text = text.replace("\n", rng.choice(["\r\n", "\r"]))
        found, error, _ = run(text, rng)
        assert error is None
        assert told(found) == want
        done += 1


def test_random_splits_of_the_standard_library():
    check_library(40, 8_000, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_random_splits_of_the_standard_library():
    check_library(9_000, 8_000, seed=1)
    check_library(1_000, 10**7, seed=2)


@given(st.integers(0, 10**9))
def test_any_split_of_awkward_code(seed):
    text = (
        "# first\n\nx = 1; y = '''a\n  b''' ; z = \"'#\"\n@d(\n1)\n# between\n@e\nasync def f():\n"
        "\tif 1:\n\t\tpass\n# in the first column\n\telse: pass\n\n\n"
        "if x:\n    a\n# no clause\nelif y: b\nelse:\n    c  # d\nelements = [\n1,\n]\n"
        "try: a\nexcept* E: b\nfinally: c\nexceptional = 'é\\\n\U0001f600'\n"
        "match x:\n case 1: pass\n"
        "match = 3\nmatch[0]: int = 4\nfor i in x: pass\nelse: pass\n"
        "while 0: pass\n\x0cy = 5 \\\n+ 6\n"
        "\\\nif x:\n  y\nelse:\n  z\nclass A: x = 1; y = 2\n"
        "r'\\''; u\"\"; b''\nasync \\\nfor q in r: s"
    )
    found, error, _ = run(text, random.Random(seed))
    assert error is None
    assert told(found) == expected(text)


@pytest.mark.skipif("sys.version_info < (3, 12)", reason="strings within strings: PEP 701")
def test_strings_within_formatted_strings():
    for seed in range(200):
        found, error, _ = run(FORMATS, random.Random(seed))
        assert error is None
        assert told(found) == expected(FORMATS)


@pytest.mark.parametrize(
    ("text", "complete"),  # the last character completes what is complete
    [
        ("x = 1\n", 1),
        ("x = 1", 0),
        ("x = (1,\n", 0),
        ("x = '''\n", 0),
        ("x = 1 + \\\n", 0),
        ("a; b\n", 2),
        ("def f(): pass\n", 1),
        ("def f():\n  pass\n", 0),
        ("def f():\n  pass\ne", 1),
        ("@d\n", 0),
        ("if x: pass\n", 0),
        ("if x: pass\nel", 0),
        ("if x: pass\nels\n", 2),
        ("if x: pass\nelse: pass\n", 1),
        ("if x: pass\n  # note\nx", 1),
        ("for x in y: pass\nelif", 1),
        ("try: a\nexcept: b\nfinally: c\n", 1),
        ("class A: pass\n", 1),
        ("async with a: pass\n", 1),
        ("match = 1\n", 1),
        ("match (x)\n", 1),
        ("match x:\n case 1: pass\n", 0),
    ],
)
def test_a_statement_comes_as_soon_as_it_is_complete(text, complete):
    splitter = Splitter()
    before = [s for char in text[:-1] for s in splitter.push(char)]
    last = splitter.push(text[-1])
    assert len(before + last) == complete
    assert splitter.error is None
    if text.endswith("\n") and complete:
        assert last, "not before its newline"


@pytest.mark.parametrize(
    ("text", "at", "line", "word", "hint"),
    [
        ("ok\nx = = 1\ny\n", "= = 1\n", 2, "invalid syntax", ""),
        ("x = f(1])\n", "]", 1, "does not match", "order"),
        ("x = 1)\n", ")", 1, "unmatched", "too many"),
        ("a\n\nx = 'abc\ny = 1\n", "abc\n", 3, "unterminated", "end the string"),
        ("def f():\n    x = = 1\n    return x\n", "= = 1\n", 2, "invalid syntax", ""),
        ("f(1 2,\n  3)\n", "2,\n", 1, "comma", ""),
        ("  x = 1\n", "1\n", 1, "unexpected indent", "first column"),
        ("if x:\npass\n", "\np", 1, "indented block", "indent the body"),
        ("def f():\n    a\n  b\nx = 1\n", "  b\n", 3, "unindent", "same indentation"),
        ("try:\n    a\nx = 1\n", "\nx", 2, "expected 'except'", ""),
        ("else:\n    a\n", ":\n", 1, "invalid syntax", ""),
        ("if a: b\nelse: c\nelse: d\n", "d\n", 3, "invalid syntax", ""),
        ("```python\nx = 1\n", "on\n", 1, "invalid syntax", "fences"),
        ("print 'a'\n", "a'\n", 1, "print", "write print"),
        ("x = 1\nd = {\n 'a': 1,\n 'b' 2,\n}\n", "}\n", 4, "dictionary key", ""),
        ("x = \ud800\n", "\n", 1, "surrogates", ""),
        ("x = 1\0\n", "\n", 1, "null byte", "zero byte"),
        ("@d\nx = 1\n", "1\n", 2, "invalid syntax", ""),
    ],
)
def test_errors_are_told_at_once_with_line_and_hint(text, at, line, word, hint):
    _, error, told_at = run(text)
    assert error is not None
    assert told_at == text.index(at) + len(at)
    assert error.line == line
    assert word in str(error)
    assert hint in error.hint
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    "text", ["x = (1,\n", "'''abc", "def f():\n", "@d\n", "x = 1 + \\", "try: a\n"]
)
def test_what_is_unfinished_is_an_error_only_at_the_end(text):
    found, error, told_at = run(text)
    assert not found
    assert told_at is None
    assert error is not None


def test_lines_in_messages_are_those_of_the_whole_text():
    _, error, _ = run("a\nb\nif x:\nc\n")
    assert "on line 3" in error.message


def test_nothing_is_taken_after_an_error():
    splitter = Splitter()
    assert [s.source for s in splitter.push("a\nb = )\nc\n")] == ["a"]
    assert splitter.pending.startswith("b = )")
    assert splitter.push("d\n") == splitter.finish() == []


def test_a_long_block_is_still_checked():
    body = "".join(f"    x{i} = {i}\n" for i in range(400))
    splitter = Splitter()
    splitter.push("def f():\n" + body + "    y = = 2\n")
    for i in range(60):
        splitter.push(f"    z{i} = 1\n")
    assert splitter.error is not None
    assert splitter.error.line == 402


def test_whole_texts():
    assert [s.kind for s in split("import a\nasync def f(): pass")] == [
        "Import",
        "AsyncFunctionDef",
    ]
    assert split("\n# nothing\n") == []
    with pytest.raises(SyntaxError, match="line 2"):
        split("a\n)")
