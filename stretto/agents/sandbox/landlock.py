"""The fall-back: the same process without bubblewrap, confined by Landlock, seccomp and limits.

It sees the host's process numbers but cannot read or signal them, and has no network because it
cannot make sockets. A folder to write in is a small file system in memory that only it can see;
where the kernel refuses that to us, nothing can be written at all.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from stretto.agents.sandbox import launch
from stretto.agents.sandbox.base import Policy
from stretto.agents.sandbox.nurse import Launch
from stretto.errors import SandboxError

NAME = "landlock"
_PLACES = ("/mnt", "/media", "/srv", "/opt", "/tmp", "/var/tmp")


def start(policy: Policy, *, mount: bool = True) -> Launch:
    """Start a sandbox's first process; call from the event loop's thread.

    Without ``mount`` it gets no folder of its own, as on a kernel that refuses one to users.
    """
    places = launch.paths(policy)
    needed = launch.CAP_SETUID, launch.CAP_SETGID
    uid = launch.fresh_uid() if os.geteuid() == 0 and launch.capable(*needed) else None
    work = _folder(places) if mount else None
    ours, theirs = launch.pair()
    try:
        process = subprocess.Popen(
            launch.command(theirs.fileno(), places),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            env={**launch.ENVIRONMENT, "HOME": work or "/"},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        raise SandboxError(f"{launch.INTERPRETER}: {error.strerror}") from None
    finally:
        theirs.close()
    more = {"uid": uid, "mount": mount, "landlock": True}
    if uid is None:
        more["tasks"] = None  # the limit counts all processes of the user, not only ours
    return Launch(process, ours, launch.setup(policy, places, work=work, **more))


def _folder(places: launch.Paths) -> str:
    """A folder of the host that may be covered, for the sandbox alone, by one in memory."""
    needed = places.read + places.listing
    for place in _PLACES:
        if Path(place).is_dir() and not any(
            path == place or path.startswith(place + "/") for path in needed
        ):
            return place
    raise SandboxError(f"none of {', '.join(_PLACES)} is free for the sandbox's folder")
