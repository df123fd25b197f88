"""The examples in docstrings run."""

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("module", ["chat", "scripted", "trace"])
def test_examples(module):
    told = doctest.testmod(import_module(f"stretto.agents.{module}"))
    assert told.failed == 0
    assert told.attempted
