"""What a model folder holds, file by file: sizes and checksums in ``manifest.json``."""

import hashlib
import json
from pathlib import Path
from typing import Any

from stretto.errors import CheckpointError

MANIFEST = "manifest.json"


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Record the size and sha256 of every file in a folder; one that is there is replaced.

    Args:
        folder: a complete model folder. Files in folders inside it are not recorded.
        facts: what else to say of the model, such as source and licence.
    """
    paths = (path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    listing = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(paths)
    }
    text = json.dumps({"format": 1, **facts, "files": listing}, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Manifest of a model folder; empty if it has none.

    Raises:
        CheckpointError: it is not JSON.
    """
    path = folder / MANIFEST
    return read_json(path) if path.exists() else {}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: unreadable, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: unreadable ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return value
