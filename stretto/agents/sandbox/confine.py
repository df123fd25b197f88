"""What a sandbox process does to itself, once, before it runs any code that is not ours.

Landlock for files, seccomp for system calls, resource limits, another uid. Standard library only:
this file is read inside the sandbox, where ``stretto`` is not. Nothing here can be undone by the
process afterwards, and nothing here needs privileges.
"""

import ctypes
import os
import platform
import resource
import signal
import stat
import struct

from syscalls import ALLOWED, SPECIAL

_MACHINE = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, audit name
_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME, PR_GET_NAME = 1, 4, 15, 16
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
PR_SET_VMA = 0x53564D41
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
CLONE_NEW_ANY = 0x7E020080  # every CLONE_NEW* flag: a namespace of one's own gives rights back

# Landlock's rights on files, from linux/landlock.h.
WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_CHANGE = 0b111_0000 | 1 << 7 | 1 << 8 | 1 << 12  # remove, make folders, files, symbolic links
_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}


def _number(name: str) -> int:
    table = ALLOWED if name in ALLOWED else SPECIAL
    return table[name][_MACHINE[platform.machine()][0]]


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _syscall(name: str, *arguments: object) -> int:
    return _check(_libc.syscall(ctypes.c_long(_number(name)), *arguments), name)


def prctl(option: int, value: int) -> None:
    """prctl(2) with one argument; OSError if refused."""
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero), f"prctl {option}")


def die_with_parent() -> None:
    """SIGKILL this process when its parent ends. Changing the uid undoes it, so do that before."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def become(uid: int) -> None:
    """Give up uid 0, its groups and so its capabilities, for a uid nobody has."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def drop_capabilities() -> None:
    """Give up what a new user namespace gave."""
    header = struct.pack("=Ii", 0x20080522, 0)
    _check(_libc.capset(header, bytes(24)), "capset")


def limit_resources(memory: int, file_size: int, descriptors: int, tasks: int | None) -> None:
    """Address space and file size in bytes; descriptors and tasks in pieces. No core files."""
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: file_size,
        resource.RLIMIT_NOFILE: descriptors,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_STACK: 8 << 20,
        resource.RLIMIT_CPU: 3600,  # the host counts each cell; this is for a host that hangs
    }
    if tasks is not None:  # counted by uid, so only where the uid is the sandbox's own
        limits[resource.RLIMIT_NPROC] = tasks
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


# --- files a process may not see at all ---------------------------------------------------------


def private_folder(target: str, size: int, inodes: int, keep: list[str]) -> None:
    """Mount a tmpfs of ``size`` bytes on ``target`` that only this process and its children see.

    Needs root, or a kernel that lets anyone have a user namespace; OSError otherwise. Folders that
    hold a path of ``keep`` but that others may not enter are replaced by empty ones, with the paths
    of ``keep`` mounted in them: after the change of uid they could not be read otherwise.
    """
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(CLONE_NEWNS if uid == 0 else CLONE_NEWNS | CLONE_NEWUSER), "unshare")
    if uid != 0:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 - pathlib is slow to load
                file.write(text)
    _mount("none", "/", "", 0x44000)  # MS_REC | MS_PRIVATE: nothing reaches the host's mounts
    if uid == 0:
        _open_ways(keep)
    options = f"size={size},nr_inodes={inodes},mode=1777"
    _mount("none", target, "tmpfs", 0x6, options)  # MS_NOSUID | MS_NODEV


def _open_ways(paths: list[str]) -> None:
    closed: dict[str, list[str]] = {}
    for path in paths:
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts)):
            folder = "/" + "/".join(parts[:depth])
            if not os.stat(folder).st_mode & stat.S_IXOTH:
                closed.setdefault(folder, []).append(path)
                break
    for folder, inside in closed.items():
        handles = {path: os.open(path, os.O_PATH) for path in inside}
        _mount("none", folder, "tmpfs", 0x6, "size=64k,mode=755")
        for path, handle in handles.items():
            if os.path.isdir(f"/proc/self/fd/{handle}"):
                os.makedirs(path, exist_ok=True)
            else:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
            _mount(f"/proc/self/fd/{handle}", path, "", 0x1000)  # MS_BIND
            os.close(handle)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode() or None)
    result = _libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None)
    _check(result, f"mount {target}")


# --- Landlock -----------------------------------------------------------------------------------


def landlock_abi() -> int:
    """The kernel's Landlock version; 0 where there is none."""
    version_flag = ctypes.c_uint32(1)
    number = ctypes.c_long(_number("landlock_create_ruleset"))
    return max(0, _libc.syscall(number, None, ctypes.c_size_t(0), version_flag))


def landlock(read: list[str], listing: list[str], write: list[str]) -> int:
    """From now on only these paths can be opened; returns Landlock's version.

    Args:
        read: files and folders to read, with everything below.
        listing: folders of which only the names may be listed.
        write: folders in which files may be made, changed and removed.
    """
    abi = landlock_abi()
    if not abi:
        raise OSError("this kernel has no Landlock")
    handled = _RIGHTS_BY_ABI[max(known for known in _RIGHTS_BY_ABI if known <= abi)]
    # From version 4 no TCP, from 6 no abstract sockets and no signals outwards.
    network, scopes = (3 if abi >= 4 else 0), (3 if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    attributes = struct.pack("=QQQ", handled, network, scopes)
    flags = ctypes.c_uint32(0)
    rules = _syscall("landlock_create_ruleset", attributes, ctypes.c_size_t(size), flags)
    in_folder = (READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | _CHANGE) & handled
    granted = [(path, READ_FILE | READ_DIR) for path in read]
    granted += [(path, READ_DIR) for path in listing]
    granted += [(path, in_folder) for path in write] + [("/dev/null", READ_FILE | WRITE_FILE)]
    for path, rights in granted:
        try:
            handle = os.open(path, os.O_PATH)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            rights &= READ_FILE | WRITE_FILE | TRUNCATE
        rule = struct.pack("=Qi", rights & handled, handle)
        _syscall("landlock_add_rule", rules, 1, rule, flags)
        os.close(handle)
    _syscall("landlock_restrict_self", rules, flags)
    os.close(rules)
    return abi


# --- seccomp ------------------------------------------------------------------------------------

_ALLOW, _NOTIFY, _KILL = 0x7FFF0000, 0x7FC00000, 0x80000000
_EPERM, _ENOSYS = 0x00050001, 0x00050026
# Terminal and device commands can do much; these are what files and pipes need.
_IOCTLS = (0x5401, 0x5421, 0x541B, 0x5450, 0x5451)  # TCGETS, FIONBIO, FIONREAD, FIONCLEX, FIOCLEX
_LOAD, _EQUAL, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x45, 0x54, 0x06


def _argument(index: int, high: bool = False) -> tuple[int, int, int, int]:
    return (_LOAD, 0, 0, 16 + 8 * index + 4 * high)


def _one_of(index: int, values: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Allow if the low 32 bits of an argument are one of ``values``, else EPERM."""
    code = [_argument(index)]
    for value in values:
        code += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
    return [*code, (_RETURN, 0, 0, _EPERM)]


def _conditions() -> dict[str, list[tuple[int, int, int, int]]]:
    allow, refuse = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _EPERM)
    return {
        # New tasks are put to the host, which knows whether it asked for a copy of the session.
        "clone": [
            _argument(0),
            (_ANY_BIT, 0, 1, CLONE_NEW_ANY),
            refuse,
            (_RETURN, 0, 0, _NOTIFY),
        ],
        # Its flags lie in memory, where a filter cannot look; libc falls back to clone.
        "clone3": [(_RETURN, 0, 0, _ENOSYS)],
        # Pairs of connected Unix streams only: a datagram socket could send to any address.
        "socketpair": [
            _argument(0),
            (_EQUAL, 1, 0, 1),
            refuse,
            _argument(1),
            (_AND, 0, 0, 0xF),
            (_EQUAL, 0, 1, 1),
            allow,
            refuse,
        ],
        "ioctl": _one_of(1, _IOCTLS),
        "prctl": [
            _argument(0),
            (_EQUAL, 0, 3, PR_SET_PDEATHSIG),
            _argument(1),
            (_EQUAL, 0, 1, signal.SIGKILL),
            allow,
            *_one_of(0, (PR_SET_NAME, PR_GET_NAME, PR_SET_VMA)),
        ],
        # Limits may be read, not set: the pointer to new ones must be null.
        "prlimit64": [
            _argument(2),
            (_EQUAL, 0, 3, 0),
            _argument(2, high=True),
            (_EQUAL, 0, 1, 0),
            allow,
            refuse,
        ],
    }


def _filter() -> bytes:
    column, audit = _MACHINE[platform.machine()]
    code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, audit), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    for name, body in _conditions().items():
        code += [(_EQUAL, 0, len(body), SPECIAL[name][column]), *body]
    for numbers in ALLOWED.values():
        if numbers[column] is not None:
            code += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _ALLOW)]
    code.append((_RETURN, 0, 0, _EPERM))
    return b"".join(struct.pack("=HBBI", *line) for line in code)


def seccomp() -> int:
    """Install the allow list; returns the descriptor on which the host is asked about new tasks."""
    program = ctypes.create_string_buffer(_filter())
    header = struct.pack("@HP", (len(program) - 1) // 8, ctypes.addressof(program))
    set_filter, new_listener = ctypes.c_uint(1), ctypes.c_uint(1 << 3)
    return _syscall("seccomp", set_filter, new_listener, header)
