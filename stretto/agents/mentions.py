"""What a request mentions: numbers, dates, names and lists, by rules for English.

Nothing here knows a tool or a model; :mod:`stretto.agents.grounding` narrows schemas with it.
"""

import re
from collections.abc import Sequence
from datetime import date
from itertools import pairwise

Number = int | float


def _words(text: str) -> list[str]:
    return text.split()


_UNITS = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
_NUMBERS: dict[str, Number] = {word: value for value, word in enumerate(_UNITS)}
_NUMBERS |= {"thirty": 30, "forty": 40, "fifty": 50, "hundred": 100, "thousand": 1000,
             "half": 0.5, "twice": 2, "dozen": 12}  # fmt: skip
_TIMES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9,
          "trillion": 10**12}  # fmt: skip
_MONTHS = _words("jan feb mar apr may jun jul aug sep oct nov dec")
# Words that no name begins or ends with; those in _BETWEEN do not stand within one either.
_FUNCTION = frozenset(
    _words(
        "a an the of in on at for from to by with and or is are was were be do does did what when "
        "where which who whom whose why how find get give show tell calculate compute determine "
        "search look retrieve fetch provide please can could would you i me my we us our it its "
        "this that these those need want if as than into between about using use have has will "
        "their his her there"
    )
)
_BETWEEN = frozenset(
    _words(
        "for from with in to by at on using is are was were that which who and or between than "
        "into about if as where when"
    )
)

WORDS = re.compile(r"[A-Za-z]{3,}")
DATE = re.compile(
    r"\b(?P<m1>[A-Z][a-z]{2,8})(?:\.|\s|\.\s)\s*(?P<d1>\d{1,2})(?:st|nd|rd|th)?,?\s*(?P<y1>\d{4})\b"
    r"|\b(?P<d2>\d{1,2})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<m2>[A-Z][a-z]{2,8}),?\s*(?P<y2>\d{4})\b"
    r"|\b(?P<y3>\d{4})[-/](?P<m3>\d{1,2})[-/](?P<d3>\d{1,2})\b"
    r"|\b(?P<m4>\d{1,2})[-/](?P<d4>\d{1,2})[-/](?P<y4>\d{4})\b"
)
_NUMBER = re.compile(
    r"(?<![\w.^])(?P<sign>[-\u2212])?\$?(?P<digits>(?>\d[\d,]*(?:\.\d+)?(?:e-?\d+)?|\.\d+))(?![xX](?:\b|[\d^]))\s*"
    r"(?P<unit>%|percent\b|hundred\b|thousand\b|million\b|billion\b|trillion\b)?"
    r"|(?P<word>[A-Za-z]+)",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"\"(.+?)\"|\u201c(.+?)\u201d|`(.+?)`|(?<!\w)'(.+?)'(?!\w)")
_LIST_OF_QUOTED = re.compile(r"(?:(['\"])[^'\"]+\1(?:,? and |, ?| & |,? or )?){2,}")
_LIST_OF_NUMBERS = re.compile(
    r"(?:-?\$?\d[\d.]*%?\w*(?:,? and |, ?| & |,? or |\s+)?){2,}"
)  # fmt: skip
_SEPARATORS = re.compile(r",\s*(?:and|or)?\s+|\s+and\s+|\s+or\s+|\s+&\s+")
_EDGES = ".,?!;:\"'()[]\u201c\u201d$"
_ENDS = re.compile(r"[.?!;]$")
_ABBREVIATION = re.compile(r"^(?:[A-Z]|Mr|Mrs|Dr|St|Inc|vs)\.$")


def whole(value: float) -> Number:
    """An int if it is one."""
    return int(value) if float(value).is_integer() else value


def numbers(text: str, *, in_words: bool = True) -> list[tuple[Number, ...]]:
    """Numbers in the order of the text; a percentage can be read in two ways: ``(5, 0.05)``.

    Args:
        text: the request.
        in_words: whether ``three`` counts.
    """
    found: list[tuple[Number, ...]] = []
    for match in _NUMBER.finditer(text):
        if match["word"]:
            word = match["word"].lower()
            if in_words and word in _NUMBERS:
                found.append((_NUMBERS[word],))
            continue
        digits = match["digits"].rstrip(",")
        if re.search(r"\d,\d{1,2}(?!\d)", digits):  # a list without spaces
            found += [(whole(float(part)),) for part in digits.split(",") if part]
            continue
        value = float(digits.replace(",", ""))
        value = -value if match["sign"] else value
        unit = (match["unit"] or "").lower()
        if unit in ("%", "percent"):
            found.append((whole(value), whole(round(value / 100, 10))))
        else:
            found.append((whole(value * _TIMES.get(unit, 1)),))
    return found


def dates(text: str) -> list[tuple[str, date]]:
    """Dates as they are written, and which day each is (month first where that is not clear)."""
    found = []
    for match in DATE.finditer(text):
        parts = {k[0]: v for k, v in match.groupdict().items() if v is not None}
        name = parts["m"][:3].lower()
        if not parts["m"].isdigit() and name not in _MONTHS:
            continue
        month = int(parts["m"]) if parts["m"].isdigit() else _MONTHS.index(name) + 1
        try:
            found.append((match.group(0), date(int(parts["y"]), month, int(parts["d"]))))
        except ValueError:  # no such day
            continue
    return found


def quotes(text: str) -> list[str]:
    """What stands in quotation marks."""
    return [next(part for part in groups if part) for groups in _QUOTED.findall(text)]


def names(text: str, most: int = 8) -> list[str]:
    """Spans of whole words that may name something, what is quoted first.

    A span begins and ends with a word that means something, goes not beyond its clause and does
    not cut a capitalised name in two.

    Args:
        text: the request.
        most: words in a span.
    """
    quoted = quotes(text)
    found = dict.fromkeys(quoted)
    for number, each in enumerate(quoted):
        text = text.replace(each, f"\0{number}\0")
    words = text.split()
    bare = [word.strip(_EDGES).lower() for word in words]
    for n in range(1, len(words) - 1):  # "The Hague": a name's article, or it would be "the"
        if words[n] == "The" and words[n + 1][0].isupper():
            bare[n] = ""
    is_name = [bool(re.match(r"[(\[]*[A-Z]", w)) and b not in _FUNCTION
               for w, b in zip(words, bare, strict=True)]  # fmt: skip
    goes_on = [a and b and not words[n].endswith((",", ".", ":", "'s"))
               and not re.search(r"\d", words[n + 1])
               for n, (a, b) in enumerate(pairwise(is_name))]  # fmt: skip
    goes_on.append(False)
    for first in range(len(words)):
        if first == 0 and not goes_on[0]:
            continue  # what a request begins with is what to do
        for last in range(first, min(first + most, len(words))):
            part = words[first : last + 1]
            if "\0" in part[-1] or _is_broken(part):
                break
            if bare[first] in _FUNCTION or bare[last] in _FUNCTION:
                continue
            if goes_on[last] or (first > 0 and goes_on[first - 1]):
                continue
            if _BETWEEN.intersection(bare[first + 1 : last]):
                continue
            span = " ".join(part).strip(_EDGES)
            found[span.removesuffix("'s").removesuffix("\u2019s")] = None
    found.pop("", None)
    return list(found)


def _is_broken(part: Sequence[str]) -> bool:
    """Whether a clause, a possessive or a date ends within."""
    if len(part) > 1 and any(DATE.search(word) for word in part):
        return True
    for word, after in pairwise(part):
        if after.startswith("(") or (word.endswith(",") and not after[0].isupper()):
            return True
    return any(
        word.endswith(("'s", "\u2019s")) or (_ENDS.search(word) and not _ABBREVIATION.match(word))
        for word in part[:-1]
    )


def name_lists(text: str, most: int = 6, words: int = 4) -> list[list[str]]:
    """Lists of names, longest where they begin alike: ``x, y and z``.

    Where the first begins and the last ends is not known, so each possibility is one.
    """
    found = [quotes(match.group(0)) for match in _LIST_OF_QUOTED.finditer(text)]
    found += [[each] for each in quotes(text)]
    parts = [part.strip() for part in _SEPARATORS.split(text.rstrip(".?! "))]
    parts = [part.removeprefix("the ") for part in parts if part]
    for start in range(len(parts)):
        for end in range(start + 1, min(len(parts), start + most)):
            inner = parts[start + 1 : end]
            if any(len(part.split()) > words for part in inner):
                break
            for first in _suffixes(parts[start], words):
                found += [[first, *inner, last] for last in _prefixes(parts[end], words)]
    return found


def _suffixes(text: str, most: int) -> list[str]:
    words = text.split()
    ends = [words[-n:] for n in range(1, min(most, len(words)) + 1)]
    return [" ".join(end).strip(_EDGES) for end in ends
            if end[0].lower() not in _FUNCTION | _BETWEEN]  # fmt: skip


def _prefixes(text: str, most: int) -> list[str]:
    words = text.split()
    starts = [words[:n] for n in range(1, min(most, len(words)) + 1)]
    return [" ".join(start).strip(_EDGES) for start in starts
            if start[-1].lower() not in _FUNCTION | _BETWEEN]  # fmt: skip


def labelled(text: str, label: str) -> list[tuple[Number, ...]]:
    """Numbers that a text names so: ``3 days``, ``a radius of 4``; the former first.

    Args:
        text: the request.
        label: words of a parameter's name.
    """
    words = [stem(word) for word in WORDS.findall(label)]
    before: list[tuple[Number, ...]] = []
    after: list[tuple[Number, ...]] = []
    for word in reversed(words):
        for match in re.finditer(rf"\b{re.escape(word)}\w*", text, re.IGNORECASE):
            left = re.search(r"\S+\s*$", text[: match.start()])
            right = re.match(r"\W*(?:(?:of|is|as|to|at|for|about)\W+)*"
                             r"([-$]?\d\S*(?: (?:percent|thousand|million|billion))?)",
                             text[match.end() :])  # fmt: skip
            before += numbers(left.group(0)) if left else []
            after += numbers(right.group(1)) if right else []
    return before + after


def places(text: str) -> list[str]:
    """Capitalised names where a place stands: ``in``, ``near``, ``to``, ``from ... to``."""
    name = r"((?:[A-Z]\w*,? ?)+)"
    text = DATE.sub(" ", text)
    found = re.findall(rf"\b(?:in|near|to)\s+(?:the\s+)?{name}", text)
    found = re.findall(rf"\bfrom\s+(?:the\s+)?{name}(?=\s?to\b)", text) + found
    names = (each.strip(" ,.?!") for each in found)
    return [each for each in dict.fromkeys(names) if each[:3].lower() not in _MONTHS]


def number_lists(text: str) -> list[list[tuple[Number, ...]]]:
    """Lists of numbers: in brackets, else those that follow each other, else any neighbours."""
    bracketed = [
        [(whole(float(each)),) for each in re.findall(r"-?\d+(?:\.\d+)?", part)]
        for part in re.findall(r"[\[(]([-\d.,\s]+)[\])]", text)
    ]
    if found := [each for each in bracketed if each]:
        return found
    runs = [numbers(match.group(0)) for match in _LIST_OF_NUMBERS.finditer(text)]
    if found := [each for each in runs if len(each) > 1]:
        return found
    every = numbers(text)
    return [every[i:j] for i in range(len(every)) for j in range(len(every), i, -1)]


def stem(word: str) -> str:
    """A word without the commonest endings."""
    return re.sub(r"(ing|ed|(?<!ss)es|(?<!s)s|e|(?<=ss)es)$", "", word.lower())


_EMPTY = frozenset(
    map(
        stem,
        _words(
            "whether default false true include optional return should value type name from with "
            "that this these specific number find the will"
        ),
    )
)


def topics(text: str) -> set[str]:
    """Stems of the words of four letters or more that mean something."""
    return {stem(word) for word in re.findall(r"[A-Za-z]{4,}", text.replace("_", " "))} - _EMPTY
