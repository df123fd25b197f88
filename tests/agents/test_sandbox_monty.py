"""Monty runs code that orchestrates tools, and nothing else."""

import asyncio
from typing import Any

import pytest

from stretto.agents.sandbox import Policy, open_sandbox
from stretto.errors import ConfigError, SandboxError

pytest.importorskip("pydantic_monty")


async def echo(name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if args == [0]:
        raise ValueError("no zeros")
    return [name, args, kwargs]


def test_monty_keeps_the_contract() -> None:
    async def run() -> None:
        async with (
            open_sandbox("monty", Policy(cpu=1, output="2K", calls=3)) as box,
            box.session(tools=["echo"], on_call=echo) as s,
        ):
            assert (await s.exec("x = 1\nprint('hi')\nx + 1")).value == 2
            called = await s.exec("echo('tea', k=2)")
            assert called.value == ["echo", ["tea"], {"k": 2}] and called.calls[0].ok
            caught = await s.exec("try:\n    echo(0)\nexcept ValueError as e:\n    print(e)")
            assert caught.stdout == "no zeros\n" and not caught.calls[0].ok
            for code in ("open('/etc/passwd')", "import os\nos.system('true')", "nowhere(1)"):
                assert not (await s.exec(code)).ok
            flood = await s.exec("print('a' * 10000)")
            assert (flood.limit, len(flood.stdout)) == ("output", 2048)
            kept = await s.checkpoint()
            await s.exec("x = 5")
            await s.restore(kept)
            assert (await s.exec("x")).value == 1
            stuck = await s.exec("while True: pass")
            assert (stuck.limit, stuck.alive) == ("cpu", False)
            await s.restore(kept)
            assert (await s.exec("x")).value == 1
            with pytest.raises(SandboxError, match="no files"):
                await s.put("a", b"")

    asyncio.run(run())


def test_a_session_of_monty_may_have_a_narrower_policy() -> None:
    async def run() -> None:
        async with open_sandbox("monty") as box:
            async with box.session(policy=Policy(output="10")) as s, await s.fork() as copy:
                for each in (s, copy):
                    assert (await each.exec("print('x' * 99)")).limit == "output"
            with pytest.raises(ConfigError, match="may only narrow"):
                await box.session(policy=Policy(wall=11.0))

    asyncio.run(run())


def test_monty_has_no_packages() -> None:
    async def run() -> None:
        async with open_sandbox("monty", Policy(imports=("numpy",))):
            pass

    with pytest.raises(SandboxError, match="no packages"):
        asyncio.run(run())
