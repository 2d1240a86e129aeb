"""Lists and objects in the cells of a table, as JSON, Python, pandas and numpy write them."""

import ast
import json
import math
import re
from typing import Any

from deberta_jax.tasks.rows import UnusableRow

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<call>(?:np\.|numpy\.)?(?:array|float64|float32|int64|int32|str_|bool_|True_|False_)\s*\()
      | (?P<sign>[\[\](){},:])
      | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
      | (?P<word>[^\s\[\](){},:'"]+)
    )""",
    re.VERBOSE | re.DOTALL,
)
_CLOSING = {"[": "]", "(": ")", "{": "}"}
_WORDS = {"true": True, "false": False, "none": None, "null": None, "nan": math.nan}


# Brackets hold a list; parentheses and braces hold one if the first item is a text, or if they are empty.
_LIST = re.compile(r"""\[.*\]|\(\s*['"].*\)|\{\s*(?:['"].*)?\}|array\(.*\)""", re.DOTALL)


def looks_like_list(text: str) -> bool:
    """Whether a cell begins and ends as a list, a tuple, an object or an array does."""
    return _LIST.fullmatch(text) is not None


def parse_literal(text: str) -> Any:
    """Return the value of a cell that is a list or an object; raises UnusableRow if it only looks like one.

    A value is JSON, a Python literal, or what numpy prints: `[2 7]`, `['a' 'b']`, `array(['a'], dtype=object)`.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        value, position = _Parser(text).value(0)
    except (ValueError, SyntaxError, RecursionError):
        raise _no_list(text) from None
    if text[position:].strip():
        raise _no_list(text)
    return value


def _no_list(text: str) -> UnusableRow:
    if "..." in text:
        return UnusableRow(f"{_short(text)} is a list that was cut with '...' when it was written")
    return UnusableRow(f"{_short(text)} looks like a list, but is not one")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


class _Parser:
    """A parser of Python's and numpy's notation, in which a comma between items is optional."""

    def __init__(self, text: str):
        self._text = text

    def value(self, position: int) -> tuple[Any, int]:
        """Return the value that begins at a position, and its end."""
        token = self._token(position)
        if token["call"]:
            return self._call(token.end())
        if sign := token["sign"]:
            if sign not in _CLOSING:
                raise ValueError(sign)
            return self._items(token.end(), _CLOSING[sign])
        if text := token["text"]:
            return ast.literal_eval(text), token.end()
        return _number(token["word"]), token.end()

    def _call(self, position: int) -> tuple[Any, int]:
        """The first argument of a call such as `array([1, 2], dtype=int64)`."""
        value, position = self.value(position)
        end = self._text.index(")", position)
        if not re.fullmatch(r"\s*(,\s*dtype=[^()]*)?", self._text[position:end]):
            raise ValueError(self._text[position:end])
        return value, end + 1

    def _items(self, position: int, closing: str) -> tuple[Any, int]:
        """The items up to a closing bracket: a list, or a dict if they have keys."""
        items: list[Any] = []
        pairs: dict[str, Any] = {}
        while (token := self._token(position))["sign"] != closing:
            if token["sign"] == ",":
                position = token.end()
                continue
            item, position = self.value(position)
            if closing == "}" and self._token(position)["sign"] == ":":
                pairs[str(item)], position = self.value(self._token(position).end())
            else:
                items.append(item)
        if pairs and items:
            raise ValueError("items with and without keys")
        return pairs if pairs or (closing == "}" and not items) else items, token.end()

    def _token(self, position: int) -> re.Match[str]:
        match = _TOKEN.match(self._text, position)
        if match is None:
            raise ValueError(self._text[position:])
        return match


def _number(word: str) -> Any:
    """A number, or a constant of Python or JSON; raises ValueError for another word."""
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    try:
        return int(word)
    except ValueError:
        # numpy writes 1. for 1.0.
        return float(word)
