"""Values that are not JSON stay on the host; code in a sandbox holds an :class:`ObjectRef`.

An image, a table or a robot's handle crosses the border as ``{"$object": id, ...}``. Its bytes
never do; only those of its methods can be called that were allowed when it was stored.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Self

from stretto.errors import InputError, LimitError

KEY = "$object"


@dataclass(frozen=True)
class ObjectRef:
    """A handle of an object on the host.

    Attributes:
        id: unique in its store.
        type: name of the object's class.
        summary: one line for the model, as in ``640 x 480, RGB``.
        methods: what may be called on it.
    """

    id: str
    type: str
    summary: str = ""
    methods: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it crosses the border."""
        return {KEY: self.id, "type": self.type, "summary": self.summary,
                "methods": list(self.methods)}  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of :meth:`to_json`; only the id is needed."""
        return cls(data[KEY], str(data.get("type", "")), str(data.get("summary", "")),
                   tuple(data.get("methods", ())))  # fmt: skip


class ObjectStore:
    """Objects of one session, by reference.

    Args:
        methods: what may be called, by class; a class has what its bases have.
        most: how many objects it keeps.
    """

    def __init__(
        self, methods: Mapping[type, Sequence[str]] | None = None, *, most: int = 1000
    ) -> None:
        self._methods = dict(methods or {})
        self._most = most
        self._made = 0
        self._objects: dict[str, tuple[ObjectRef, Any]] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def put(self, value: Any, summary: str = "", methods: Sequence[str] | None = None) -> ObjectRef:
        """Keep an object; the same one gets the same reference.

        Args:
            value: any object.
            summary: one line; by default what the class says in ``__stretto_summary__``, if
                anything.
            methods: what may be called on it; by default what its class allows.

        Raises:
            LimitError: the store is full.
        """
        for ref, kept in self._objects.values():
            if kept is value:
                return ref
        if len(self._objects) >= self._most:
            raise LimitError(f"{self._most} objects are kept already; release some")
        name = type(value).__name__
        if methods is None:
            methods = [m for cls in type(value).__mro__ for m in self._methods.get(cls, ())]
        summarise = getattr(value, "__stretto_summary__", None)
        self._made += 1
        ref = ObjectRef(
            id=f"{name.lower()}-{self._made}",
            type=name,
            summary=summary or (str(summarise()) if callable(summarise) else ""),
            methods=tuple(dict.fromkeys(methods)),
        )
        self._objects[ref.id] = ref, value
        return ref

    def get(self, ref: ObjectRef | str) -> Any:
        """The object itself.

        Raises:
            InputError: there is none of this id.
        """
        key = ref.id if isinstance(ref, ObjectRef) else ref
        if not isinstance(key, str) or key not in self._objects:
            known = ", ".join(list(self._objects)[-5:]) or "none"
            raise InputError(f"no object {key!r} here; the latest are: {known}")
        return self._objects[key][1]

    def call(self, ref: ObjectRef | str, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call one of the methods that are allowed; arguments and result as they cross the border.

        Raises:
            InputError: no such object, or a method that is not allowed.
        """
        value = self.get(ref)
        kept = self._objects[ref.id if isinstance(ref, ObjectRef) else ref][0]
        if method not in kept.methods:  # the store's word counts, not what the sandbox sends
            allowed = ", ".join(kept.methods) or "none"
            raise InputError(f"object {kept.id}: method {method!r} is not allowed; these are: "
                             f"{allowed}")  # fmt: skip
        args, kwargs = self.decode(list(args)), self.decode(kwargs)
        return self.encode(getattr(value, method)(*args, **kwargs))

    def release(self, ref: ObjectRef | str) -> None:
        """Forget an object; nothing happens if it is not there."""
        self._objects.pop(ref.id if isinstance(ref, ObjectRef) else ref, None)

    def encode(self, value: Any) -> Any:
        """What crosses the border: JSON, with a reference in place of what is not.

        Dataclasses and pydantic models become objects, tuples and sets lists, dates text.
        """
        if value is None or isinstance(value, str | bool | int):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else repr(value)
        if isinstance(value, ObjectRef):
            return value.to_json()
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {key: self.encode(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.encode(item) for item in value]
        if is_dataclass(value) and not isinstance(value, type):
            return {f.name: self.encode(getattr(value, f.name)) for f in fields(value)}
        plain = _plain(value)
        return self.put(value).to_json() if plain is None else self.encode(plain)

    def decode(self, value: Any) -> Any:
        """Inverse of :meth:`encode` for references: they become the objects themselves.

        Raises:
            InputError: a reference to an object that is not here.
        """
        if isinstance(value, ObjectRef):
            return self.get(value)
        if isinstance(value, Mapping):
            if KEY in value:
                return self.get(value[KEY])
            return {key: self.decode(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.decode(item) for item in value]
        return value


def _plain(value: Any) -> Any:
    """JSON of the few kinds of value that have an obvious one; None for others."""
    from datetime import date, time, timedelta
    from decimal import Decimal
    from enum import Enum
    from pathlib import PurePath
    from uuid import UUID

    from pydantic import BaseModel

    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value) if isinstance(value, Decimal | PurePath | UUID) else None
