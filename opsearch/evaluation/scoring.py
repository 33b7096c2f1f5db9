"""Scores of answers between 0 and 1, by the metric that the data name.

Texts are compared in the form that the evaluation of VQA gives them, extended to Unicode;
docs/evaluation.md lists the rules with examples.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

TOLERANCE = Decimal("0.05")
"""Relative error that `relaxed` allows."""
_ENOUGH = 3
"""Annotators who must agree with an answer for the full score of `vqa`."""
_SIMILAR = 0.5
"""Normalised distance from which `anls` counts two texts as different."""


def score(text: str, answers: Sequence[str], metric: str = "match") -> float:
    """Return the score of a text between 0 and 1; an empty text scores 0.

    Args:
        text: The answer of a model.
        answers: Accepted answers; for `vqa` one per annotator, with repetitions.
        metric: One of `opsearch.data.item.METRICS`.
    """
    return _METRICS[metric](text, answers) if plain(text) else 0.0


def match(text: str, answers: Sequence[str]) -> float:
    """Return 1 if the text equals an accepted answer in normal form, else 0."""
    return float(normal(text) in map(normal, answers))


def vqa(text: str, answers: Sequence[str]) -> float:
    """Return the accuracy of VQA: full if three annotators gave this answer.

    It is the mean over all choices of all annotators but one. With three annotators or fewer, it is
    the share of them who gave this answer.
    """
    wanted, annotators = normal(text), len(answers)
    agreeing = sum(normal(answer) == wanted for answer in answers)
    if annotators <= _ENOUGH:
        return agreeing / max(1, annotators)
    without_one_agreeing = agreeing * min(_ENOUGH, agreeing - 1)
    without_another = (annotators - agreeing) * min(_ENOUGH, agreeing)
    return (without_one_agreeing + without_another) / (_ENOUGH * annotators)


def anls(text: str, answers: Sequence[str]) -> float:
    """Return the average normalised Levenshtein similarity of DocVQA for the closest answer."""
    return max((_similarity(plain(text), plain(answer)) for answer in answers), default=0.0)


def relaxed(text: str, answers: Sequence[str], tolerance: Decimal = TOLERANCE) -> float:
    """Return ChartQA's relaxed accuracy: numbers may differ by 5 %, other answers must match."""
    return float(any(_about_equal(text, answer, tolerance) for answer in answers))


_METRICS: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    "match": match,
    "vqa": vqa,
    "anls": anls,
    "relaxed": relaxed,
}


def _similarity(text: str, answer: str) -> float:
    longest = max(len(text), len(answer))
    if not longest or abs(len(text) - len(answer)) >= _SIMILAR * longest:
        return 0.0
    distance = levenshtein(text, answer) / longest
    return 1 - distance if distance < _SIMILAR else 0.0


def levenshtein(text: str, other: str) -> int:
    """Return the least number of inserted, deleted and replaced characters between two texts."""
    row = list(range(len(other) + 1))
    for i, here in enumerate(text, 1):
        diagonal, row[0] = row[0], i
        for j, there in enumerate(other, 1):
            replaced = diagonal + (here != there)
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, replaced)
    return row[-1]


# An exponent of more digits would not fit a Decimal.
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d{1,3})?")


def _about_equal(text: str, answer: str, tolerance: Decimal) -> bool:
    found, wanted = _number(text), _number(answer)
    if found is None or wanted is None:
        return normal(text) == normal(answer)
    return abs(found - wanted) <= tolerance * abs(wanted)


def _number(text: str) -> Decimal | None:
    """Return the number that a text consists of, 0.05 for 5 %; None: it is no number."""
    digits = _THOUSANDS.sub("", plain(text))
    share = digits.endswith("%")
    digits = digits.removesuffix("%").rstrip()
    if not _NUMBER.fullmatch(digits):
        return None
    return Decimal(digits).scaleb(-2) if share else Decimal(digits)


# Characters that differ by keyboard and font only.
_SAME = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u00b4\u2032`", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
        "\u2044": "/",
        "\u066b": ".",
        "\u066c": ",",
    }
)
_EMOJI_STYLE = "\ufe0e\ufe0f"
_JOINERS = "\u200c\u200d"  # part of the spelling of Persian words and of emoji
_POWER = re.compile("(?<=\\d)(?=[\u2070\u00b9\u00b2\u00b3\u2074-\u207b])")
_MIXED = re.compile("(?<=\\d)(?=[\u00bc-\u00be\u2150-\u215e])")


def plain(text: str) -> str:
    """Return a text in one Unicode form, without case, invisible characters and extra spaces."""
    # Otherwise 10\u00b2 would become 102, and 1\u00bd 11/2.
    text = _MIXED.sub(" ", _POWER.sub("^", text)).translate(_SAME)
    folded = unicodedata.normalize("NFKC", text).casefold()
    folded = unicodedata.normalize("NFKC", folded).translate(_SAME)
    return " ".join("".join(map(_visible, folded)).split())


def _visible(char: str) -> str:
    if char.isdecimal():
        return str(unicodedata.decimal(char))
    category = unicodedata.category(char)
    if char in _EMOJI_STYLE or (category == "Cf" and char not in _JOINERS):
        return ""
    return " " if category == "Cc" else char


_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_SIGN = re.compile(r"(?<![\w.)\]%'\"])-(?=\.?\d)")
_MINUS = "\u2212"  # stands for a sign while hyphens become spaces
_PUNCTUATION = frozenset(';/[]"{}()=+\\_-><@,?!')  # that of VQA
_PER_MILLE = "\u2030\u2031"  # punctuation by Unicode, but part of a number
_FULL_STOP = re.compile(r"\.(?!\d)")
_DECIMAL = re.compile(r"([-\u2212]?)0*(\d*)\.(\d*?)0*")
_ARTICLES = frozenset({"a", "an", "the"})
_DIGITS = {"none": "0"} | {
    word: str(value)
    for value, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}
_ENDINGS = {
    "n't": "ai are ca could did do does had has have is might must need ought sha should was were "
    "wo would",
    "'s": "he how somebody someone that there what when where who why",
    "'ve": "could i might must not should they we what where who would you",
    "'ll": "it somebody someone something they what who why you",
    "'re": "there they what why you",
    "'d": "he how it someone something there they where who you",
    "'m": "i",
}
_CONTRACTIONS = {"maam": "ma'am", "oclock": "o'clock", "yall": "y'all"} | {
    stem + ending.replace("'", ""): stem + ending
    for ending, stems in _ENDINGS.items()
    for stem in stems.split()
}


def normal(text: str) -> str:
    """Return the form in which answers are compared, empty only for an empty text.

    Punctuation and articles are left out unless nothing else remains.
    """
    simple = plain(text)
    spaced = _SIGN.sub(_MINUS, _THOUSANDS.sub("", simple))
    spaced = _FULL_STOP.sub("", "".join(map(_without_punctuation, spaced)))
    words = [_word(word) for each in spaced.split() if (word := each.strip("'"))]
    return " ".join([word for word in words if word not in _ARTICLES] or words) or simple


def _without_punctuation(char: str) -> str:
    foreign = not char.isascii() and char not in _PER_MILLE
    if char in _PUNCTUATION or (foreign and unicodedata.category(char).startswith("P")):
        return " "
    return char


def _word(word: str) -> str:
    """Return a word with digits for a number and the apostrophe of a contraction."""
    if number := _DECIMAL.fullmatch(word):
        sign, whole, fraction = number.groups()
        word = f"{sign}{whole or '0'}" + (f".{fraction}" if fraction else "")
    word = _DIGITS.get(word, word)
    return _CONTRACTIONS.get(word, word)
