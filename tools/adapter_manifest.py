"""Writes the checksums of the shipped adapters and exits: run it after a file of one has changed.

python tools/adapter_manifest.py [FOLDER ...]     default: all in stretto/adapters
"""

import sys
from pathlib import Path

from stretto.models.manifest import MANIFEST, read_manifest, write_manifest

ADAPTERS = Path(__file__).resolve().parent.parent / "stretto" / "adapters"
CARDS = ("stretto.json", "exits.json")


def main(*folders: str) -> None:
    """Write the manifest of each folder."""
    shipped = sorted(path.parent for name in CARDS for path in ADAPTERS.glob(f"*/{name}"))
    for folder in map(Path, folders) if folders else shipped:
        write_manifest(folder, {"licence": "Apache-2.0"})
        print(f"{folder / MANIFEST}: {len(read_manifest(folder)['files'])} files")


if __name__ == "__main__":
    main(*sys.argv[1:])
