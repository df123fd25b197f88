"""Arguments taken from the request: for models too small to be trusted with more.

A model of a few hundred million parameters, forced to write valid arguments, still writes numbers
and names that nobody mentioned. :class:`Filling` goes through the parameters of one tool and gives
for each a JSON schema that allows only what the request (or the tool's own description) mentions;
where that leaves one value, or says that an optional parameter is not spoken of, the model is not
asked. What it is asked is which of the values goes where. The rules are for English.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from stretto.agents import mentions
from stretto.agents.schemas import Schema, order, resolve

MOST = 1000  # of a number that nobody mentioned
_NOT = re.compile(r"\b(not|no|never|without)\b|n't\b", re.IGNORECASE)
_PART = "(YYYY|MM|DD|year|month|day)"
_FORMAT = re.compile(rf"{_PART}([-/. ]){_PART}[-/. ]{_PART}", re.IGNORECASE)
_PLACE = re.compile(
    r"\b(location|city|country|region|state|place|area|county|address|origin|destination)\b",
    re.IGNORECASE,
)
_ORDER = re.compile(
    r"(?:^|_)(?:first|second|initial|final|start|end|from|to|min|max|[12ab])(?=_|$)|[12]$"
)
_CODES = re.compile(
    r"\b(id|number|code|zip|year|date|time|version|phone|season|size|score)\b", re.IGNORECASE
)


class Filling:
    """The arguments of one call, one after another.

    Ask :meth:`next` what comes; let the model write a value that the schema allows after
    :attr:`written`; :meth:`take` it; until :meth:`next` gives None.

    Args:
        schema: JSON schema of the tool's arguments.
        text: the request.
    """

    def __init__(self, schema: Mapping[str, Any], text: str) -> None:
        self._schema, self._text = schema, text
        self._needed = set(schema.get("required", ()))
        self._waiting = order(schema)
        self._name = ""
        self._used: list[Any] = []
        self.arguments: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """The parameter whose value comes next."""
        return self._name

    @property
    def written(self) -> str:
        """The arguments so far and the name of the next, as JSON that a value would continue."""
        head = json.dumps(self.arguments, ensure_ascii=False)[:-1]
        return f"{head}{', ' if self.arguments else ''}{json.dumps(self._name)}:"

    def next(self) -> Schema | None:
        """Schema of the next value that is not clear already; None when all is done."""
        while self._waiting:
            self._name = self._waiting.pop(0)
            part = resolve(self._schema["properties"][self._name], self._schema)
            names = list(self._schema["properties"])
            grounds = _Grounds(self._text, self._used, self._label(self._name))
            grounds.num_places = sum(bool(_PLACE.search(n.replace("_", " "))) for n in names)
            bare = _ORDER.sub("", self._name)
            grounds.is_of_pair = any(n != self._name and _ORDER.sub("", n) == bare for n in names)
            schema = grounds.narrow(self._name, part, is_needed=self._name in self._needed)
            if schema is None:
                continue
            if len(schema.get("enum", ())) != 1:
                return schema
            self.take(schema["enum"][0])
        return None

    def _label(self, name: str) -> str:
        """The words by which a name differs from the others'."""
        others = {word for other in self._schema["properties"] if other != name
                  for word in mentions.WORDS.findall(other.lower())}  # fmt: skip
        return " ".join(w for w in mentions.WORDS.findall(name.lower()) if w not in others)

    def take(self, value: Any) -> None:
        """The value of the parameter that :meth:`next` named."""
        self.arguments[self._name] = value
        self._used += [value, *_leaves(value)] if isinstance(value, list | dict) else [value]


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    return (
        [leaf for item in value for leaf in _leaves(item)] if isinstance(value, list) else [value]
    )


class _Grounds:
    """Narrows schemas to what a text mentions and what is not used yet."""

    def __init__(self, text: str, used: list[Any], label: str = "") -> None:
        self.text, self.used, self.label = text, used, label
        self.num_places = 0  # parameters that take a place
        self.is_of_pair = False  # as in start and end
        self.low = text.lower()
        self.topics = mentions.topics(text)
        self.numbers = mentions.numbers(mentions.DATE.sub(" ", text)) or mentions.numbers(text)

    def narrow(self, name: str, schema: Schema, *, is_needed: bool) -> Schema | None:
        """The schema of a value, or None to leave an optional one out."""
        about = f"{name} {schema.get('description', '')}"
        kind = schema.get("type")
        if kind in ("integer", "number"):
            return self._number(about, schema, is_needed)
        if kind == "boolean":
            return self._boolean(about, is_needed)
        if kind == "array":
            return self._array(name, about, schema, is_needed)
        if kind == "object":
            return self._object(schema, is_needed)
        if "enum" in schema:
            return self._choice(schema["enum"], is_needed)
        return self._string(name, schema, is_needed)

    def _speaks_of(self, about: str) -> bool:
        return bool(mentions.topics(about) & self.topics)

    def _reading(self, ways: tuple[Any, ...], about: str, kind: Any) -> Any:
        """A percentage as a share, unless the description wants per cent."""
        low = about.lower()
        wants_percent = re.search(r"percent|%", low) and "decimal" not in low
        return ways[0] if wants_percent or kind == "integer" else ways[-1]

    def _number(self, about: str, schema: Schema, is_needed: bool) -> Schema | None:
        kind = schema["type"]
        taken = [u for u in self.used if isinstance(u, int | float) and not isinstance(u, bool)]
        if not is_needed and (len(taken) >= len(mentions.numbers(self.text))
                              or not self._speaks_of(about)):  # fmt: skip
            return None
        counts: dict[Any, int] = {}
        mentioned = self.numbers
        in_digits = mentions.numbers(mentions.DATE.sub(" ", self.text), in_words=False)
        if kind == "number" and not is_needed:
            mentioned = in_digits
        for ways in mentioned:
            value = self._reading(ways, about, kind)
            if kind == "number" or isinstance(value, int):
                counts[value] = counts.get(value, 0) + 1
        free = [value for value, times in counts.items() if self.used.count(value) < times]
        named = [
            self._reading(ways, about, kind) for ways in mentions.labelled(self.text, self.label)
        ]
        if named := [value for value in named if value in free]:
            return {"enum": named[:1]}
        digits = {way for ways in in_digits for way in ways}
        free = [value for value in free if value in digits] or free  # before "one" and "two"
        if free:
            return {"enum": free[:1] if self.is_of_pair else free}
        return {"type": kind, "minimum": 0, "maximum": MOST} if is_needed else None

    def _boolean(self, about: str, is_needed: bool) -> Schema | None:
        """What is spoken of is wanted, unless something is said not to be."""
        is_spoken_of = self._speaks_of(about)
        if is_spoken_of and not _NOT.search(self.text):
            return {"enum": [True]}
        return {"type": "boolean"} if is_needed or is_spoken_of else None

    def _choice(self, values: list[Any], is_needed: bool) -> Schema | None:
        said = self._said(values)
        return {"enum": said or values} if said or is_needed else None

    def _said(self, values: list[Any]) -> list[Any]:
        """Those that the text has; if there are none, those of which it has a part."""
        whole, partly = [], []
        for value in values:
            text = str(value).lower().replace("_", " ")
            topics = mentions.topics(text)
            is_there = text and re.search(r"\b" + re.escape(text), self.low)
            if is_there or (topics and topics <= self.topics):
                whole.append(value)
            elif topics & self.topics:
                partly.append(value)
        return whole or partly

    def _object(self, schema: Schema, is_needed: bool) -> Schema | None:
        if not schema.get("properties"):
            return {"type": "object"} if is_needed else None
        needed = set(schema.get("required", ()))
        inner = _Grounds(self.text, [])
        found = {name: inner.narrow(name, part, is_needed=name in needed)
                 for name, part in schema["properties"].items()}  # fmt: skip
        parts = {name: part for name, part in found.items() if part is not None}
        if not parts and not is_needed:
            return None
        return {"type": "object", "properties": parts, "required": list(parts),
                "additionalProperties": False}  # fmt: skip

    def _array(self, name: str, about: str, schema: Schema, is_needed: bool) -> Schema | None:
        items: Schema = schema.get("items") or {"type": "string"}
        kind = items.get("type")
        if kind in ("integer", "number"):
            lists = [[self._reading(ways, about, kind) for ways in each]
                     for each in mentions.number_lists(self.text)]  # fmt: skip
            if kind == "number":
                lists = [[float(value) for value in each] for each in lists]
            if not is_needed:
                lists = [each for each in lists if each not in self.used]
            if lists := self._fresh(lists):
                return {"enum": lists}
            free = {"type": "array", "items": {"type": kind}, "maxItems": 6}
            return free if is_needed else None
        if kind == "string" and "enum" in items:
            return self._choices(items["enum"], is_needed)
        if kind == "string":
            if not is_needed and not self._speaks_of(about):
                return None
            lists = mentions.name_lists(self.text)
            lists = self._fresh(lists + [[each] for each in mentions.names(self.text, 4)])
            return {"enum": lists} if lists else {**schema, "items": items, "maxItems": 4}
        part = _Grounds(self.text, []).narrow(name, items, is_needed=is_needed)
        if part is None:
            return None
        return {"type": "array", "items": part, "minItems": 1, "maxItems": 3}

    def _choices(self, values: list[Any], is_needed: bool) -> Schema | None:
        def place(value: str) -> int:
            if value.lower() in self.low:
                return self.low.find(value.lower())
            words = [mentions.stem(word) for word in re.findall("[a-z]+", value.lower())]
            return min((self.low.find(w) for w in words if w in self.low), default=len(self.low))

        said = sorted(self._said(values), key=place)
        if said:
            return {"enum": [said]}
        if not is_needed:
            return None
        return {"type": "array", "items": {"enum": values}, "minItems": 1, "maxItems": 2}

    def _string(self, name: str, schema: Schema, is_needed: bool) -> Schema | None:
        description = schema.get("description", "")
        if found := self._dates(name, description):
            return {"enum": self._fresh(found) or found}
        about = f"{name.replace('_', ' ')} {description}"
        examples = [each for each in mentions.quotes(description) if len(each) < 40]
        said = [each for each in examples if self._names(each)]
        given = re.search(r"e\.g\.,? ([A-Z][\w ]+), ([A-Z]{2})\b", description)
        if given and given.group(1).lower() in self.low:
            said.append(f"{given.group(1)}, {given.group(2)}")
        is_place = bool(_PLACE.search(name.replace("_", " ")))
        places = self._places()
        if is_place and not said and len(places) >= self.num_places:
            said = [place for place in places if place not in self.used]
        if said or not is_needed:
            return {"enum": self._distinct(said)} if said else None
        spans = mentions.names(mentions.DATE.sub(" ", self.text))
        if self.num_places and not is_place:
            spans = [s for s in spans if s not in places] or spans
        if not _CODES.search(about):
            spans = [span for span in spans if re.search("[^\\W\\d]", span)] or spans
        spans = self._fresh(self._distinct(spans + examples))
        return {"enum": spans} if spans else {"type": "string", "maxLength": 40}

    def _places(self) -> list[str]:
        """Places, in parts where more than one parameter takes one."""
        found = mentions.places(self.text)
        parts = [part for place in found for part in place.split(", ")]
        return parts if self.num_places > 1 else self._distinct(found + [
            place.split(", ")[0] for place in found])  # fmt: skip

    def _names(self, example: str) -> bool:
        if re.search(r"\b" + re.escape(example.lower()) + r"\b", self.low):
            return True
        stems = {mentions.stem(word) for word in re.findall("[a-z]+", self.low)}
        return example.isalpha() and len(example) > 3 and mentions.stem(example) in stems

    def _dates(self, name: str, description: str) -> list[str]:
        form = _FORMAT.search(description)
        if not form and not re.search(r"\bdates?\b", f"{name} {description}".replace("_", " "),
                                      re.IGNORECASE):  # fmt: skip
            return []
        days = mentions.dates(self.text)
        if not form:
            return [written for written, _ in days]
        codes = {"y": "%Y", "m": "%m", "d": "%d"}
        parts = [codes[form.group(n)[0].lower()] for n in (1, 3, 4)]
        return [day.strftime(form.group(2).join(parts)) for _, day in days]

    def _fresh(self, values: list[Any]) -> list[Any]:
        """Those that are not, nor are part of, what another argument has; all if none is left."""
        taken = [used.lower() for used in self.used if isinstance(used, str)]
        values = self._distinct(values)
        free = [value for value in values if value not in self.used and not (
            isinstance(value, str) and any(value.lower() in used for used in taken))]  # fmt: skip
        return free or values

    @staticmethod
    def _distinct(values: list[Any]) -> list[Any]:
        return [value for number, value in enumerate(values) if value not in values[:number]]
