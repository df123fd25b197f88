"""Ordinary programs that every full sandbox must run: each one's last value is True."""

_LINES = '''
sum(range(10)) == 45
[x * x for x in range(4)] == [0, 1, 4, 9]
{"a": 1} | {"b": 2} == {"a": 1, "b": 2}
"naïve 漢字 🙂".encode().decode() == "naïve 漢字 🙂"
f"{3.14159:.2f}" == "3.14"
import math; math.isclose(math.sin(math.pi / 2), 1)
import cmath; cmath.sqrt(-1) == 1j
import random; random.Random(1).random() == random.Random(1).random()
import statistics; statistics.median([3, 1, 2]) == 2
import fractions; fractions.Fraction(1, 3) * 3 == 1
import decimal; str(decimal.Decimal("0.1") + decimal.Decimal("0.2")) == "0.3"
import datetime; (datetime.date(2024, 3, 1) - datetime.date(2024, 2, 28)).days == 2
import zoneinfo, datetime; datetime.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")).utcoffset().seconds == 7200
import calendar; calendar.isleap(2024)
import time; time.time() > 0 and time.monotonic() > 0
import time; time.sleep(0.001) is None
import time; time.strftime("%Y", time.gmtime(0)) == "1970"
import json; json.loads(json.dumps({"a": [1, None]})) == {"a": [1, None]}
import csv, io; list(csv.reader(io.StringIO("a,b"))) == [["a", "b"]]
import re; re.findall(r"\\d+", "a1b22") == ["1", "22"]
import string; string.ascii_lowercase[:3] == "abc"
import textwrap; textwrap.shorten("hello world again", 12) == "hello [...]"
import difflib; difflib.get_close_matches("aple", ["apple"]) == ["apple"]
import unicodedata; unicodedata.name("é").startswith("LATIN")
import collections; collections.Counter("aab")["a"] == 2
import collections; collections.deque([1, 2], 1) == collections.deque([2])
import itertools; list(itertools.permutations("ab")) == [("a", "b"), ("b", "a")]
import functools; functools.reduce(lambda a, b: a * b, [1, 2, 3]) == 6
import operator; operator.itemgetter(1)([1, 2]) == 2
import heapq; heapq.nsmallest(2, [3, 1, 2]) == [1, 2]
import bisect; bisect.bisect([1, 3], 2) == 1
import array; array.array("i", [1, 2]).tolist() == [1, 2]
import copy; copy.deepcopy([[1]]) == [[1]]
import pprint; pprint.pformat({"a": 1}) == "{'a': 1}"
import enum; enum.Enum("E", "A B").A.name == "A"
import dataclasses; dataclasses.make_dataclass("D", ["x"])(1).x == 1
import typing; typing.get_type_hints(lambda: 0) == {}
import types; types.SimpleNamespace(a=1).a == 1
import abc; issubclass(int, abc.ABC) is False
import contextlib; contextlib.nullcontext(1).__enter__() == 1
import inspect; inspect.signature(lambda a, b=1: 0).parameters["b"].default == 1
import ast; ast.literal_eval("[1]") == [1]
import dis; len(list(dis.get_instructions("1"))) > 0
import tokenize, io; len(list(tokenize.generate_tokens(io.StringIO("x = 1").readline))) > 3
import traceback; "1" in traceback.format_exc() or True
import warnings; warnings.warn("x") is None
import logging; logging.getLogger("x").info("y") is None
import weakref; weakref.ref(type("C", (), {}))() is not 1
import gc; gc.collect() >= 0
import sys; sys.version_info >= (3, 11)
import platform; platform.system() == "Linux"
import os; os.getpid() > 0
import os; os.path.join("a", "b") == "a/b"
import os; len(os.urandom(4)) == 4
import os; os.cpu_count() != 0
import uuid; len(str(uuid.uuid4())) == 36
import secrets; len(secrets.token_hex(4)) == 8
import hashlib; hashlib.sha256(b"").hexdigest().startswith("e3b0")
import hmac; len(hmac.new(b"k", b"m", "sha256").digest()) == 32
import base64; base64.b64decode(base64.b64encode(b"x")) == b"x"
import binascii; binascii.hexlify(b"a") == b"61"
import struct; struct.unpack("<H", b"\\1\\0") == (1,)
import zlib; zlib.decompress(zlib.compress(b"x")) == b"x"
import gzip; gzip.decompress(gzip.compress(b"x")) == b"x"
import bz2; bz2.decompress(bz2.compress(b"x")) == b"x"
import lzma; lzma.decompress(lzma.compress(b"x")) == b"x"
import pickle; pickle.loads(pickle.dumps({"a": (1, 2)})) == {"a": (1, 2)}
import html; html.escape("<") == "&lt;"
import html.parser; html.parser.HTMLParser().feed("<p>") is None
import xml.etree.ElementTree as E; E.fromstring("<a><b/></a>")[0].tag == "b"
import urllib.parse; urllib.parse.quote("a b") == "a%20b"
import email.message; email.message.EmailMessage()["To"] is None
import ipaddress; ipaddress.ip_address("10.0.0.1").is_private
import configparser; configparser.ConfigParser().read_string("[a]\\nb=1") is None
import tomllib; tomllib.loads("a = 1") == {"a": 1}
import argparse; argparse.ArgumentParser().parse_args([]) is not None
import shlex; shlex.split("a 'b c'") == ["a", "b c"]
import fnmatch; fnmatch.fnmatch("a.py", "*.py")
import sqlite3; sqlite3.connect(":memory:").execute("select 1 + 1").fetchone() == (2,)
import ctypes; ctypes.sizeof(ctypes.c_int) == 4
import numbers; isinstance(1, numbers.Integral)
import colorsys; colorsys.rgb_to_hsv(0, 0, 0) == (0, 0, 0)
import locale; locale.getpreferredencoding().upper() == "UTF-8"
import graphlib; list(graphlib.TopologicalSorter({"b": {"a"}}).static_order()) == ["a", "b"]
import queue; queue.Queue().empty()
import selectors; selectors.DefaultSelector().close() is None
import signal; signal.getsignal(signal.SIGTERM) is not 0
import resource; resource.getrlimit(resource.RLIMIT_AS)[0] > 0
import unittest; unittest.TestCase().assertEqual(1, 1) is None
import doctest; doctest.testmod().failed == 0
import timeit; timeit.timeit("1", number=10) > 0
import linecache; linecache.getline("x", 1) == ""
'''

_LONGER = (
    "with open('a.txt', 'w') as f: f.write('hi')\nopen('a.txt').read() == 'hi'",
    "import pathlib; p = pathlib.Path('d/e'); p.mkdir(parents=True); (p / 'f').write_text('x')\n"
    "[q.name for q in p.iterdir()] == ['f']",
    "import tempfile, os\nwith tempfile.TemporaryDirectory(dir='.') as d: ok = os.path.isdir(d)\nok",
    "import shutil, os; open('s', 'w').close(); shutil.copy('s', 't'); os.path.exists('t')",
    "import zipfile\nwith zipfile.ZipFile('z', 'w') as z: z.writestr('a', 'b')\n"
    "zipfile.ZipFile('z').read('a') == b'b'",
    "import tarfile\nopen('m', 'w').close()\nwith tarfile.open('t.tar', 'w') as t: t.add('m')\n"
    "tarfile.open('t.tar').getnames() == ['m']",
    "import sqlite3\nc = sqlite3.connect('x.db'); c.execute('create table t (a)'); c.commit(); True",
    "import glob; open('g.py', 'w').close(); glob.glob('*.py') == ['g.py']",
    "import asyncio\nasync def f(): await asyncio.sleep(0); return 1\nasyncio.run(f()) == 1",
    "import asyncio\nasync def f(x): await asyncio.sleep(0.001); return x\n"
    "asyncio.run(asyncio.wait_for(f(2), 5)) == 2",
    "import asyncio\nasync def f(x): return x\n(await asyncio.gather(f(1), f(2))) == [1, 2]",
    "import asyncio\n(await asyncio.to_thread(abs, -3)) == 3",
    "import asyncio\nq = asyncio.Queue(); q.put_nowait(1); (await q.get()) == 1",
    "import threading\nseen = []\nt = threading.Thread(target=seen.append, args=(1,))\n"
    "t.start(); t.join(); seen == [1]",
    "from concurrent.futures import ThreadPoolExecutor\n"
    "with ThreadPoolExecutor(4) as p: r = list(p.map(abs, [-1, -2]))\nr == [1, 2]",
    "class A:\n    def __init__(self): self.x = 1\nclass B(A): pass\nB().x == 1",
    "def gen():\n    yield from range(3)\nlist(gen()) == [0, 1, 2]",
    "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    text = str(e)\ntext == 'division by zero'",
    "from __future__ import annotations\ndef f(x: Nowhere): pass\nf.__annotations__ == "
    "{'x': 'Nowhere'}",
    "import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int = 1\n"
    "import pickle\npickle.loads(pickle.dumps(P(2))).x == 2",
    "import contextlib, io\nb = io.StringIO()\nwith contextlib.redirect_stdout(b): print('x')\n"
    "b.getvalue() == 'x\\n'",
    "import signal\nhits = []\nsignal.signal(signal.SIGALRM, lambda *a: hits.append(1))\n"
    "signal.setitimer(signal.ITIMER_REAL, 0.01)\nsignal.pause()\nhits == [1]",
    "import mmap\nm = mmap.mmap(-1, 4096); m[:2] = b'ok'; m[:2] == b'ok'",
    "import socket\na, b = socket.socketpair(); a.send(b'x'); b.recv(1) == b'x'",
    "import os\nr, w = os.pipe(); os.write(w, b'x'); os.read(r, 1) == b'x'",
    "match [1, 2]:\n    case [a, b]: ok = (a, b) == (1, 2)\nok",
    "import functools\n@functools.cache\ndef fib(n): return n if n < 2 else fib(n-1) + fib(n-2)\n"
    "fib(80) == 23416728348467685",
    "import inspect\ndef g(): return 1\ninspect.getsource(g) == 'def g(): return 1\\n'",
)

BENIGN = {
    (line if len(line) < 60 else line[:57] + "..."): line
    for line in [*filter(None, _LINES.split("\n")), *_LONGER]
}

BENIGN_NUMPY = {
    f"numpy: {line[:50]}": "import numpy as np\n" + line
    for line in (
        "bool(np.arange(6).reshape(2, 3).sum() == 15)",
        "bool(np.allclose(np.linalg.inv(np.eye(3) * 2), np.eye(3) / 2))",
        "bool((np.random.default_rng(1).normal(size=4) != 0).all())",
        "bool(np.fft.fft(np.ones(4))[0] == 4)",
        "(np.ones((60, 60)) @ np.ones((60, 60)))[0, 0].item() == 60.0",
        "np.save('a.npy', np.ones(3)); bool(np.load('a.npy').sum() == 3)",
        "np.linalg.svd(np.eye(4))[1].tolist() == [1.0] * 4",
        "np.sort(np.array([3, 1, 2])).tolist() == [1, 2, 3]",
        "np.einsum('ij->ji', np.array([[1, 2]])).tolist() == [[1], [2]]",
        "str(np.datetime64('2024-01-01') + 1) == '2024-01-02'",
    )
}
