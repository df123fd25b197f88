"""Everything stretto raises on purpose.

Each message is one line and says what is wrong, where, and what to do about it. The CLI prints the
line and exits with ``exit_code``; a server maps the class to a status.
"""


class StrettoError(Exception):
    """Base of all errors a user can mend. ``exit_code`` is what the CLI exits with."""

    exit_code = 2


class ConfigError(StrettoError):
    """A setting is unknown, of the wrong type or out of range."""


class InputError(StrettoError):
    """Data handed to stretto is malformed: a table, a message, a file, a stream name."""


class CheckpointError(StrettoError):
    """A model or adapter is missing, corrupt, or does not fit what is asked of it."""


class SandboxError(StrettoError):
    """A sandbox cannot give a guarantee that was asked for."""


class LimitError(StrettoError):
    """A limit was reached before the work was done (rows, seconds, memory)."""
