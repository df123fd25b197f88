"""The ``stretto`` command. Each command group is imported only when it is called."""

import difflib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from cyclopts import App

from stretto import __version__
from stretto.errors import StrettoError

app = App(name="stretto", version=__version__, suppress_keyboard_interrupt=False)
app.help = "Language models that read, think, speak and act in parallel token streams."

_COMMANDS = {
    "demo": ("demo:demo", "Play a real item: the model answers while it is still reading."),
    "chat": ("chat:chat", "Talk to the model; you are the user stream."),
    "demo-agent": ("demo_agent:demo_agent", "Watch requests become real calls of tools."),
    "models": ("models:app", "Pull, list and show models."),
    "data": ("data:app", "Build stream tables from data sets, and look at them."),
    "train": ("train:train", "Train a multi-stream model from a recipe."),
    "exits": ("exits:app", "Train exit heads: drafts of what a model will say."),
    "eval": ("eval:app", "Measure a model: accuracy, delay, time to first token."),
    "sweep": ("sweep:app", "Measure a grid of settings, as table and picture."),
    "commons": ("commons:app", "Play villages that share a resource: runs, sweeps, reports."),
    "agent": ("agent:app", "Give a model a task and tools; its actions are code."),
    "sandbox": ("sandbox:app", "Run Python code confined."),
    "skills": ("skills:app", "Keep functions that agents wrote, tested before they are taken."),
    "doctor": ("sandbox:doctor", "Test what the sandboxes hold on this machine."),
    "runs": ("runs:app", "List, show, compare and export run folders."),
}
for _name, (_target, _help) in _COMMANDS.items():
    app.command(f"stretto.cli.{_target}", name=_name, help=_help)

_EXTRAS = {
    "torch": "torch",
    "transformers": "torch",
    "gguf": "torch",
    "accelerate": "train",
    "datasets": "train",
    "peft": "train",
    "pyarrow": "train",
    "reasoning_gym": "train",
    "matplotlib": "evals",
    "scipy": "evals",
    "bs4": "agents",
    "mcp": "agents",
    "gymnasium": "commons",
    "jsonschema": "commons",
    "pettingzoo": "commons",
    "polars": "commons",
    "wordllama": "commons",
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit.

    Exit codes: 0 done, 2 wrong usage or a ``StrettoError`` (one line on stderr), 130 interrupted.
    """
    try:
        sys.exit(_run(argv))
    except StrettoError as error:
        _exit(str(error), error.exit_code)
    except ImportError as error:
        extra = _missing_extra(error)
        if extra is None:
            raise
        _exit(f"this command needs more packages: pip install 'stretto[{extra}]'", 2)
    except KeyboardInterrupt:
        _exit("interrupted", 130)
    except BrokenPipeError:  # the reader (head, less) has gone; nothing is left to tell it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _run(argv: Sequence[str] | None) -> int:
    """The exit code: what the command returns when that is a number, else 0."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    if tokens and not tokens[0].startswith("-") and tokens[0] not in _COMMANDS:
        # cyclopts would import every command group to word this
        close = difflib.get_close_matches(tokens[0], _COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(_COMMANDS)}"
        _exit(f"unknown command {tokens[0]!r}, {hint}", 2)
    return app(tokens, result_action="return_int_as_exit_code_else_zero")


def _exit(message: str, code: int) -> NoReturn:
    print(f"stretto: {message}", file=sys.stderr)
    sys.exit(code)


def _missing_extra(error: BaseException | None) -> str | None:
    """The extra that brings the module whose absence ``error``, or its cause, reports."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            extra = _EXTRAS.get(error.name.partition(".")[0])
            if extra:
                return extra
        error = error.__cause__
    return None
