"""ProofWriter's templated English, parsed, and its shortest proofs by forward chaining.

Open world: a negation holds only if it is stated or derived. Sentences look like "The dog sees the
rabbit.", "Anne is not kind.", "If someone is cold and they see the cow then they are rough.",
"All red things are rough.", "Nice, furry people are green.".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

VARIABLE = "?"
_PRONOUNS = {"something", "someone", "it", "they", "things", "people"}


@dataclass(frozen=True)
class Atom:
    """A statement: ``subject relation object``, or its negation. ``is`` relates to adjectives."""

    subject: str
    relation: str
    object: str
    positive: bool = True

    def bind(self, entity: str) -> "Atom":
        """The statement with the variable replaced."""
        swap = {VARIABLE: entity}
        subject = swap.get(self.subject, self.subject)
        return Atom(subject, self.relation, swap.get(self.object, self.object), self.positive)

    def negated(self) -> "Atom":
        """The opposite statement."""
        return Atom(self.subject, self.relation, self.object, not self.positive)

    def text(self) -> str:
        """The statement in the data set's own English."""
        subject = self.subject[0].upper() + self.subject[1:]
        if self.relation == "is":
            return f"{subject} is {'' if self.positive else 'not '}{self.object}."
        verb = f"{self.relation}s" if self.positive else f"does not {self.relation}"
        return f"{subject} {verb} {self.object}."


@dataclass(frozen=True)
class Rule:
    """If all premises hold for an entity, so does the conclusion."""

    premises: tuple[Atom, ...]
    conclusion: Atom


@dataclass(frozen=True)
class Derived:
    """Why a statement holds: the sentence that states it or the rule, and the rule's premises."""

    sentence: int
    premises: tuple[Atom, ...] = ()


def parse_sentence(sentence: str) -> Atom | Rule:
    """A fact or a rule.

    Raises:
        ValueError: not a sentence of this template language.
    """
    text = sentence.strip().rstrip(".")
    if match := re.fullmatch(r"[Ii]f (.+) then (.+)", text):
        return Rule(_premises(match[1]), parse_atom(match[2]))
    if match := re.fullmatch(r"(?:All )?(.+?) (?:things|people) are (not )?(\w+)", text):
        adjectives = re.split(r",\s*|\s+and\s+", match[1])
        premises = tuple(Atom(VARIABLE, "is", word.lower()) for word in adjectives)
        return Rule(premises, Atom(VARIABLE, "is", match[3], not match[2]))
    return parse_atom(text)


def parse_atom(text: str) -> Atom:
    """A statement such as "the cat does not see the cow".

    Raises:
        ValueError: not a statement of this template language.
    """
    text = text.strip().rstrip(".")
    noun = r"(?:[Tt]he (?:bald )?\w+|\w+)"
    pattern = rf"({noun}) (?:(?:is|are) (not )?(\w+)|(?:(does|do) not )?(\w+) ({noun}))"
    match = re.fullmatch(pattern, text)
    if not match:
        raise ValueError(f"not in the template language: {text!r}")
    subject = _entity(match[1])
    if match[3]:
        return Atom(subject, "is", match[3], not match[2])
    verb = match[5] if match[4] or not match[5].endswith("s") else match[5][:-1]
    return Atom(subject, verb, _entity(match[6]), not match[4])


def _entity(text: str) -> str:
    text = text[0].lower() + text[1:] if text.startswith("The ") else text
    return VARIABLE if text.lower() in _PRONOUNS else text


def _premises(text: str) -> tuple[Atom, ...]:
    atoms: list[Atom] = []
    for part in text.split(" and "):
        if match := re.fullmatch(r"(not )?(\w+)", part):  # "is quiet and cold"
            atoms.append(Atom(atoms[-1].subject, "is", match[2], not match[1]))
        else:
            atoms.append(parse_atom(part))
    return tuple(atoms)


def closure(sentences: list[str]) -> dict[Atom, Derived]:
    """Every statement that follows, each with its first (so a shallowest) derivation.

    Raises:
        ValueError: a sentence is not in the template language.
    """
    parsed = [parse_sentence(sentence) for sentence in sentences]
    known = {atom: Derived(i) for i, atom in enumerate(parsed) if isinstance(atom, Atom)}
    entities = {name for atom in known for name in _names(atom)}
    rules = [(i, rule) for i, rule in enumerate(parsed) if isinstance(rule, Rule)]
    for _, rule in rules:
        entities |= {n for a in (*rule.premises, rule.conclusion) for n in _names(a)}
    while new := _round(rules, sorted(entities), known):
        known |= new
    return known


def _round(
    rules: list[tuple[int, Rule]], entities: list[str], known: dict[Atom, Derived]
) -> dict[Atom, Derived]:
    new: dict[Atom, Derived] = {}
    for i, rule in rules:
        for entity in entities:
            premises = tuple(atom.bind(entity) for atom in rule.premises)
            conclusion = rule.conclusion.bind(entity)
            if conclusion not in known and all(atom in known for atom in premises):
                new.setdefault(conclusion, Derived(i, premises))
    return new


def _names(atom: Atom) -> Iterator[str]:
    if atom.subject != VARIABLE:
        yield atom.subject
    if atom.relation != "is" and atom.object != VARIABLE:
        yield atom.object


def proof(goal: Atom, known: dict[Atom, Derived]) -> list[Atom]:
    """The statements used to reach a goal, premises before conclusions, the goal last."""
    order: list[Atom] = []

    def visit(atom: Atom) -> None:
        if atom not in order:
            for premise in known[atom].premises:
                visit(premise)
            order.append(atom)

    visit(goal)
    return order
