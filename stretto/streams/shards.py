"""Built data on disk: flat cells of whole samples in safetensors, one line of JSON a sample.

A folder holds ``shard-NNNNN.safetensors`` (arrays tokens, streams, rows, labels over all cells of
the shard, and offsets, one more than it has samples), ``samples.jsonl`` (what each sample is, in
the same order) and ``manifest.json``. Samples are packed when training starts, so the length of a
packed sequence remains a choice of the training run.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stretto.errors import InputError
from stretto.streams.stream import StreamSet
from stretto.streams.table import Cells, IntArray, StreamTable
from stretto.streams.tokens import ABSENT, SpecialIds, StreamCodec

FORMAT = "stretto-shards"
VERSION = 1
MANIFEST = "manifest.json"
SAMPLES = "samples.jsonl"
_CELLS_PER_SHARD = 4_000_000
_ARRAYS = ("tokens", "streams", "rows", "labels")


@dataclass(frozen=True)
class Sample:
    """One table, ready to be packed.

    Attributes:
        cells: its cells; streams are indices into the inventory.
        set: name of its stream set.
        num_prompt_rows: rows that its prompts take.
        meta: what the table's ``meta`` held: id, task, lag and so on.
    """

    cells: Cells
    set: str
    num_prompt_rows: int
    meta: dict[str, Any]

    @classmethod
    def of(cls, table: StreamTable, inventory: StreamSet) -> "Sample":
        """A table whose streams are looked up by name in a model's inventory.

        Raises:
            InputError: the inventory lacks one of its streams.
        """
        index = np.array([inventory.index(s.name) for s in table.streams], np.int32)
        cells = table.cells()
        moved = Cells(cells.tokens, index[cells.streams], cells.rows, cells.labels)
        return cls(moved, table.meta["set"], table.num_prompt_rows, table.meta)


@dataclass(frozen=True)
class Shards:
    """Built data in memory.

    Attributes:
        samples: in the order of the recipe.
        streams: inventory of the model.
        special: ids of silence and end.
        sets: stream sets by name.
        manifest: recipe, seed, counts, statistics.
    """

    samples: list[Sample]
    streams: StreamSet
    special: SpecialIds
    sets: dict[str, StreamSet]
    manifest: dict[str, Any]

    def table(self, index: int, codec: StreamCodec | None = None) -> StreamTable:
        """The table of one sample.

        Raises:
            InputError: no such sample, or the tokeniser is another model's.
        """
        if codec is not None and codec.special != self.special:
            raise InputError(f"built for another vocabulary than that of {codec.name}")
        if not 0 <= index < len(self.samples):
            raise InputError(f"sample {index}: there are {len(self.samples)}, counted from 0")
        sample = self.samples[index]
        streams, cells, first = self.sets[sample.set], sample.cells, sample.num_prompt_rows
        column = {self.streams.index(s.name): i for i, s in enumerate(streams)}
        prompts: dict[str, list[int]] = {}
        rows = np.full((int(cells.rows[-1]) + 1 - first, len(streams)), ABSENT, np.int32)
        for token, stream, row in zip(cells.tokens, cells.streams, cells.rows, strict=True):
            if row < first:
                prompts.setdefault(self.streams[int(stream)].name, []).append(int(token))
            else:
                rows[row - first, column[int(stream)]] = token
        return StreamTable(streams, self.special, prompts, rows, dict(sample.meta), codec)


def save_shards(
    folder: Path,
    samples: Sequence[Sample],
    streams: StreamSet,
    special: SpecialIds,
    sets: Mapping[str, StreamSet],
    about: Mapping[str, Any],
    *,
    cells_per_shard: int = _CELLS_PER_SHARD,
) -> dict[str, Any]:
    """Write a folder of shards; the manifest comes last, so a broken build is not taken for one.

    Args:
        folder: made if need be; older shards in it are removed.
        samples: what to write.
        streams, special, sets: as in :class:`Shards`.
        about: further entries of the manifest.
        cells_per_shard: a new file is begun beyond that.

    Returns:
        the manifest.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for old in folder.glob("shard-*.safetensors"):
        old.unlink()
    names = []
    for number, group in enumerate(_groups(samples, cells_per_shard)):
        names.append(f"shard-{number:05d}.safetensors")
        arrays = {n: np.concatenate([getattr(s.cells, n) for s in group]) for n in _ARRAYS}
        lengths = [len(sample.cells) for sample in group]
        arrays["offsets"] = np.cumsum([0, *lengths], dtype=np.int64)
        save_file(arrays, folder / names[-1])
    lines = ({"set": s.set, "num_prompt_rows": s.num_prompt_rows, "meta": s.meta} for s in samples)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / SAMPLES).write_text(text, encoding="utf-8")
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        **about,
        "num_samples": len(samples),
        "num_cells": sum(len(sample.cells) for sample in samples),
        "streams": streams.to_list(),
        "sets": {name: streams.to_list() for name, streams in sets.items()},
        "special": {"silence": special.silence, "end": special.end},
        "files": {name: _digest(folder / name) for name in (*names, SAMPLES)},
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return manifest


def load_shards(folder: str | Path) -> Shards:
    """Read a folder that :func:`save_shards` wrote.

    Raises:
        InputError: it is none, of another version, incomplete or damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    for name, digest in manifest["files"].items():
        if not (folder / name).exists() or _digest(folder / name) != digest:
            raise InputError(f"{folder / name}: missing or damaged; build the data again")
    cells = [c for name in manifest["files"] if name != SAMPLES for c in _read(folder / name)]
    lines = (folder / SAMPLES).read_text(encoding="utf-8").splitlines()
    samples = [Sample(c, **json.loads(line)) for c, line in zip(cells, lines, strict=True)]
    return Shards(
        samples=samples,
        streams=StreamSet.from_list(manifest["streams"]),
        special=SpecialIds(**manifest["special"]),
        sets={name: StreamSet.from_list(data) for name, data in manifest["sets"].items()},
        manifest=manifest,
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of built data.

    Raises:
        InputError: there is none, or it is of another format or version.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"{folder}: no {MANIFEST}; not built by `stretto data build`") from None
    except ValueError as error:
        raise InputError(f"{folder / MANIFEST}: not JSON ({error})") from None
    kind = (manifest.get("format"), manifest.get("version"))
    if kind != (FORMAT, VERSION):
        raise InputError(f"{folder / MANIFEST}: format {kind}, expected {(FORMAT, VERSION)}")
    return manifest


def _groups(samples: Iterable[Sample], cells_per_shard: int) -> Iterator[list[Sample]]:
    group: list[Sample] = []
    size = 0
    for sample in samples:
        if group and size + len(sample.cells) > cells_per_shard:
            yield group
            group, size = [], 0
        group.append(sample)
        size += len(sample.cells)
    if group:
        yield group


def _read(path: Path) -> Iterator[Cells]:
    from safetensors.numpy import load_file

    arrays = load_file(path)
    parts: list[list[IntArray]] = [np.split(arrays[n], arrays["offsets"][1:-1]) for n in _ARRAYS]
    for tokens, streams, rows, labels in zip(*parts, strict=True):
        yield Cells(tokens, streams, rows, labels)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
