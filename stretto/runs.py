"""Run folders: what a long job did, in files that survive a kill.

``config.yaml`` is written once; ``events.jsonl`` only grows, one JSON object a line, each with
``v`` (schema version), ``time`` (seconds since 1970) and ``type``; ``metrics.json`` is replaced
whole. One process writes a run; any number may read it meanwhile.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import yaml

from stretto import __version__
from stretto.config import dump
from stretto.errors import InputError

SCHEMA_VERSION = 1
Status = Literal["running", "finished", "failed"]


def atomic_write(path: str | Path, data: str | bytes) -> None:
    """Replace ``path`` by ``data`` (text as UTF-8); readers see the old file or the new, whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = data.encode() if isinstance(data, str) else data
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        mode = path.stat().st_mode if path.exists() else 0o666 & ~_umask()
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@dataclass
class Run:
    """One run folder. As a context manager it records how the block ended."""

    path: Path
    _mended: bool = field(default=False, init=False, repr=False, compare=False)

    @classmethod
    def create(cls, path: str | Path, config: Any = None, kind: str = "run") -> Self:
        """A new run in the folder ``path``.

        Args:
            path: a folder that holds no run yet; made where needed.
            config: a config dataclass or a mapping, kept as ``config.yaml``.
            kind: what sort of job this is, such as ``train``.

        Raises:
            InputError: the folder holds a run already.
        """
        run = cls(Path(path))
        if run._events_path.exists():
            raise InputError(f"{path}: holds a run already; resume it or choose another folder")
        values = dump(config) if is_dataclass(config) else dict(config or {})
        text = yaml.safe_dump(_plain(values), sort_keys=False, allow_unicode=True)
        atomic_write(run.path / "config.yaml", text)
        run.event("created", kind=kind, stretto=__version__)
        return run

    @classmethod
    def create_in(cls, parent: str | Path, config: Any = None, kind: str = "run") -> Self:
        """A new run in a folder of its own under ``parent``, named by kind and time (UTC)."""
        name = f"{kind}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
        path, number = Path(parent) / name, 1
        while path.exists():
            number += 1
            path = path.with_name(f"{name}-{number}")
        return cls.create(path, config, kind)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The run in the folder ``path``, to read or to go on with.

        Raises:
            InputError: there is no run.
        """
        run = cls(Path(path))
        if not run._events_path.is_file():
            raise InputError(f"{path}: not a run folder (it has no events.jsonl)")
        return run

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def kind(self) -> str:
        """What sort of job this is, from the first event."""
        return next(self.events(), {}).get("kind", "")

    @property
    def status(self) -> Status:
        """How the run stands by its last event; a killed run still says ``running``."""
        status: Status = "running"
        for event in self.events():
            status = event["type"] if event["type"] in ("finished", "failed") else "running"
        return status

    def event(self, type: str, **fields: Any) -> None:  # noqa: A002 - the name it has in the file
        """Append one event. A line that a kill left unfinished is removed first.

        Non-finite numbers become null, as JSON has none.

        Raises:
            InputError: a field has a reserved name (``v``, ``time``).
        """
        if reserved := {"v", "time"} & fields.keys():
            raise InputError(f"event {type!r}: {min(reserved)!r} is set by the run itself")
        self._mend()
        event = {"v": SCHEMA_VERSION, "time": time.time(), "type": type, **_plain(fields)}
        line = json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n"
        with self._events_path.open("ab") as file:
            file.write(line.encode("utf-8", "surrogatepass"))

    def events(self, type: str | None = None) -> Iterator[dict[str, Any]]:  # noqa: A002
        """The events in order, of one type if named; an unfinished last line is left out.

        Raises:
            InputError: a whole line is no event, or of a schema version this code does not know.
        """
        with self._events_path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                event = self._parse(line, number)
                if type is None or event["type"] == type:
                    yield event

    def config(self) -> dict[str, Any]:
        """What ``config.yaml`` holds."""
        return yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8")) or {}

    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds; empty before the first ``write_metrics``."""
        path = self.path / "metrics.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Replace ``metrics.json``."""
        text = json.dumps(_plain(metrics), indent=2, ensure_ascii=False, allow_nan=False)
        atomic_write(self.path / "metrics.json", text + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.event("finished")
        else:
            self.event("failed", error=f"{kind.__name__}: {error}")

    @property
    def _events_path(self) -> Path:
        return self.path / "events.jsonl"

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        where = f"{self._events_path}: line {number}"
        try:
            event = json.loads(line.decode("utf-8", "surrogatepass"))
        except ValueError:
            raise InputError(f"{where} is not JSON; remove that line") from None
        if not isinstance(event, dict) or "type" not in event:
            raise InputError(f"{where} is not an event; remove that line")
        if event.get("v") != SCHEMA_VERSION:
            raise InputError(
                f"{where} has schema version {event.get('v')}; this stretto reads {SCHEMA_VERSION}"
            )
        return event

    def _mend(self) -> None:
        """Cut off a line without its end. A reader must not: it may see one in the making."""
        if self._mended:
            return
        self._mended = True
        if self._events_path.exists():
            content = self._events_path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.truncate(self._events_path, whole)


def list_runs(parent: str | Path) -> list[Run]:
    """The runs in the folders directly under ``parent``, oldest first; none where it is missing."""
    found = [Run(path.parent) for path in Path(parent).glob("*/events.jsonl")]
    return sorted(found, key=lambda run: (_created(run), run.name))


def diff(a: Run, b: Run) -> dict[str, tuple[Any, Any]]:
    """Where two runs differ: ``config.KEY`` and ``metrics.KEY`` -> both values (None: absent)."""
    left, right = (
        flatten(run.config(), "config.") | flatten(run.metrics(), "metrics.") for run in (a, b)
    )
    keys = dict.fromkeys([*left, *right])
    return {key: (left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _created(run: Run) -> float:
    return next(run.events(), {}).get("time", 0.0)


def _plain(value: Any) -> Any:
    """``value`` in JSON's own types: paths as text, array scalars as numbers, NaN as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # numpy and torch, arrays and scalars
        return _plain(value.tolist())
    raise InputError(f"a run cannot keep a {type(value).__name__}: {value!r}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
