import pytest

from stretto.agents.effects import Effects, effect_of, worst
from stretto.errors import InputError

TOOLS = {"search": "read", "send": "write", "calc": "pure", "fire": "irreversible"}


@pytest.mark.parametrize(
    "source",
    [
        "x = 1",
        "x = calc(2) + len([1]) * 3",
        "def f(x):\n    return send(x)",  # only calling it sends
        "import json\nprint(json.dumps({'a': [1]}))",
        "import os.path\nprint(os.path.join('a', 'b'))",
        "from math import sqrt\nprint(sqrt(4))",
        "import datetime\nd = datetime.datetime.now().isoformat()",
        "xs = []\nfor i in range(3):\n    xs.append(str(i).upper())",
        "def fact(n):\n    return 1 if n < 2 else n * fact(n - 1)\nprint(fact(5))",
        "import numpy as np\nprint(np.arange(3).mean())",
        "from os import remove",
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    print(error)",
        "x = sorted([3, 1], key=lambda v: -v)",
    ],
)
def test_pure(source):
    assert effect_of(source, TOOLS) == "pure"


@pytest.mark.parametrize(
    "source",
    [
        "x = search('a')",
        "xs = [search(q) for q in ['a', 'b']]",
        "def g(x):\n    return search(x)\ndef f(x):\n    return g(x)\ny = f(2)",
        "def f(x):\n    return g(x)\ndef g(x):\n    return search(x)\ny = f(2)",
        "with open('f') as f:\n    text = f.read()",
        "y = list(map(search, ['a']))",
        "ask = search",
    ],
)
def test_read(source):
    assert effect_of(source, TOOLS) == "read"


@pytest.mark.parametrize(
    "source",
    [
        "send('a')",
        "x = calc(2) + fire()",
        "f = send",
        "list(map(send, [1]))",
        "h = lambda: send(1)",
        "try:\n    send(1)\nexcept Exception:\n    pass",
        "def f(x):\n    return send(x)\nf(1)",
        "def f(x):\n    return g(x)\ndef g(x):\n    return send(x)\nprint(f(1))",
        "def f():\n    def inner():\n        send(1)\n    return inner\ng = f()",
        "class A:\n    def go(self):\n        send(1)\nA().go()",
        "@send\ndef f(): pass",
        "def f(x=send(1)): pass",
        "class A:\n    x = send(1)",
        "fs = [send]\nprint(fs)",
        "fs = []\nfs.append(send)\nprint(fs)",
        "open('a', 'w')",
        "open('a', **how)",
        "list(map(open, ['a'], ['w']))",
        "import numpy as np\nnp.save('a', 1)",
        "search(send(1))",
    ],
)
def test_write(source):
    assert worst([effect_of(source, TOOLS, {"how"}), "write"]) != "pure"
    assert effect_of(source, TOOLS, {"how"}) in ("write", "unknown")


@pytest.mark.parametrize(
    "source",
    [
        "z()",
        "z = nobody_knows",
        "().__class__.__bases__",
        "getattr(1, 'real')",
        "exec('1')",
        "import requests",
        "import os\nos.remove('x')",
        "import os\no = os\no.remove('x')",
        "import os\nf = os.remove",
        "from os import remove\nremove('x')",
        "if True:\n    import os\n    os.remove('x')",
        "def f():\n    import os\n    os.remove('x')\nf()",
        "import subprocess\nsubprocess.run(['ls'])",
        "x = search('a')\nx.move()",  # may be a handle of something outside
        "fs = [send]\nfs[0]()",
        "import math\nmath = search('a')\nmath.move()",
        "def f(): pass\nf = search('a')\nf()",
        "h = [1]\nh()",
        "def f():\n    exec('send(1)')\nf()",
        "def f():\n    return [getattr]\nprint(f())",
    ],
)
def test_unknown(source):
    assert effect_of(source, TOOLS) == "unknown"


def test_names_given_are_known():
    assert effect_of("y = total(x)", TOOLS) == "unknown"
    assert effect_of("y = total(x)", TOOLS, {"total", "x"}) == "pure"


def test_statement_by_statement():
    effects = Effects(TOOLS)
    assert effects.take("def f(x):\n    return g(x) + offset").effect == "pure"
    assert effects.take("offset = 1").effect == "pure"
    assert effects.take("def g(x):\n    return search(x)").effect == "pure"
    use = effects.take("y = f(2)")
    assert (use.effect, use.tools) == ("read", {"search"})
    assert {"f", "g", "offset"} <= use.reads
    assert use.writes == {"y"}
    effects.take("def g(x):\n    return send(x)")
    assert effects.take("y = f(2)").effect == "write"


def test_what_a_name_holds_is_not_forgotten():
    effects = Effects(TOOLS)
    effects.take("fs = [send]")
    effects.take("if False:\n    fs = []")
    assert effects.take("print(fs)").effect == "write"
    effects.take("fs = []")
    assert effects.take("print(fs)").effect == "pure"


def test_changes_in_place_are_writes_of_the_name():
    effects = Effects(TOOLS)
    effects.take("a, b, c = [], {}, 0")
    assert effects.take("a.append(1)\nb['k'] = 2\nc += 1").writes == {"a", "b", "c"}


def test_a_copy_goes_its_own_way():
    effects = Effects(TOOLS)
    twin = effects.copy()
    twin.take("x = 1")
    assert twin.take("print(x)").effect == "pure"
    assert effects.take("print(x)").effect == "unknown"


def test_an_unknown_effect_is_refused():
    with pytest.raises(InputError, match="tool search: no effect 'reads'"):
        Effects({"search": "reads"})
