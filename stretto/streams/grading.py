"""Final answers: found in a text, brought to one form, compared.

There are two kinds of answers. A *closed* one is a single number, word or name, which the text
says after "Answer:"; what follows it on the line is an explanation and does not count. A *phrase*
is free text of any length: every word counts. The task says which kind it asks for; where no task
is given, the answer itself shows it.
"""

import re
import unicodedata

_ANSWER = re.compile(r"answer\s*(?:is|:)\s*\**\s*\$?\s*([^\n*]+)", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_FREE_NUMBER = re.compile(rf"(?<![\w.]){_NUMBER.pattern}(?!\.?\w)")
_WORDS = ("true", "false", "unknown", "yes", "no", "maybe")
_ARTICLES = ("a", "an", "the")
_PHRASE_TASKS = ("t0",)
"""Tasks answered by a phrase, with or without "Answer:" before it; all others are closed."""


def final_answer(text: str, *, task: str | None = None, lenient: bool = False) -> str | None:
    """The answer a text ends with, normalised, or None.

    Args:
        text: what the model wrote.
        task: the task it was asked; None judges the kind of answer by what is there. A task
            answered by a phrase may leave out "Answer:", so that the whole text is the answer.
        lenient: for a model that was never taught the form "Answer: X": take the last number or
            the last of true, false, unknown, yes, no, maybe.
    """
    found = _ANSWER.findall(text)
    if found:
        return normalise(found[-1], task=task)
    if task in _PHRASE_TASKS:
        return _phrase(text) or None
    if lenient:
        words = re.findall(r"-?\d[\d,]*(?:\.\d+)?|[a-z]+", text.lower())
        fitting = [w for w in words if w in _WORDS or _NUMBER.fullmatch(w)]
        return _closed(fitting[-1]) if fitting else None
    return None


def is_correct(text: str, gold: str, *, task: str | None = None, lenient: bool = False) -> bool:
    """Whether a text's final answer is the gold answer.

    A lenient reading looks for the kind of answer the gold one is, so that "the 3 dogs: yes" is a
    yes; any other word or phrase counts where the text has it somewhere.

    Args:
        text: what the model wrote.
        gold: the right answer.
        task: the task it was asked; None judges the kind of answer by the gold one.
        lenient: for a model that was never taught the form "Answer: X".
    """
    if _asks_phrase(gold, task):
        return _says(text, gold, lenient)
    want = _closed(gold)
    if found := _ANSWER.findall(text):
        return _closed(found[-1]) == want
    if not lenient:
        return False
    if _NUMBER.fullmatch(want):
        numbers = _NUMBER.findall(text)
        return bool(numbers) and _closed(numbers[-1]) == want
    if want in _WORDS:
        words = [w for w in re.findall(r"[a-z]+", text.lower()) if w in _WORDS]
        return bool(words) and words[-1] == want
    return want in re.findall(r"[a-z]+", text.lower())


def normalise(answer: str, *, task: str | None = None) -> str:
    """One form for answers that mean the same.

    A number has no currency, thousands separators or trailing zeros; a word or name is the first
    one, in lower case; a phrase is all its words in lower case, without punctuation and without
    the article it may begin with.

    Args:
        answer: an answer alone, as it was written.
        task: the task it was asked; None judges the kind by the answer.
    """
    return _phrase(answer) if _asks_phrase(answer, task) else _closed(answer)


def _asks_phrase(answer: str, task: str | None) -> bool:
    if task is not None:
        return task in _PHRASE_TASKS
    closed = _closed(answer)
    is_value = closed in _WORDS or _NUMBER.fullmatch(closed)
    return not is_value and len(answer.split()) > 1


def _says(text: str, gold: str, lenient: bool) -> bool:
    want, whole = _phrase(gold), _phrase(text)
    stated = [_phrase(found) for found in _ANSWER.findall(text)[-1:]]
    return want in (whole, *stated) or (lenient and f" {want} " in f" {whole} ")


def _closed(answer: str) -> str:
    """The number or first word, in lower case."""
    answer = answer.strip().lower().rstrip(".").strip().lstrip("$").strip()
    if match := _NUMBER.match(answer):
        return _plain(match[0])
    return answer.split()[0].strip(".,;:!*") if answer else answer


def _phrase(answer: str) -> str:
    """The words, in lower case; the bare text where it has none."""
    text = unicodedata.normalize("NFKC", answer).casefold()
    text = _FREE_NUMBER.sub(lambda match: _plain(match[0]), text)
    text = unicodedata.normalize("NFKC", text)
    around = zip(f" {text}", text, f"{text[1:]} ", strict=False)
    words = "".join(mark if _counts(a, mark, b) else " " for a, mark, b in around).split()
    while len(words) > 1 and words[0] in _ARTICLES:
        del words[0]
    return " ".join(words) or "".join(text.split())


def _counts(before: str, mark: str, after: str) -> bool:
    """Whether a mark belongs to a word: letters and digits do, and the signs inside a number."""
    if mark == "-":
        return after.isdecimal() and not before.isalnum()
    if mark == ".":
        return after.isdecimal() and before.isdecimal()
    return unicodedata.category(mark)[0] in "LMN"


def _plain(number: str) -> str:
    """A number without thousands separators and trailing zeros."""
    number = number.replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number
