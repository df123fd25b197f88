"""What both back ends start: an interpreter with nothing but the worker and what it may read."""

from __future__ import annotations

import functools
import marshal
import os
import secrets
import socket
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stretto.agents.sandbox.base import Policy, parse_bytes
from stretto.errors import ConfigError

_PACKAGE = __name__.rpartition(".")[0]
HERE = Path(__file__).resolve().parent
INTERPRETER = Path(sys.executable).resolve()
ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",  # the same code gives the same bytes
    "PYTHONUTF8": "1",
    "MALLOC_ARENA_MAX": "2",  # arenas cost address space, which is what is limited
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN = 6, 7, 21
_SYSTEM = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/dev/urandom",
    "/dev/zero",
)


@dataclass(frozen=True)
class Paths:
    """What a sandbox may see of the host: files, folders of which only names, places to import."""

    read: list[str]
    listing: list[str]
    imports: list[str]


@functools.lru_cache(maxsize=32)
def paths(policy: Policy) -> Paths:
    """The interpreter, its library, the system's shared libraries, and what the policy adds."""
    base = Path(sys.base_prefix)
    library = Path(sysconfig.get_path("stdlib")).resolve()
    shared = list((base / "lib").glob("libpython*.so*"))
    read = [INTERPRETER, library, *shared, *map(Path, _SYSTEM), *map(Path, policy.read)]
    listing: list[str] = []
    imports: list[str] = []
    for name in policy.imports:
        found, place = _package(name)
        read += found
        if str(place) not in imports:
            imports.append(str(place))
            listing.append(str(place))
    existing = dict.fromkeys(str(path) for path in read if path.exists())
    return Paths(list(existing), listing, imports)


def _package(name: str) -> tuple[list[Path], Path]:
    """(the package's files, the folder it is imported from)."""
    spec = None if "." in name else find_spec(name)
    if spec is None or spec.origin is None:
        raise ConfigError(f"imports: {name!r} is not installed here")
    origin = Path(spec.origin)
    place = origin.parent.parent if spec.submodule_search_locations else origin.parent
    files = [origin.parent if spec.submodule_search_locations else origin]
    files += place.glob(f"{name}.libs")  # shared libraries that came in the same wheel
    for owner in packages_distributions().get(name, []):
        try:
            files.append(Path(str(distribution(owner).locate_file(""))) / f"{owner}.libs")
            files += place.glob(f"{owner.replace('-', '_')}-*.dist-info")
        except PackageNotFoundError:
            continue
    return files, place


def command(handle: int, places: Paths) -> list[str]:
    """The interpreter's command line: no site, nothing unsafe on the path, no bytecode written.

    Our own files are not there: their code comes first over the descriptor, see ``program``.
    """
    start = (
        "import sys, marshal, _socket\n"
        f"end = _socket.socket(fileno={handle})\n"
        "def read(size):\n"
        "    data = b''\n"
        "    while len(data) < size:\n"
        "        data += end.recv(size - len(data)) or sys.exit('the host has gone')\n"
        "    return data\n"
        f"package = sys.modules[{_PACKAGE!r}] = type(sys)({_PACKAGE!r})\n"
        "for name, code in marshal.loads(read(int.from_bytes(read(4), 'big'))):\n"
        f"    sys.modules[{_PACKAGE!r} + '.' + name] = module = type(sys)(name)\n"
        "    exec(code, module.__dict__)\n"
        "    setattr(package, name, module)\n"
        f"sys.path += {places.imports!r}; sys.argv = ['']\n"
        "module.main(end.detach())"
    )
    return [str(INTERPRETER), "-s", "-S", "-P", "-B", "-c", start]


@functools.cache
def program() -> bytes:
    """The code that runs inside, compiled once: four bytes of length, then (name, code) pairs."""
    pairs = []
    for name in ("syscalls", "confine", "cells", "wire", "worker"):
        source = (HERE / f"{name}.py").read_text(encoding="utf-8")
        pairs.append((name, compile(source, f"<{name}>", "exec", optimize=0)))
    data = marshal.dumps(pairs)
    return len(data).to_bytes(4, "big") + data


def setup(policy: Policy, places: Paths, *, work: str | None, **more: Any) -> dict[str, Any]:
    """The first frame: what ``worker.confine`` needs to know."""
    return {
        "read": places.read,
        "listing": places.listing,
        "work": work,
        "mount": False,
        "memory": parse_bytes(policy.memory),
        "disk": parse_bytes(policy.disk),
        "files": policy.files,
        "imports": list(policy.imports),
        "parent": os.getpid(),
        "landlock": False,
        "uid": None,
        "tasks": policy.copies * 3 + policy.threads * policy.copies,
        **more,
    }


def fresh_uid() -> int | None:
    """A uid and gid that nobody has: each sandbox its own, so that none can signal another.

    None where there is none to take: in a container whose root is a plain user's, with few ids or
    without the right to give up groups. What runs there is confined as a plain user's is.
    """
    own = Path("/proc/self")
    if "deny" in (own / "setgroups").read_text(encoding="utf-8"):
        return None
    ends = []
    for name in ("uid_map", "gid_map"):
        rows = (own / name).read_text(encoding="utf-8").splitlines()
        ends.append(max(int(first) + int(count) for first, _, count in map(str.split, rows)))
    least, most = (1_900_000_000, 1_900_000_000 + (1 << 24)) if min(ends) > 1 << 31 else (
        30_000, min(ends))  # fmt: skip
    return least + secrets.randbelow(most - least) if most - least > 10_000 else None


def capable(*capabilities: int) -> bool:
    """Whether this process has all of these capabilities."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    mask = int(text.split("CapEff:")[1].split()[0], 16)
    return all(mask >> number & 1 for number in capabilities)


def pair() -> tuple[socket.socket, socket.socket]:
    """(ours, theirs): what the frames travel on."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, theirs
