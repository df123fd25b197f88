"""Final answers: found in a text, brought to one form, compared."""

import re

_ANSWER = re.compile(r"answer\s*(?:is|:)\s*\**\s*\$?\s*([^\n*]+)", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_WORDS = ("true", "false", "unknown", "yes", "no", "maybe")


def final_answer(text: str, *, lenient: bool = False) -> str | None:
    """The answer a text ends with, normalised, or None.

    Args:
        text: what the model wrote.
        lenient: for a model that was never taught the form "Answer: X": take the last number or
            the last of true, false, unknown, yes, no, maybe.
    """
    found = _ANSWER.findall(text)
    if found:
        return normalise(found[-1])
    if lenient:
        words = re.findall(r"-?\d[\d,]*(?:\.\d+)?|[a-z]+", text.lower())
        fitting = [w for w in words if w in _WORDS or _NUMBER.fullmatch(w)]
        return normalise(fitting[-1]) if fitting else None
    return None


def is_correct(text: str, gold: str, *, lenient: bool = False) -> bool:
    """Whether a text's final answer is the gold answer.

    A lenient reading looks for the kind of answer the gold one is, so that "the 3 dogs: yes" is a
    yes; any other word counts where the text names it last among its words.
    """
    want = normalise(gold)
    answer = final_answer(text)
    if answer is not None or not lenient:
        return answer == want
    if _NUMBER.fullmatch(want):
        numbers = _NUMBER.findall(text)
        return bool(numbers) and normalise(numbers[-1]) == want
    if want in _WORDS:
        words = [w for w in re.findall(r"[a-z]+", text.lower()) if w in _WORDS]
        return bool(words) and words[-1] == want
    return want in re.findall(r"[a-z]+", text.lower())


def normalise(answer: str) -> str:
    """Lower case, no currency, thousands separators, final dot or trailing zeros."""
    answer = answer.strip().lower().rstrip(".").strip().lstrip("$").strip()
    if match := _NUMBER.match(answer):
        number = match[0].replace(",", "")
        return number.rstrip("0").rstrip(".") if "." in number else number
    return answer.split()[0].strip(".,;:!*") if answer else answer
