"""Programs that try to get out, one idea each. Own work; every sandbox must contain them all.

The value of a program's last expression is True if it got out; raising, dying or any other value
means that it did not. ``HARMLESS`` ones may also be run without a sandbox: there they must get out,
else they would prove nothing. ``CANARY``, ``SECRET`` and so on are filled in by ``testing``.
"""

_SYS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(*a):
    return libc.syscall(*[ctypes.c_long(x) if isinstance(x, int) else x for x in a])
"""
_LOOP = "\nwhile True: pass"

HARMLESS = {
    "reads a file of the host": "open(CANARY).read() == SECRET",
    "reads it by descriptor": "import os; os.read(os.open(CANARY, os.O_RDONLY), 99).decode() == SECRET",
    "reads it through mmap": """
import mmap
with open(CANARY, "rb") as f:
    text = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ).read().decode()
text == SECRET""",
    "reads it with libc": """
import ctypes
libc = ctypes.CDLL(None); fd = libc.open(CANARY.encode(), 0); b = ctypes.create_string_buffer(99)
libc.read(fd, b, 99); b.value.decode() == SECRET""",
    "reads the list of users": "'root' in open('/etc/passwd').read()",
    "lists the host's folder": "import os; os.path.basename(CANARY) in os.listdir(os.path.dirname(CANARY))",
    "reads through a symbolic link": """
import os, tempfile
link = os.path.join(os.environ.get("TMP_HERE", "."), "link"); os.symlink(CANARY, link)
open(link).read() == SECRET""",
    "makes a hard link": """
import os
link = os.path.join(os.environ.get("TMP_HERE", "."), "hard"); os.link(CANARY, link)
open(link).read() == SECRET""",
    "climbs with dots": """
import os
open(os.path.join("/proc/self/cwd", "../" * 30 + CANARY.lstrip("/"))).read() == SECRET""",
    "reads through /proc/self/root": "open('/proc/self/root' + CANARY).read() == SECRET",
    "reads the host's environment": "import os; 'PROBE_KEY' in os.environ",
    "reads its parent's environment": "open('/proc/%d/environ' % HOST, 'rb').read() != b''",
    "reads the parent's memory map": "'-' in open('/proc/%d/maps' % HOST).read()",
    "lists processes": "import os; str(HOST) in os.listdir('/proc')",
    "changes the host's file": "open(CANARY, 'a').close() is None",
    "renames over the host's file": """
import os
p = CANARY + ".moved"; os.rename(CANARY, p); os.rename(p, CANARY); True""",
    "makes a file beside it": """
import os
p = CANARY + ".new"; open(p, "w").close(); os.unlink(p); True""",
    "changes its mode": "import os; os.chmod(CANARY, 0o644) is None",
    "connects by TCP": """
import socket
socket.create_connection(("127.0.0.1", PORT), 1).send(b"x") == 1""",
    "connects by IPv6 or any family": """
import socket
socket.socket(socket.AF_INET6).fileno() >= 0""",
    "sends a datagram": """
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", PORT)) == 1""",
    "listens": """
import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(); True""",
    "connects to a Unix socket": """
import socket
s = socket.socket(socket.AF_UNIX); s.connect(UNIX); True""",
    "binds an abstract socket": """
import socket
s = socket.socket(socket.AF_UNIX); s.bind("\\0stretto-%d" % HOST); True""",
    "sends from a pair's datagram end": """
import socket
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); a.sendto(b"x", DGRAM) == 1""",
    "opens a netlink socket": "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).fileno() >= 0",
    "forks": """
import os
pid = os.fork()
if pid == 0: os._exit(0)
os.waitpid(pid, 0)[0] == pid""",
    "runs a program": "import subprocess; subprocess.run(['/bin/true']).returncode == 0",
    "runs a shell with libc": "import ctypes; ctypes.CDLL(None).system(b'true') == 0",
    "spawns": "import os; os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)[1] == 0",
    "forks by vfork": _SYS + """
pid = call(56, 0x4000 | 17, 0, 0, 0, 0) if HOST else 0
if pid == 0: call(231, 0)
pid > 0""",
    "starts a pool of processes": """
from concurrent.futures import ProcessPoolExecutor
with ProcessPoolExecutor(1) as pool: text = pool.submit(abs, -1).result() == 1
text""",
    "starts multiprocessing": """
import multiprocessing
p = multiprocessing.get_context("fork").Process(target=abs, args=(1,)); p.start(); p.join(); p.exitcode == 0""",
    "executes memory": """
import os
fd = os.memfd_create("x"); os.write(fd, b"#!/bin/true\\n") > 0""",
    "probes its parent with a signal": "import os; os.kill(HOST, 0) is None",
    "probes every process": "import os; os.kill(-1, 0) is None",
    "opens a pidfd": "import os; os.pidfd_open(HOST) > 0",
    "reads a limit's way up": """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1])) is None""",
    "lists devices": "import os; {'tty', 'full'} & set(os.listdir('/dev')) != set()",
    "reads the kernel's log of mounts": "'/' in open('/proc/self/mounts').read()",
    "reads system settings": "open('/proc/sys/kernel/hostname').read() != ''",
    "reads /sys": "import os; len(os.listdir('/sys')) > 0",
    "reads the package that runs it": "'def' in open(PACKAGE).read()",
    "finds the home folder": "import os; len(os.listdir(HOME)) > 0",
    "makes a FIFO": "import os; os.mkfifo(CANARY + '.fifo'); os.unlink(CANARY + '.fifo'); True",
    "watches a folder": _SYS + "w = call(294, 0); call(254, w, CANARY.encode(), 0xfff) > 0",
    "opens a keyring": _SYS + "call(250, 0, -3, 0) != -1",
    "starts io_uring": _SYS + "call(425, 4, ctypes.create_string_buffer(120)) >= 0",
    "asks for ptrace": _SYS + "import os; r = call(101, 0x4206, HOST, 0, 0); r == 0 or ctypes.get_errno() != 1",
    "reads another process's memory": _SYS + """
call(310, HOST, 0, 0, 0, 0, 0) == 0""",
    "leaves its process group": "import os; os.setpgid(0, 0) is None or True",
    "keeps from dying with its parent": _SYS + "libc.prctl(1, 0, 0, 0, 0) == 0",
    "becomes readable to others": _SYS + "libc.prctl(4, 1, 0, 0, 0) == 0",
    "takes a file lease": "import fcntl; f = open(CANARY); fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_RDLCK) == 0",
}
"""These touch little: run without a sandbox, in a process of its own, each must get out."""

CONTAINED = {
    "reads the password file": "'root' in open('/etc/shadow').read()",
    "reads the kernel's memory": "open('/dev/mem', 'rb').read(1) != b''",
    "reads a disk": "any(open(p, 'rb').read(1) for p in ('/dev/vda', '/dev/sda', '/dev/nvme0n1'))",
    "becomes root": "import os; os.setuid(0); os.getuid() == 0",
    "takes root's capabilities back": "import os; os.setresuid(0, 0, 0); os.listdir('/root') != []",
    "mounts": _SYS + "call(165, b'none', b'/', b'tmpfs', 0, None) == 0",
    "mounts by the new calls": _SYS + "call(430, b'tmpfs', 0) >= 0",
    "changes root": "import os; os.chroot('/usr') is None",
    "pivots root": _SYS + "call(155, b'/usr', b'/usr') == 0",
    "unshares a user namespace": _SYS + "call(272, 0x10000000) == 0",
    "clones into namespaces": _SYS + """
pid = call(56, 0x10000000 | 17, 0, 0, 0, 0)
if pid == 0: call(231, 0)
pid > 0""",
    "uses clone3": _SYS + "call(435, ctypes.create_string_buffer(88), 88) >= 0",
    "enters the host's namespace": "import os; call = os.open('/proc/1/ns/mnt', os.O_RDONLY); call > 0",
    "opens files by handle": _SYS + "call(304, -100, ctypes.create_string_buffer(64), 0) >= 0",
    "loads a module": _SYS + "call(313, 0, b'', 0) == 0 or ctypes.get_errno() not in (1,)",
    "loads a BPF program": _SYS + "call(321, 5, ctypes.create_string_buffer(120), 120) >= 0",
    "opens performance counters": _SYS + "call(298, ctypes.create_string_buffer(128), 0, -1, -1, 0) >= 0",
    "sets the clock": "import time; time.clock_settime(time.CLOCK_REALTIME, time.time()) is None",
    "sets the host's name": "import socket; socket.sethostname('x') is None",
    "reboots": _SYS + "call(169, 0xfee1dead, 672274793, 0, 0) == 0",
    "uses userfaultfd": _SYS + "call(323, 0) >= 0",
    "uses the 32-bit table": _SYS + "call(0x40000000 + 39) > 0",
    "installs another filter": _SYS + "call(317, 1, 8, ctypes.create_string_buffer(16)) >= 0",
    "raises its own limits": """
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40)) is None""",
    "signals every process": "import os; os.kill(-1, 9) is None",
    "signals its nurse": "import os; os.kill(os.getppid(), 9) is None",
    "signals its group": "import os; os.killpg(0, 9) is None",
    "starts a session of its own": "import os; os.setsid() > 0",
    "fork bomb": "import os\nn = 0\ntry:\n    while True: n += os.fork() >= 0\nexcept OSError: pass\nn > 0",
    "thread bomb": """
import threading
n, stop = 0, threading.Event()
try:
    for n in range(200): threading.Thread(target=stop.wait, daemon=True).start()
except RuntimeError: pass
stop.set(); n > 20""",
    "memory bomb": "data = []\nwhile True: data.append(bytearray(20_000_000))",
    "memory by multiplication": "len('x' * 10**11) > 0",
    "memory by mapping": "import mmap; [mmap.mmap(-1, 1 << 28) for _ in range(20)] != []",
    "decompression bomb": "import zlib; len(zlib.decompress(zlib.compress(bytes(10**9)))) > 0",
    "descriptor bomb": "import os\nfds = [os.dup(0) for _ in range(3000)]\nlen(fds) == 3000",
    "sparse file": "f = open('big', 'wb'); f.truncate(1 << 40) == 1 << 40",
    "endless loop": _LOOP,
    "endless loop that catches everything": """
while True:
    try:
        while True: pass
    except BaseException: pass""",
    "ignores every signal": """
import signal
for s in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    try: signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError): pass
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())""" + _LOOP,
    "sleeps": "import time\nwhile True: time.sleep(100)",
    "a number too large": "10 ** 10 ** 9 > 0 and False",
    "a slow regular expression": "import re; re.match('(a+)+$', 'a' * 64 + 'b')",
    "recursion": "import sys; sys.setrecursionlimit(10**9)\ndef f(): return f()\nf()",
    "output flood": "while True: print('x' * 1000)",
    "output flood on standard error": "import sys\nwhile True: sys.stderr.write('x' * 1000)",
    "output flood that catches everything": """
while True:
    try: print('x' * 1000)
    except BaseException: pass""",
    "closes its output and sleeps": "import os, sys, time; sys.stdout.close(); os.closerange(0, 3)\nwhile True: time.sleep(9)",
    "crashes": "import ctypes; ctypes.string_at(0)",
    "aborts": "import os; os.abort()",
    "exits": "import os; os._exit(0)",
    "hangs at exit": "import atexit, sys, time; atexit.register(time.sleep, 1000); sys.exit()",
    "raises SystemExit": "raise SystemExit(0)",
    "a repr that hangs": "class R:\n    def __repr__(self):\n        while True: pass\nR()",
    "a huge repr": "'x' * 50_000_000 and False",
    "a repr that is no string": "class S(str):\n    def __getitem__(self, k): return 1\nclass R:\n    def __repr__(self): return S('x')\nR()",
    "an error whose message hangs": "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E",
    "forges frames on every descriptor": """
import os, struct
body = b'{"tag": "", "t": "done", "value": true}'
for fd in range(3, 64):
    try: os.write(fd, struct.pack(">I", len(body)) + body)
    except OSError: pass
False""",
    "sends a frame too large": """
import os
for fd in range(3, 64):
    try: os.write(fd, b"\\xff\\xff\\xff\\xff" * 100)
    except OSError: pass
False""",
    "takes the worker's channel and forges a type": """
import gc
for o in gc.get_objects():
    if type(o).__name__ == "Channel": o.send("own", x=1)
False""",
    "takes the channel and sends descriptors": """
import array, gc, os
from _socket import SOL_SOCKET, SCM_RIGHTS
for o in gc.get_objects():
    if type(o).__name__ == "Channel":
        for _ in range(50):
            o.socket.sendmsg([b"\\0"], [(SOL_SOCKET, SCM_RIGHTS, array.array("i", [0] * 200))])
False""",
    "calls a tool that is not there": """
import gc
w = [o for o in gc.get_objects() if type(o).__name__ == "Worker"][0]
w.call("secret_tool", (), {}) is None""",
    "calls without end": """
while True:
    try: probe(1)
    except Exception: pass""",
    "calls with what is no data": "probe(object()) is None",
    "calls with itself inside": "x = []; x.append(x); probe(x) is None",
    "forks through the worker": """
import gc, os
w = [o for o in gc.get_objects() if type(o).__name__ == "Worker"][0]
w.channel.handles.append(0)
w.on_fork("x", "x"); True""",
    "replaces builtins": "import builtins\nfor n in ('len', 'repr', 'eval', 'compile', 'isinstance', 'str'):\n    setattr(builtins, n, None)\nFalse",
    "empties sys.modules": "import sys; sys.modules.clear(); False",
    "poisons json": "import json; json.dumps = lambda *a, **k: '{\"t\": 1}'; False",
    "hooks imports": """
import sys
class Hook:
    def find_spec(self, *a):
        while True: pass
sys.meta_path.insert(0, Hook())
import wave
True""",
    "traces the worker": "import sys; sys.settrace(lambda *a: (_ for _ in ()).throw(SystemExit)); False",
    "unpickles a command": """
import pickle
pickle.loads(b"cposix\\nsystem\\n(S'true'\\ntR.") == 0""",
    "removes its own files": "import os, shutil\nshutil.rmtree(os.getcwd())\nFalse",
    "odd characters": "print('\\x1b[2J\\u202e\\ud800\\0'); '\\ud800' == 0",
    "odd names of tools": "globals()['__builtins__'] = {}; False",
    "many files": "for i in range(10**6): open(f'f{i}', 'w').close()\nTrue",
}
"""These must fail in every sandbox, and are never run without one."""

FRESH = {
    "fills the disk": """
for i in range(1000):
    with open(f"fill{i}", "wb") as f: f.write(bytes(1 << 20))
True""",
    "fills the disk through a descriptor": """
import os
fd = os.open("one", os.O_CREAT | os.O_WRONLY)
while True: os.write(fd, bytes(1 << 20))""",
}
"""As ``CONTAINED``, but each needs a sandbox to itself: it uses the folder up."""
FRESH["many files"] = CONTAINED.pop("many files")
