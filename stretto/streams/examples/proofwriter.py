"""ProofWriter (Tafjord et al. 2021, CC BY): facts and rules, then true, false or unknown.

The data have no proofs, so they are derived (:mod:`stretto.streams.examples.rules`); a row on which
derivation and label disagree keeps its label and has no worked steps.
"""

import re
from typing import Any

from stretto.streams.examples.base import Example, final_step, join_chunks, sentences
from stretto.streams.examples.rules import Atom, Derived, closure, parse_atom, proof

_MAX_STEPS = 8
_MAX_NOTES = 4
_LABELS = {"A": "true", "B": "false", "C": "unknown"}


def parse(row: dict[str, Any]) -> Example:
    """One row; the statement to be judged comes first."""
    statement = row["question"].rpartition("?")[2].strip()
    context = sentences(row["context"])
    answer = _LABELS[row["answer"]]
    chunks = join_chunks([f"True, false or unknown? {statement}", *context])
    steps, needs = _worked(statement, context, answer)
    return Example(
        id=row["id"],
        task="proofwriter",
        chunks=chunks,
        steps=(*(f"{step}\n" for step in steps), final_step(answer)),
        answer=answer,
        needs=(*needs, len(chunks)),
    )


def derived_label(row: dict[str, Any]) -> str | None:
    """What derivation says of a row, or None where it cannot be parsed."""
    try:
        known = closure(sentences(row["context"]))
        goal = parse_atom(row["question"].rpartition("?")[2])
    except ValueError:
        return None
    return "true" if goal in known else "false" if goal.negated() in known else "unknown"


def _worked(statement: str, context: list[str], answer: str) -> tuple[list[str], list[int]]:
    try:
        known = closure(context)
        goal = parse_atom(statement)
    except ValueError:
        return [], []
    target = goal if answer == "true" else goal.negated()
    if answer == "unknown":
        about = [a for a, d in known.items() if not d.premises and a.subject == goal.subject]
        atoms = about[:_MAX_NOTES] if {goal, goal.negated()}.isdisjoint(known) else []
    else:
        atoms = proof(target, known) if target in known else []
    if len(atoms) > _MAX_STEPS:
        atoms = [atom for atom in atoms if known[atom].premises][-_MAX_STEPS:]
    ready = {atom: _ready(atom, known) for atom in atoms}
    atoms.sort(key=lambda atom: ready[atom])
    return [_say(atom, known[atom]) for atom in atoms], [ready[atom] for atom in atoms]


def _say(atom: Atom, derived: Derived) -> str:
    text = atom.text()
    return re.sub(r"^(The )?", lambda m: f"So {m[0].lower()}", text) if derived.premises else text


def _ready(atom: Atom, known: dict[Atom, Derived]) -> int:
    """How many chunks, the question included, must be read before a statement is known."""
    derived = known[atom]
    return max([derived.sentence + 2, *(_ready(premise, known) for premise in derived.premises)])
