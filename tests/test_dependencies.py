"""Every package that is imported is declared, under an extra that whoever runs the file has."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
OWN = {"stretto", "benchmarks", "tests", "stock", "hatch-build", "hatch_build"} | {
    p.stem for p in (ROOT / "tests").rglob("*.py")
}
DISTRIBUTIONS = {
    "bs4": "beautifulsoup4",
    "yaml": "pyyaml",
    "PIL": "pillow",
    "opentelemetry": "opentelemetry-api",
}

# What an area may import besides the core.
AREAS = {
    "models": ["torch"],
    "engine": ["torch"],
    "training": ["train"],
    "evals": ["evals"],
    "cli": ["torch"],
    "commons": ["commons"],
}
# Files that are of no use without an extra, wherever they stand: each of these must bring it.
OPTIONAL = {
    "stretto/agents/chat.py": ["agents", "commons"],
    "stretto/agents/mcp/client.py": ["agents"],
    "stretto/agents/mcp/server.py": ["agents"],
    "stretto/agents/perception/html.py": ["agents"],
    "stretto/agents/perception/table.py": ["commons", "train"],
    "stretto/agents/sandbox/bubblewrap.py": ["agents"],
    "stretto/agents/sandbox/monty.py": ["agents"],
    "stretto/commons/driver.py": ["ray"],
    "stretto/engine/grammar.py": ["grammar"],
    "stretto/engine/backends/cpu.py": ["cpu"],
    "stretto/engine/backends/graph.py": ["cpu"],
    "stretto/plots.py": ["train", "evals", "commons"],
    "stretto/streams/parquet.py": ["train", "evals"],
    "stretto/streams/examples/reasoning.py": ["train", "evals"],
}
# Libraries that a file uses in an environment of its own.
ELSEWHERE = {"benchmarks/ipython.py": {"jupyter-client"}}


def declared(extra: str) -> set[str]:
    """Distributions of an extra, with those of the extras it names; "" is the core."""
    names: set[str] = set()
    for requirement in EXTRAS[extra] if extra else PROJECT["dependencies"]:
        if match := re.fullmatch(r"stretto\[(.*)\]", requirement):
            names.update(*(declared(other) for other in match[1].split(",")))
        else:
            names.add(re.split(r"[\[<>=!~; ]", requirement)[0].lower())
    return names


def imported(path: Path) -> set[str]:
    """Distributions a file imports, at its top or inside a function."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module.partition(".")[0])
    modules -= set(sys.stdlib_module_names) | OWN
    return {DISTRIBUTIONS.get(name, name).lower().replace("_", "-") for name in modules}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", sources("stretto"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_package_imports_what_is_declared(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    area = path.relative_to(ROOT).parts[1]
    for extra in OPTIONAL.get(name) or AREAS.get(area) or [""]:
        lacking = imported(path) - declared("") - declared(extra)
        assert not lacking, f"{name}: not in {extra or 'the core'}: {lacking}"


@pytest.mark.parametrize("folder", ["tests", "tools", "benchmarks", "examples"])
def test_everything_else_imports_what_is_declared(folder: str) -> None:
    available = declared("") | declared("all") | declared("dev")
    for path in sources(folder):
        elsewhere = ELSEWHERE.get(str(path.relative_to(ROOT)), set())
        assert not imported(path) - available - elsewhere, path


def test_the_lock_file_has_what_is_declared() -> None:
    text = (ROOT / "requirements-lock.txt").read_text(encoding="utf-8")
    locked = set(re.findall(r"^([\w.-]+)==", text, re.MULTILINE))
    left_out = {"torch", "lm-eval", "inspect-ai"}  # see tools/lock.sh
    extras = ("", "train", "evals", "cpu", "agents", "commons", "dev")
    wanted = {name for extra in extras for name in declared(extra)}
    assert not wanted - left_out - locked


def test_the_check_sees_imports_and_extras(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("import os, yaml\ndef f():\n    from some_thing.part import x\n")
    assert imported(path) == {"pyyaml", "some-thing"}
    assert {"torch", "accelerate"} <= declared("train")
    assert "torch" not in declared("")
    assert declared("torch") <= declared("all")
