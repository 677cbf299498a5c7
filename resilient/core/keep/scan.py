"""The tokens of a statement with their places: where to put something into its text.

A tree tells where things begin.  Where they end, the parentheses and commas tell.  Whatever is
misread here is found out when the text that was made is parsed again (`rewrite`).
"""

from __future__ import annotations

import re
from bisect import bisect_left

from ..._dataclass import dataclass
from ..reach import opaque

_TOKEN = re.compile(rb"[A-Za-z_\x80-\xff][\w$\x80-\xff]*|[^\s]")


@dataclass(frozen=True, slots=True)
class Token:
    """`start` and `end` in bytes; `depth`: the parentheses around it.  `text`: in lower case; of
    literals and quoted names only the first mark."""

    start: int
    end: int
    text: bytes
    depth: int


class Tokens:
    """The tokens of one statement.  Raises ValueError where something never closes."""

    def __init__(self, query: bytes) -> None:
        self.all: list[Token] = []
        at = depth = 0
        for token, begin, end in (*opaque(query), (b"", len(query), len(query))):
            for found in _TOKEN.finditer(query, at, begin):
                text = found.group().lower()
                depth -= text == b")"
                self.all.append(Token(found.start(), found.end(), text, depth))
                depth += text == b"("
            if token and token not in (b"--", b"/*"):
                self.all.append(Token(begin, end, token[:1], depth))
            at = end
        self.starts = [token.start for token in self.all]

    def at(self, start: int) -> int:
        """The number of the token that begins there, or next."""
        return bisect_left(self.starts, start)

    def find(self, word: bytes, after: int, depth: int) -> int:
        """The number of the next such token at this depth."""
        for number in range(after, len(self.all)):
            token = self.all[number]
            if token.text == word and token.depth == depth:
                return number
        raise ValueError(f"no {word.decode()} where one should be")

    def rows(self, values: int) -> list[int]:
        """The numbers of the parentheses that open the rows behind a VALUES."""
        depth = self.all[values].depth
        found, number = [], values + 1
        while self.all[number].text == b"(" and self.all[number].depth == depth:
            found.append(number)
            number = self.find(b")", number, depth) + 1
            if number >= len(self.all) or self.all[number].text != b",":
                break
            number += 1
        return found

    def call_end(self, start: int) -> int:
        """Where the call (`pg_catalog.now()`), or the word, that begins there ends."""
        number = self.at(start)
        while number + 2 < len(self.all) and self.all[number + 1].text == b".":
            number += 2
        last = self.all[number]
        if number + 1 < len(self.all) and self.all[number + 1].text == b"(":
            last = self.all[self.find(b")", number + 1, last.depth)]
        return last.end
