"""What is there, as typed Python source and live objects: pages, JSON and tables."""

from stretto.agents.perception.data import LiveData
from stretto.agents.perception.objects import METHODS, object_tools
from stretto.agents.perception.page import LivePage
from stretto.agents.perception.source import TYPES, Live, More, Part
from stretto.agents.perception.table import LiveTable

__all__ = [
    "METHODS",
    "TYPES",
    "Live",
    "LiveData",
    "LivePage",
    "LiveTable",
    "More",
    "Part",
    "object_tools",
]
