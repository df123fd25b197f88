"""What calls of the standard library, numpy and pandas do outside the process, by their names."""

from collections.abc import Iterable
from typing import Literal

Effect = Literal["pure", "read", "write", "unknown"]

ORDER: tuple[Effect, ...] = ("pure", "read", "write", "unknown")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Modules whose functions leave nothing outside the process.
PURE_MODULES = _words(
    "abc array base64 binascii bisect calendar cmath collections collections.abc colorsys copy "
    "dataclasses datetime decimal difflib enum fractions functools graphlib hashlib heapq hmac "
    "html html.parser itertools json keyword math numbers operator os.path pprint random re "
    "reprlib secrets statistics string struct textwrap time timeit types typing unicodedata uuid "
    "urllib.parse zlib zoneinfo numpy numpy.linalg numpy.random pandas"
)
# Members of other modules, and exceptions among those of the pure ones.
_MEMBERS: dict[Effect, frozenset[str]] = {
    "pure": _words(
        "asyncio.gather asyncio.sleep asyncio.run asyncio.wait_for contextlib.suppress "
        "contextlib.contextmanager io.BytesIO io.StringIO pathlib.Path pathlib.PurePath"
    ),
    "read": _words(
        "csv.reader csv.DictReader os.listdir os.getcwd os.walk os.stat numpy.load numpy.loadtxt "
        "numpy.genfromtxt numpy.fromfile pandas.read_csv pandas.read_json"
    ),
    "write": _words(
        "numpy.save numpy.savez numpy.savez_compressed numpy.savetxt numpy.memmap "
        "pandas.ExcelWriter"
    ),
}
_MEMBER: dict[str, Effect] = {name: effect for effect, all_ in _MEMBERS.items() for name in all_}
IMPURE_BUILTINS = _words(
    "__import__ breakpoint compile delattr eval exec getattr globals input locals open setattr "
    "vars exit quit help copyright credits license __loader__ __spec__ __build_class__"
)
ODD_IMPORTS = frozenset({"antigravity", "this", "idlelib", "turtledemo"})
# Methods of plain values: text, numbers, lists, dicts, sets, dates, matches, files that are read.
_DATA_TYPES = (str, bytes, int, float, complex, list, tuple, dict, set, frozenset, range)
METHODS = _words(
    "read readline readlines read_text read_bytes exists is_file is_dir iterdir glob rglob "
    "with_suffix group groups groupdict start end span search match fullmatch finditer findall "
    "sub most_common elements total appendleft popleft rotate date time year month day isoformat "
    "strftime timestamp weekday total_seconds mean sum min max std reshape tolist astype argmax "
    "argmin argsort cumsum dot shape flatten choice randint shuffle sample uniform quantize "
    "hexdigest digest getvalue"
) | {name for kind in _DATA_TYPES for name in dir(kind) if not name.startswith("_")}


def worst(effects: Iterable[Effect]) -> Effect:
    """The most that any of them may do."""
    found: set[Effect] = {"pure", *effects}
    return max(found, key=ORDER.index)


def member(dotted: str) -> Effect:
    """Effect of calling a module's member by its full name."""
    if dotted in _MEMBER:
        return _MEMBER[dotted]
    parts = dotted.split(".")
    # A class's methods, as in datetime.datetime.now, are its module's as much as it is.
    for length in range(len(parts) - 1, 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in _MEMBER:
            return worst((_MEMBER[prefix], "pure" if parts[-1] in METHODS else "unknown"))
        if prefix in PURE_MODULES:
            return "pure"
    return "unknown"
