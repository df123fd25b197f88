"""The Model Context Protocol, both ways: tools of others for our agents, our tools for others.

Revisions 2026-07-28 and 2025-11-25 (and what the official SDK still speaks of older ones), over
standard input and output or streamable HTTP.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stretto.errors import ConfigError

if TYPE_CHECKING:
    from stretto.agents.mcp.client import McpTools, Media, mcp_tools
    from stretto.agents.mcp.server import registry_server, serve_registry

_LAZY = {
    "McpTools": "client",
    "Media": "client",
    "mcp_tools": "client",
    "registry_server": "server",
    "serve_registry": "server",
}
__all__ = ["McpTools", "Media", "mcp_tools", "registry_server", "serve_registry"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name not in ("mcp", "mcp_types", "uvicorn"):
            raise
        raise ConfigError("MCP needs the SDK mcp; install stretto[agents]") from None
