"""PostgreSQL's own rules for where a statement ends (manual 4.1), byte by byte: an oracle."""

from __future__ import annotations

import re

_TAG = re.compile(rb"\$(?:[A-Za-z_\x80-\xff][A-Za-z_0-9\x80-\xff]*)?\$")
_NAME = re.compile(rb"[A-Za-z_\x80-\xff][A-Za-z_0-9$\x80-\xff]*")
_COMMENT_LINE = re.compile(rb"--[^\r\n]*")
_SPACE = b" \t\r\n\f\v"


def several_statements(query: bytes) -> bool:
    """Is there a `;` with something behind it?  What is never closed goes to the end."""
    ended = False
    at = 0
    while at < len(query):
        start, at = at, _past(query, at)
        token = query[start:at]
        if token.strip(_SPACE) == b"" or token.startswith((b"--", b"/*")):
            continue
        if token == b";":
            ended = True
        elif ended:
            return True
    return False


def _past(query: bytes, at: int) -> int:
    """The end of the token that begins here."""
    name = _NAME.match(query, at)
    if name:
        escapes = name.group() in (b"e", b"E") and query[name.end() : name.end() + 1] == b"'"
        return _quoted(query, name.end(), b"'", escapes=True) if escapes else name.end()
    one = query[at : at + 1]
    if one in (b"'", b'"'):
        return _quoted(query, at, one, escapes=False)
    line = _COMMENT_LINE.match(query, at)
    if line:
        return line.end()
    if query.startswith(b"/*", at):
        return _comment(query, at)
    tag = _TAG.match(query, at)
    if tag:
        end = query.find(tag.group(), tag.end())
        return len(query) if end < 0 else end + len(tag.group())
    return at + 1


def _quoted(query: bytes, at: int, quote: bytes, *, escapes: bool) -> int:
    at += 1
    while at < len(query):
        one = query[at : at + 1]
        if escapes and one == b"\\":
            at += 2
        elif one != quote:
            at += 1
        elif query[at + 1 : at + 2] == quote:
            at += 2
        else:
            return at + 1
    return len(query)


def _comment(query: bytes, at: int) -> int:
    depth = 0
    while at < len(query):
        two = query[at : at + 2]
        if two == b"/*":
            depth, at = depth + 1, at + 2
        elif two == b"*/":
            depth, at = depth - 1, at + 2
            if not depth:
                return at
        else:
            at += 1
    return len(query)
