"""One text, one multimodal and one physical tool in the same code action; objects stay here."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from stretto.agents.broker import Broker, CallError
from stretto.agents.refs import ObjectStore
from stretto.agents.registry import Registry
from stretto.agents.sandbox import NoSandboxError, open_sandbox
from stretto.agents.tool import tool
from stretto.errors import InputError, LimitError


class Image:
    """A picture: bytes that never leave the host."""

    def __init__(self, pixels: bytes) -> None:
        self.pixels = pixels

    def __stretto_summary__(self) -> str:
        return f"{len(self.pixels)} pixels"

    def brightest(self) -> int:
        return max(range(len(self.pixels)), key=self.pixels.__getitem__)

    def delete(self) -> None:
        raise AssertionError("not allowed")


@dataclass
class Arm:
    """A simulated robot."""

    at: int = 0
    log: list[str] = field(default_factory=list)


@tool(effect="read")
def where_is(thing: str) -> str:
    """Which shelf a thing is on."""
    return {"mug": "shelf-2"}[thing]


@tool(effect="read", kind="multimodal")
def look(shelf: str) -> Image:
    """A picture of a shelf."""
    return Image(bytes([3, 1, 9, 2]))


@tool(effect="pure", kind="multimodal")
def find_in(picture: Image) -> int:
    """The position of what shines in a picture."""
    return picture.brightest()


ARM = Arm()


@tool(effect="write", kind="physical")
async def move_arm(position: int) -> Arm:
    """Move the arm."""
    ARM.at = position
    ARM.log.append(f"moved to {position}")
    return ARM


ACTION = """
shelf = where_is("mug")
picture = look(shelf)
position = find_in(picture=picture)
move_arm(position)
answer = [shelf, picture["summary"], position]
"""


def _execute(code: str, registry: Registry, on_call: Callable[..., Any]) -> dict[str, Any]:
    """As a sandbox does: code in a thread, calls as JSON, errors raised where it calls."""

    async def run() -> dict[str, Any]:
        loop = asyncio.get_running_loop()

        def host(name: str) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                sent = json.loads(json.dumps([args, kwargs]))
                future = asyncio.run_coroutine_threadsafe(on_call(name, *sent), loop)
                return json.loads(json.dumps(future.result()))

            return call

        names: dict[str, Any] = {tool.identifier: host(tool.identifier) for tool in registry}
        await asyncio.to_thread(exec, code, names)
        return names

    return asyncio.run(run())


def test_three_kinds_in_one_action() -> None:
    registry = Registry([where_is, look, find_in, move_arm])
    assert {each.kind for each in registry} == {"text", "multimodal", "physical"}
    store = ObjectStore({Image: ["brightest"]})
    broker = Broker(registry, store=store)
    names = _execute(ACTION, registry, broker.on_call("s"))
    assert names["answer"] == ["shelf-2", "4 pixels", 2]
    assert ARM.at == 2 and ARM.log == ["moved to 2"]
    picture = names["picture"]
    assert set(picture) == {"$object", "type", "summary", "methods"}
    assert isinstance(store.get(picture["$object"]), Image)
    assert [record.call.tool for record in broker.records] == [each.name for each in registry]
    assert "picture: Image" in registry.stub() and "-> Image:" in registry.stub()


def test_three_kinds_in_one_action_of_a_sandbox() -> None:
    """The same action where it is meant to run: values cross the sandbox's border."""
    registry = Registry([where_is, look, find_in, move_arm])
    store = ObjectStore({Image: ["brightest"]})
    broker = Broker(registry, store=store)
    names = [each.identifier for each in registry]

    async def run() -> Any:
        async with (
            open_sandbox(warm=0) as box,
            box.session(tools=names, on_call=broker.on_call("s")) as session,
        ):
            return await session.exec(ACTION + "answer")

    try:
        result = asyncio.run(run())
    except NoSandboxError as error:
        pytest.skip(str(error))
    assert result.value == ["shelf-2", "4 pixels", 2] and ARM.at == 2
    assert [call.name for call in result.calls] == names
    assert [record.call.tool for record in broker.records] == names


def test_a_number_is_no_picture() -> None:
    registry = Registry([find_in])
    broker = Broker(registry)
    with pytest.raises(CallError, match="picture is 3; give a reference to an Image"):
        _execute("find_in(3)", registry, broker.on_call())
    with pytest.raises(CallError, match="no object 'image-9' here"):
        _execute("find_in({'$object': 'image-9'})", registry, broker.on_call())


def test_only_allowed_methods_are_called() -> None:
    store = ObjectStore({Image: ["brightest"]})
    ref = store.put(Image(b"abc"))
    assert store.call(ref, "brightest") == 2
    forged = type(ref)(ref.id, ref.type, methods=("delete",))
    for method in ("delete", "__class__"):
        with pytest.raises(InputError, match="is not allowed; these are: brightest"):
            store.call(forged, method)


def test_values_cross_as_json_and_objects_as_references() -> None:
    store = ObjectStore(most=2)
    picture = Image(b"ab")
    crossed = store.encode({"all": (picture, Arm(1)), "again": picture, "bytes": b"x"})
    assert crossed["all"][1] == {"at": 1, "log": []}
    assert crossed["all"][0] == crossed["again"] and crossed["bytes"]["type"] == "bytes"
    assert json.loads(json.dumps(crossed)) == crossed
    assert store.decode(crossed)["again"] is picture
    with pytest.raises(LimitError, match="2 objects are kept already"):
        store.put(Image(b"c"))
    store.release(crossed["again"]["$object"])
    assert store.put(Image(b"c")).id != crossed["again"]["$object"]  # ids are not used again
