"""A registry as an MCP server: what is in it is offered, calls go through a broker."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import uvicorn
from mcp import MCPError, types
from mcp.server import NotificationOptions, Server
from mcp.server.context import ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp.types.version import MODERN_PROTOCOL_VERSIONS

from stretto import __version__
from stretto.agents.broker import Broker, Budgets, Call
from stretto.agents.registry import Registry
from stretto.errors import ConfigError

LOCAL = ("127.0.0.1", "localhost", "::1")
SESSIONS = 1024  # of revisions before 2026-07-28 that are told of changes
TAG = "mcp"
"""All clients are one session to the broker: what one has read taints them all."""


class RegistryServer(Server[Any]):
    """See :func:`registry_server`."""

    def __init__(self, registry: Registry, broker: Broker | None, name: str) -> None:
        self._registry = registry
        self._broker = broker or Broker(registry, budgets=Budgets(calls=None, block_calls=None))
        self._keeps_records = broker is not None
        self._bus = InMemorySubscriptionBus()
        self._sessions: dict[int, Any] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._telling: set[asyncio.Future[None]] = set()
        super().__init__(
            name,
            version=__version__,
            get_tool_input_schema=self._schema,
            on_list_tools=self._list,
            on_call_tool=self._call,
            on_subscriptions_listen=ListenHandler(self._bus),
        )

    def create_initialization_options(
        self, notification_options: NotificationOptions | None = None, *args: Any, **more: Any
    ) -> Any:
        """As the SDK's; that tools may change is always told."""
        told = notification_options or NotificationOptions(tools_changed=True)
        return super().create_initialization_options(told, *args, **more)

    async def tell(self) -> None:
        """Tell all clients that the tools have changed."""
        await self._bus.publish(ToolsListChanged())
        for key, session in list(self._sessions.items()):
            try:
                await session.send_tool_list_changed()
            except Exception:  # whatever its transport raises: the client is gone
                self._sessions.pop(key, None)

    def changed(self) -> None:
        """The registry has changed; from any thread."""
        if self._loop is not None:  # somebody has seen the list
            with suppress(RuntimeError):  # the loop is closed: nobody is there
                self._loop.call_soon_threadsafe(self._tell_soon)

    def _tell_soon(self) -> None:
        task = asyncio.ensure_future(self.tell())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def _schema(self, name: str) -> Any:
        return self._registry.get(name).schema if name in self._registry else None

    async def _list(
        self, context: ServerRequestContext[Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        self._loop = asyncio.get_running_loop()
        if context.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            while len(self._sessions) >= SESSIONS:
                self._sessions.pop(next(iter(self._sessions)))
            # A connection's parameters are one object, its sessions one a request.
            self._sessions[id(context.session.client_params)] = context.session
        listed = [self._registry.json_schema(tool.name, "mcp") for tool in self._registry]
        return types.ListToolsResult(tools=[types.Tool.model_validate(each) for each in listed])

    async def _call(
        self, context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        if params.name not in self._registry:
            raise MCPError(types.INVALID_PARAMS, f"there is no tool {params.name!r}")
        record = await self._broker.call(Call(params.name, params.arguments or {}, tag=TAG))
        if not self._keeps_records:
            self._broker.records.clear()  # a server may run for months
        value = record.value if record.ok else record.error
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        content: list[types.ContentBlock] = [types.TextContent(text=text)]
        if not record.ok:
            return types.CallToolResult(content=content, is_error=True)
        whole = value if isinstance(value, dict) else {"result": value}
        return types.CallToolResult(content=content, structured_content=whole)


def registry_server(
    registry: Registry, *, broker: Broker | None = None, name: str = "stretto"
) -> RegistryServer:
    """A server of the SDK that offers a registry's tools, of which some may come and go.

    Args:
        registry: the tools.
        broker: checks and runs calls; by default everything that is well-formed is allowed, but
            for calls that cannot be undone after an untrusted tool has been read.
        name: as clients see it.
    """
    server = RegistryServer(registry, broker, name)
    registry.on_change(server.changed)
    return server


async def serve_registry(
    registry: Registry,
    transport: str = "stdio",
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    broker: Broker | None = None,
    name: str = "stretto",
) -> None:
    """Offer a registry's tools until the client leaves (``stdio``) or for ever (``http``).

    Over HTTP at ``http://HOST:PORT/mcp``, to this machine only, for nobody is asked for a login.

    Args:
        registry: the tools.
        transport: ``stdio`` or ``http``.
        host: an address of this machine alone.
        port: to listen on.
        broker: as :func:`registry_server`.
        name: as clients see it.

    Raises:
        ConfigError: no such transport, or others could reach the host.
    """
    if transport not in ("stdio", "http"):
        raise ConfigError(f"transport is {transport!r}; give stdio or http")
    if host not in LOCAL:
        raise ConfigError(f"host is {host!r}: tools are served without a login; give 127.0.0.1")
    server = registry_server(registry, broker=broker, name=name)
    if transport == "stdio":
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())
        return
    app = server.streamable_http_app(host=host)
    await uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="warning")).serve()
