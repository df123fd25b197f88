"""The process in the sandbox: it runs cells of code and keeps their variables.

The first process confines itself (``confine``) and from then on only makes copies of itself: it is
the *nurse*. Each copy is a session, with its own pair of descriptors and its own tag. A session can
be copied again, variables and all, which is how forks and checkpoints work.

The host believes nothing in its frames. Standard library only: ``stretto`` cannot be imported here.
"""

import binascii
import gc
import io
import os
import signal
import sys
import threading
import types
from _socket import SCM_RIGHTS, SOL_SOCKET

from stretto.agents.sandbox import confine
from stretto.agents.sandbox.cells import Cancelled, Cell, OutputLimitReached
from stretto.agents.sandbox.wire import CHUNK, Channel, text64


class Interrupts:
    """SIGINT raises KeyboardInterrupt in the code of a cell, and never in ours."""

    def __init__(self) -> None:
        self.open = False
        self.waiting = False

    def arm(self) -> None:
        """Take the signal, whatever a cell has done to it."""
        signal.signal(signal.SIGINT, self._handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])

    def _handle(self, *_: object) -> None:
        if not self.open:
            self.waiting = True
            return
        raise KeyboardInterrupt

    def __enter__(self) -> None:
        """Our own code: an interrupt waits."""
        self.was, self.open = self.open, False

    def __exit__(self, *_: object) -> None:
        self.open = self.was
        if self.open and self.waiting:
            self.waiting = False
            raise KeyboardInterrupt


class Output(io.RawIOBase):
    """Standard output or error of a cell: each write is a frame, up to the cell's limit."""

    def __init__(self, worker: "Worker", name: str) -> None:
        self._worker, self._name = worker, name

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: object) -> int:
        """Send what the limit leaves room for; OutputLimitReached when it is used up."""
        raw = bytes(data)  # type: ignore[call-overload]
        worker = self._worker
        with worker.interrupts:
            room = max(0, worker.output_left)
            worker.output_left -= len(raw)
            for start in range(0, min(len(raw), room), CHUNK):
                part = raw[start : min(start + CHUNK, room)]
                text = text64(part)
                worker.channel.send("out", stream=self._name, data=text)
        if len(raw) > room:
            raise OutputLimitReached("the cell has printed more than its limit")
        return len(raw)


class Worker:
    """One process: the nurse, or a session."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.interrupts = Interrupts()
        self.nurse = os.getpid()
        self.folder: str | None = None
        self.setup: dict = {}
        self.output_left = 0
        self.cancelled = False
        self.main = types.ModuleType("__main__")
        self.cells = 0
        self._calls = 0
        self._replies: dict[int, dict] = {}
        self._reading = False
        self._condition = threading.Condition()
        self._streams = {n: _text(Output(self, n)) for n in ("stdout", "stderr")}
        self._save, self._open, self._exit = os.makedirs, io.open, os._exit

    # --- tools -------------------------------------------------------------------------------

    def call(self, name: str, arguments: tuple, named: dict) -> object:
        """Ask the host to call a tool; its value, or the error it raised as RuntimeError.

        Several threads may wait at once: one of them reads, and hands the others their replies.
        """
        with self.interrupts:
            self._flush()
            with self._condition:
                self._calls += 1
                number = self._calls
            try:
                self.channel.send(
                    "call", id=number, name=name, args=list(arguments), kwargs=dict(named)
                )
            except TypeError as error:
                raise TypeError(f"{name}(): arguments must be plain data: {error}") from None
        while True:
            with self._condition:
                while number not in self._replies and self._reading:
                    self._condition.wait(0.05)
                if number in self._replies:
                    reply = self._replies.pop(number)
                    break
                self._reading = True
            try:
                if self.channel.ready(50):
                    with self.interrupts:
                        self._take(self.channel.receive())
            finally:
                with self._condition:
                    self._reading = False
                    self._condition.notify_all()
        if reply["ok"]:
            return reply["value"]
        kind = _ERRORS.get(reply["error"]["type"], RuntimeError)
        raise kind(reply["error"]["message"])

    def _take(self, frame: dict) -> None:
        if frame["t"] == "cancel":
            self.cancelled = True
        elif frame["t"] == "reply":
            self._replies[frame["id"]] = frame

    def soft_stop(self) -> bool:
        """Whether the host has asked the cell to stop at the next statement."""
        with self.interrupts:
            if not self._reading and self.channel.ready(0):
                self._take(self.channel.receive())
        return self.cancelled

    def _stub(self, name: str) -> object:
        def tool(*arguments: object, **named: object) -> object:
            return self.call(name, arguments, named)

        tool.__name__ = tool.__qualname__ = name
        return tool

    # --- what the host asks for ----------------------------------------------------------------

    def run(self) -> None:
        """Serve the host until it goes away."""
        while True:
            self.interrupts.arm()
            frame = self.channel.receive()
            kind = frame.pop("t")
            if kind in ("cancel", "reply"):  # too late: the cell is over
                continue
            handler = getattr(self, f"on_{kind}")
            try:
                handler(**frame)
            except OSError as error:
                self._refuse(error)

    def _refuse(self, error: OSError) -> None:
        try:
            self.channel.send("err", type=type(error).__name__, message=str(error)[:500])
        except OSError:  # the host has gone, or wants this copy no more
            self._exit(1)

    def on_exec(self, code: str, output: int) -> None:
        """Run a cell; output in bytes."""
        self.cells += 1
        self.output_left, self.cancelled = output, False
        self.interrupts.waiting = False
        self._replies.clear()
        sys.stdout, sys.stderr = self._streams["stdout"], self._streams["stderr"]
        sys.modules["__main__"] = self.main
        report = Cell(self, code).run()
        self._flush()
        self.channel.send("done", **report)

    def _flush(self) -> None:
        for stream in self._streams.values():
            try:
                stream.flush()
            except OutputLimitReached:
                pass
            except ValueError:  # the cell has closed it
                self._streams = {n: _text(Output(self, n)) for n in ("stdout", "stderr")}

    def on_tools(self, names: list[str]) -> None:
        """Make these names functions that call the host."""
        for name in names:
            self.main.__dict__[name] = self._stub(name)
        self.channel.send("ok")

    def on_put(self, path: str, data: str, append: bool) -> None:
        """Write a part of a file."""
        if self.folder is None:
            raise OSError("this sandbox has no folder to write in")
        target = os.path.join(self.folder, path)
        self._save(os.path.dirname(target), exist_ok=True)
        with self._open(target, "ab" if append else "wb") as file:
            file.write(binascii.a2b_base64(data))
        self.channel.send("ok")

    def on_get(self, path: str, offset: int) -> None:
        """Read a part of a file; ``offset`` in bytes."""
        if self.folder is None:
            raise OSError("this sandbox has no folder to read from")
        handle = os.open(os.path.join(self.folder, path), os.O_RDONLY | os.O_NONBLOCK)
        with self._open(handle, "rb") as file:
            file.seek(offset)
            data = file.read(CHUNK)
        text = text64(data)
        self.channel.send("file", data=text, more=len(data) == CHUNK)

    def on_fork(self, tag: str, folder: str) -> None:
        """Become two; the copy answers on the descriptor that came with the frame.

        The copy may be made by a child that ends at once, so that it belongs to the nurse: it
        shall outlive this session, and end with the nurse.
        """
        handle = self.channel.handles.pop(0)
        threads = sys.modules["threading"]
        if threads.active_count() > 1:
            os.close(handle)
            raise OSError("threads are running: a copy would lack them; join them first")
        try:
            parent = os.fork()
        except OSError:
            os.close(handle)
            raise
        if parent:
            os.close(handle)
            return
        try:
            # In a process space of its own everything ends with the nurse, which is its first.
            alone, between = self.nurse == 1, os.getpid()
            if not alone and os.fork():
                self._exit(0)
            self.channel.socket.close()
            self.channel = Channel(handle, tag)
            if not alone:
                while os.getppid() == between:
                    os.sched_yield()
                confine.die_with_parent()
                if os.getppid() != self.nurse:
                    self._exit(1)  # it ended before we asked to be told
            self._move(folder)
            self.channel.send("ready")
        except OSError as error:
            self.on_forget(folder)
            self._refuse(error)
            self._exit(1)

    def on_forget(self, folder: str) -> None:
        """Remove the files of a copy that has ended. The nurse is asked, and does not answer."""
        if self.setup["work"] is not None:
            _remove(os.path.join(self.setup["work"], folder))

    def _move(self, folder: str) -> None:
        """A folder of the copy's own, with what the session's holds."""
        base = self.setup["work"]
        if base is None:
            return
        target = os.path.join(base, folder)
        if self.folder is None:
            os.mkdir(target)
        else:
            _copy(self.folder, target)
        self.folder = target
        os.chdir(target)

    # --- once, in the nurse ----------------------------------------------------------------------

    def confine(self) -> None:
        """Take the policy from the host, give up every right it does not grant, and say so."""
        frame = self.channel.receive()
        self.channel.tag, self.setup = frame["tag"], frame
        paths = frame["read"] + frame["listing"]
        notes = []
        if frame["mount"]:
            try:
                confine.private_folder(frame["work"], frame["disk"], frame["files"], paths)
            except OSError as error:
                notes.append(f"no folder to write in: {error}")
                self.setup["work"] = None
        if frame["uid"] is None:
            confine.drop_capabilities()
        else:
            confine.become(frame["uid"])
        os.chdir(self.setup["work"] or "/")
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for copies
        confine.prctl(confine.PR_SET_CHILD_SUBREAPER, 1)
        confine.die_with_parent()
        if os.getppid() != frame["parent"] and os.getppid() != 0:
            os._exit(0)  # the host ended before we asked to be told
        confine.prctl(confine.PR_SET_NO_NEW_PRIVS, 1)
        confine.prctl(confine.PR_SET_DUMPABLE, 0)
        confine.limit_resources(frame["memory"], frame["disk"], frame["files"], frame["tasks"])
        write = [self.setup["work"]] if self.setup["work"] else []
        abi = 0
        if frame["landlock"] or confine.landlock_abi():
            abi = confine.landlock(frame["read"], frame["listing"], write)
        gc.collect()
        gc.freeze()  # copies then share these pages
        listener = confine.seccomp(metadata=self.setup["work"] is not None)
        rights = [(SOL_SOCKET, SCM_RIGHTS, listener.to_bytes(4, sys.byteorder))]
        self.channel.socket.sendmsg([b"L"], rights)
        os.close(listener)
        self.channel.send("ready", landlock=abi, work=self.setup["work"] is not None, notes=notes)


_ERRORS = {
    "TimeoutError": TimeoutError,
    "PermissionError": PermissionError,
    "ValueError": ValueError,
    "TypeError": TypeError,
    "KeyError": KeyError,
    "LookupError": LookupError,
    "Cancelled": Cancelled,
}


def _text(raw: Output) -> io.TextIOWrapper:
    buffered = io.BufferedWriter(raw, 8192)
    return io.TextIOWrapper(buffered, "utf-8", "backslashreplace", "\n", line_buffering=True)


def _copy(source: str, target: str) -> None:
    """Like shutil.copytree, which is slow to load."""
    os.mkdir(target)
    with os.scandir(source) as entries:
        for entry in entries:
            to = os.path.join(target, entry.name)
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), to)
            elif entry.is_dir():
                _copy(entry.path, to)
            elif entry.is_file():
                with open(entry.path, "rb") as old, open(to, "wb") as new:
                    while part := old.read(1 << 20):
                        new.write(part)


def _remove(path: str) -> None:
    """Like shutil.rmtree, which is slow to load; what cannot be removed stays."""
    folders = [path]
    for folder in folders:  # it grows meanwhile
        try:
            os.chmod(folder, 0o700)
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        os.unlink(entry.path)
        except OSError:
            continue
    for folder in reversed(folders):
        try:
            os.rmdir(folder)
        except OSError:
            continue


def main(handle: int) -> None:
    """Serve on this descriptor: first as the nurse, in copies as sessions."""
    worker = Worker(Channel(handle, ""))
    for name in [name for name in sys.modules if name.startswith("stretto")]:
        del sys.modules[name]
    try:
        worker.confine()
    except OSError as error:
        worker.channel.send("err", type=type(error).__name__, message=str(error))
        os._exit(1)
    worker.run()
