"""Agents whose hands are code. Models are known by protocols only; torch is never needed.

The decorator ``tool`` and the class ``Tool`` load with the package, for the module of the same name
would hide the decorator; the other names load lazily.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stretto.agents.tool import Tool, tool

_LAZY = {
    "Agent": "stretto.agents.agent",
    "AgentLimits": "stretto.agents.agent",
    "EndpointChat": "stretto.agents.chat",
    "Registry": "stretto.agents.registry",
    "open_sandbox": "stretto.agents.sandbox",
}
__all__ = ["Agent", "AgentLimits", "EndpointChat", "Registry", "Tool", "open_sandbox", "tool"]

if TYPE_CHECKING:
    from stretto.agents.agent import Agent, AgentLimits
    from stretto.agents.chat import EndpointChat
    from stretto.agents.registry import Registry
    from stretto.agents.sandbox import open_sandbox


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'stretto.agents' has no attribute {name!r}")
