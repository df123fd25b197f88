"""A table: columns with their types, then rows.

Text of a CSV file becomes numbers where every value of a column is written as one, and nothing is
lost by it: ``007`` and numbers of more than 15 digits stay text. Empty cells are missing values.
"""

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stretto.agents.perception.elements import Cell, Column, Row
from stretto.agents.perception.source import Live, fits, is_long
from stretto.errors import ConfigError, InputError

_INT = re.compile(r"-?(?:0|[1-9]\d{0,14})")
_FLOAT = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d{1,2})?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[-+]\d\d:?\d\d)?)?")
_BOOLS = {"true": True, "false": False}


class LiveTable(Live):
    """A table that was read.

    Args:
        columns: names, each once.
        rows: cells in their order; what is no JSON scalar becomes text.

    Raises:
        InputError: a name twice, or a row of another length.
    """

    kind = "Table"

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self.columns = list(columns)
        twice = next((name for name in self.columns if self.columns.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"table: there are two columns {twice!r}; name them apart")
        for number, row in enumerate(rows):
            if len(row) != len(self.columns):
                raise InputError(f"table: row {number} has {len(row)} cells, not "
                                 f"{len(self.columns)}")  # fmt: skip
        self._rows = [[_scalar(value) for value in row] for row in rows]

    @classmethod
    def from_csv(cls, text: str, *, delimiter: str = ",") -> "LiveTable":
        """From text whose first line names the columns.

        Raises:
            InputError: no such line, a row with too many cells, or text that is no CSV.
        """
        try:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            lines = [(reader.line_num, row) for row in reader if row]
        except csv.Error as error:
            raise InputError(f"table: it is no CSV: {error}") from None
        if not lines:
            raise InputError("table: the text is empty; its first line names the columns")
        names = lines[0][1]
        for line, row in lines[1:]:
            if len(row) > len(names):
                raise InputError(f"table, line {line}: {len(row)} cells for {len(names)} columns")
            row += [""] * (len(names) - len(row))
        columns = [_convert([row[n] for _, row in lines[1:]]) for n in range(len(names))]
        return cls(names, [list(row) for row in zip(*columns, strict=True)])

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, Any]]) -> "LiveTable":
        """From objects; columns in the order in which their keys come up first."""
        names = list(dict.fromkeys(key for record in records for key in record))
        return cls(names, [[record.get(name) for name in names] for record in records])

    @classmethod
    def from_parquet(cls, path: str | Path) -> "LiveTable":
        """From a Parquet file.

        Raises:
            ConfigError: pyarrow is not installed.
            InputError: the file cannot be read.
        """
        try:
            import pyarrow
            import pyarrow.parquet as parquet
        except ImportError:
            raise ConfigError("Parquet needs pyarrow; run: pip install pyarrow") from None
        try:
            table = parquet.read_table(path)
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(f"table {path}: {str(error).splitlines()[0]}") from None
        columns = [column.to_pylist() for column in table.columns]
        return cls(table.column_names, [list(row) for row in zip(*columns, strict=True)])

    def __len__(self) -> int:
        return len(self._rows)

    def __stretto_summary__(self) -> str:
        return f"{len(self._rows)} rows x {len(self.columns)} columns"

    @property
    def dtypes(self) -> dict[str, str]:
        """Type by column: bool, int, float, date, str, none or mixed."""
        return {name: _dtype(self.column(name)) for name in self.columns}

    def items(self, room: int) -> Iterator[Any]:
        """Columns, then rows; rows that are too long come cell by cell."""
        for name, dtype in self.dtypes.items():
            yield Column(name, dtype, self.column(name).count(None))
        for number, cells in enumerate(self._rows):
            if fits(cells, room - 60):
                yield Row(number, cells)
            else:
                for column, value in enumerate(cells):
                    yield Cell(number, column, value)

    def column(self, name: str) -> list[Any]:
        """Its values.

        Raises:
            InputError: there is no such column.
        """
        if name not in self.columns:
            known = ", ".join(map(repr, self.columns[:20]))
            raise InputError(f"table: there is no column {name!r}; choose from {known}")
        place = self.columns.index(name)
        return [row[place] for row in self._rows]

    def rows(self, start: int = 0, count: int = 100) -> list[dict[str, Any]]:
        """Rows from one on, by column.

        Raises:
            InputError: a negative number.
        """
        if start < 0 or count < 0:
            raise InputError(f"table: rows {start} and {count} on; give 0 or more")
        chosen = self._rows[start : start + count]
        return [dict(zip(self.columns, row, strict=True)) for row in chosen]

    def head(self, count: int = 5) -> list[dict[str, Any]]:
        """The first rows."""
        return self.rows(0, count)

    def describe(self) -> dict[str, dict[str, Any]]:
        """Of each column: type, and how many values there are, missing and distinct ones.

        Of those that have an order also the least and the largest, of numbers their mean.
        """
        found = {}
        for name, dtype in self.dtypes.items():
            values = [value for value in self.column(name) if value is not None]
            told: dict[str, Any] = {"type": dtype, "count": len(values),
                                    "missing": len(self) - len(values),
                                    "distinct": len(set(map(repr, values)))}  # fmt: skip
            ordered = [v for v in values if not isinstance(v, float) or math.isfinite(v)]
            if ordered and dtype in ("int", "float", "date", "str"):
                told |= {"min": min(ordered), "max": max(ordered)}
            if ordered and dtype in ("int", "float"):
                told["mean"] = math.fsum(ordered) / len(ordered)
            found[name] = told
        return found


def _scalar(value: Any) -> Any:
    """As JSON has it, or text."""
    if value is None or type(value) in (str, bool, float):
        return value
    if type(value) is int:
        return str(value) if is_long(value) else value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _convert(texts: list[str]) -> list[Any]:
    """A column of text as what all of its values are."""
    given = [text for text in texts if text]
    if given and all(text.lower() in _BOOLS for text in given):
        return [_BOOLS[text.lower()] if text else None for text in texts]
    if given and all(_INT.fullmatch(text) for text in given):
        return [int(text) if text else None for text in texts]
    if given and all(_is_float(text) for text in given):
        return [float(text) if text else None for text in texts]
    return [text or None for text in texts]


def _is_float(text: str) -> bool:
    return bool(_FLOAT.fullmatch(text)) and sum(c.isdigit() for c in text) <= 15


def _dtype(values: Sequence[Any]) -> str:
    names = {type(value).__name__ for value in values if value is not None}
    if names == {"str"} and all(_DATE.fullmatch(value) for value in values if value is not None):
        return "date"
    if names == {"int", "float"}:
        return "float"
    return names.pop() if len(names) == 1 else "mixed" if names else "none"
