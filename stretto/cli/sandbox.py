"""``stretto sandbox``: run code confined, and ``stretto doctor``: what holds on this machine."""

import asyncio
import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from stretto.agents.sandbox import ExecResult, Policy, open_sandbox
from stretto.cli.output import console, emit
from stretto.errors import InputError

app = App(name="sandbox", help="Run Python code confined.")

AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
Box = Literal["auto", "bubblewrap", "landlock", "monty"]


@app.command(name="exec")
def exec_(
    code: Annotated[str, Parameter(help="Python code, or - to read it from standard input.")],
    /,
    *,
    backend: Annotated[Box, Parameter(help="Which sandbox.")] = "auto",
    wall: Annotated[float, Parameter(help="Seconds.")] = Policy.wall,
    cpu: Annotated[float, Parameter(help="Seconds of processor time.")] = Policy.cpu,
    memory: Annotated[str, Parameter(help="Address space, such as 512M.")] = Policy.memory,
    imports: Annotated[
        list[str] | None,
        Parameter(name="--import", negative="", help="An installed package that may be imported."),
    ] = None,
    file: Annotated[
        list[Path] | None, Parameter(negative="", help="A file to put into the sandbox.")
    ] = None,
    json: AsJson = False,
) -> int:
    """Run code in a fresh sandbox; print its output and the last expression's value.

    Exits with 0, or 1 if the code raised or reached a limit.
    """
    text = sys.stdin.read() if code == "-" else code
    policy = Policy(wall=wall, cpu=cpu, memory=memory, imports=tuple(imports or ()))
    result = asyncio.run(_exec(text, backend, policy, file or []))
    if json:
        sys.stdout.write(json_module.dumps(result.to_json(), indent=2) + "\n")
    else:
        _print(result)
    return 0 if result.ok else 1


async def _exec(text: str, backend: Box, policy: Policy, files: list[Path]) -> ExecResult:
    async with open_sandbox(backend, policy, warm=0) as box, box.session() as session:
        for path in files:
            try:
                data = path.read_bytes()
            except OSError as error:
                raise InputError(f"{path}: {error.strerror}") from None
            await session.put(path.name, data)
        return await session.exec(text)


def _print(result: ExecResult) -> None:
    sys.stdout.write(_visible(result.stdout))
    if result.value_repr is not None:
        sys.stdout.write(_visible(result.value_repr) + "\n")
    sys.stderr.write(_visible(result.stderr))
    if result.error is not None:
        error = result.error
        sys.stderr.write(_visible(error.traceback or f"{error.type}: {error.message}") + "\n")
        if error.hint:
            sys.stderr.write(_visible(f"hint: {error.hint}") + "\n")
    if result.limit is not None:
        sys.stderr.write(f"stopped at its {result.limit} limit\n")


def _visible(text: str) -> str:
    """Text from the sandbox without what could command the terminal or reorder the line."""
    return "".join(
        char if char in "\n\t" or char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )


def doctor(
    *,
    backend: Annotated[
        Literal["all", "bubblewrap", "landlock"], Parameter(help="Which sandbox to test.")
    ] = "all",
    json: AsJson = False,
) -> int:
    """Test on this machine what each sandbox promises; takes some seconds.

    Exits with 1 if no sandbox works here or a promise is broken.
    """
    from stretto.agents.sandbox.doctor import advice
    from stretto.agents.sandbox.doctor import doctor as examine

    names = ["bubblewrap", "landlock"] if backend == "all" else [backend]
    told = {name: asyncio.run(examine(name)) for name in names}
    rows = []
    for name, found in told.items():
        for each in found:
            held = {True: "held", False: "NOT HELD", None: "not given"}[each.held]
            rows.append({"sandbox": name, "guarantee": each.name, "": held, "how": each.detail})
    emit(rows, ["sandbox", "guarantee", "", "how"], "json" if json else "table")
    for line in advice(told):
        console.print(line, markup=False, soft_wrap=True)
    works = {
        row["sandbox"] for row in rows if row["guarantee"] == "works here" and row[""] == "held"
    }
    broken = [row for row in rows if row[""] == "NOT HELD" and row["sandbox"] in works]
    return 0 if works and not broken else 1
