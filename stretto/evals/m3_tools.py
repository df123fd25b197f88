"""The tools of M3ToolEval, written anew from what they do; they run in a sandbox, not here.

Arguments are named as in the originals, even where the descriptions that models see name them
otherwise. Standard library only: :func:`stretto.evals.m3tooleval.setup` sends this file as text.
"""

# ruff: noqa: D102, D103 - what each does is in the descriptions that models see

import json
from collections import Counter

PAGE_LINES = 5
_COMPLEMENT = str.maketrans("ACGT", "UGCA")
_BACK = str.maketrans("UCAG", "AGTC")
_CODONS = {"AUG": "Methionine", "UUU": "Phenylalanine", "UUC": "Phenylalanine"}
_least, _most, _total = min, max, sum


# Message decoder.


def convert_hex_to_ascii(hex_string):
    return bytes.fromhex(str(hex_string)).decode("utf-8")


def reverse_string(s):
    return s[::-1]


def caesar_decode(message, shift):
    def back(char):
        if not (char.isupper() or char.islower()):
            return char
        first = ord("A") if char.isupper() else ord("a")
        return chr((ord(char) - int(shift) - first) % 26 + first)

    return "".join(map(back, message))


def string_length(s):
    return len(s)


def minimum_value(*args):
    return _least(args)


def maximum_value(*args):
    return _most(args)


# DNA.


def count_nucleotides(dna_sequence):
    return dict(Counter(dna_sequence))


def transcribe_dna_to_mrna(dna_sequence):
    return dna_sequence.translate(_COMPLEMENT)


def translate_mrna_to_amino_acid(mrna_sequence):
    starts = range(0, len(mrna_sequence), 3)
    return "-".join(_CODONS.get(mrna_sequence[i : i + 3], "X") for i in starts)


def find_max_nucleotide(*args):
    counts = dict(zip(args[::2], args[1::2]))  # noqa: B905 - a rest without a count is dropped
    best = _most(counts, key=lambda name: counts[name])
    return best, counts[best]


def is_valid_dna_sequence(dna_sequence):
    return set(dna_sequence) <= set("ACGT")


def reverse_transcribe_mrna_to_dna(mrna_sequence):
    return mrna_sequence.translate(_BACK)


# Trade.


def convert_currency(base_price, conversion_rate):
    return base_price * conversion_rate


def calculate_tariff(price, tariff_rate):
    return price * tariff_rate / 100


def estimate_final_value(price, tariff):
    return price + tariff


def find_minimum(*args):
    return _least(args)


def find_maximum(*args):
    return _most(args)


def calculator(expression):
    try:
        return eval(expression, dict(_MATHS))  # in the sandbox, like all of this
    except Exception:
        return f"Failed to evaluate expression: {expression}"


_MATHS = {
    "convert_currency": convert_currency,
    "calculate_tariff": calculate_tariff,
    "estimate_final_value": estimate_final_value,
    "find_minimum": find_minimum,
    "find_maximum": find_maximum,
}


# Travel.

FLIGHTS, HOTELS = [], []


def _place(name, what):
    place = name.strip('"')
    if place not in "ABCDEF" or len(place) != 1:
        raise ValueError(f'{what} [{place}] is not supported, only "A" to "F"')
    return place


def find_flights(from_location, to_location, date):
    start, end = _place(from_location, "Origin"), _place(to_location, "Destination")
    return [
        {"from_location": f'"{a}"', "to_location": f'"{b}"', "date": day, "price": price}
        for a, b, day, price in FLIGHTS
        if (a, b, day) == (start, end, date)
    ]


def book_hotel(location, *preferences):
    place = _place(location, "Location")
    return [
        {"location": f'"{at}"', "preferences": has, "price_per_night": price, "rating": rating}
        for at, has, price, rating in HOTELS
        if at == place and set(preferences) <= set(has)
    ]


def budget_calculator(flight_price, hotel_price_per_night, num_nights):
    return flight_price + hotel_price_per_night * num_nights


def travel_max(*args, **options):
    return _most(*args, **options)


def travel_min(*args, **options):
    return _least(*args, **options)


def travel_sum(*args):
    return _total(args)


# Web browsing.


class Browser:
    """A page in a window of some lines, and the pages that were open before."""

    def __init__(self, pages):
        self.pages, self.now, self.before, self.top = pages, "/", [], 0

    def _go(self, name):
        self.now, self.top = name, 0
        return f"[Opened page: {name}]\n{self.view()}"

    def _lines(self):
        return self.pages[self.now].split("\n")

    def click_url(self, url):
        url = url.replace("'", "")
        if url not in self.pages:
            return "[URL not found.]"
        self.before.append(self.now)
        return self._go(url)

    def go_to_previous_page(self):
        return self._go(self.before.pop()) if self.before else "[No previous page.]"

    def scroll_down(self):
        if self.top + PAGE_LINES >= len(self._lines()):
            return "[Reached the bottom of the page.]\n"
        self.top += PAGE_LINES
        return self.view()

    def scroll_up(self):
        if self.top == 0:
            return "[Reached the top of the page.]\n"
        self.top -= PAGE_LINES
        return self.view()

    def view(self):
        lines, rule = self._lines(), "-" * 10
        last = len(lines) // PAGE_LINES + 1 if len(lines) > PAGE_LINES else 1
        number = self.top // PAGE_LINES + 1 if last > 1 else 1
        shown = "\n".join(lines[self.top : self.top + PAGE_LINES])
        head = f"[Web Page Name: {self.now}]\n[Viewing page {number} of {last}]\n"
        return f"{rule}\n{head}\n{shown}\n{rule}"


def provide(names, data):
    """The tools of a task by name.

    Args:
        names: that it offers.
        data: ``pages``, text by name; ``flights`` and ``hotels``.
    """
    FLIGHTS[:], HOTELS[:] = data["flights"], data["hotels"]
    browser = Browser(data["pages"])
    known = {**globals(), "max": travel_max, "min": travel_min, "sum": travel_sum}
    return {name: getattr(browser, name, None) or known[name] for name in names}


def call(tools, name, arguments):
    """What a tool returns for a list of arguments, which is JSON, as text."""
    return str(tools[name](*json.loads(arguments)))
