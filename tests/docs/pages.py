"""README and the pages of docs/, as the tests look at them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^(?P<indent> *)```(?P<kind>\w*)\n(?P<code>.*?)^(?P=indent)```$", re.M | re.S)
COMMENT = re.compile(r"<!--.*?-->", re.S)
#: what a program writes is its own matter
GENERATED = re.compile(
    r"<!-- (?:settings|endpoint|connection|transaction):begin -->.*?:end -->", re.S
)
REFERENCE = re.compile(r"<!-- reference: .*?<!-- /reference -->", re.S)
LINK = re.compile(r"!?\[(?P<text>[^\]]*)\]\((?P<to>[^)\s]+)\)")
#: abbreviations that end in a full stop without ending a sentence
NO_END = re.compile(r"\b(?:e\.g|i\.e|vs|cf)\.")


class Snippet(NamedTuple):
    """`setup` stands before it in a comment, `<!-- setup: … -->`; a reason in
    `<!-- not run: … -->` keeps it from being run."""

    page: str
    number: int
    code: str
    setup: str
    not_run: str

    def __str__(self) -> str:
        return f"{self.page}-{self.number}"


SETUP = re.compile(r"<!-- (?P<what>setup|not run):(?P<text>(?:(?!-->).)*)-->\s*\Z", re.S)


def snippets() -> Iterator[Snippet]:
    """The Python snippets, page by page."""
    for page in PAGES:
        text = page.read_text()
        python = [found for found in FENCE.finditer(text) if found["kind"] == "python"]
        for number, found in enumerate(python):
            before = SETUP.search(text[: found.start()])
            said = before["text"] if before else ""
            setup = said if before and before["what"] == "setup" else ""
            not_run = said.strip() if before and before["what"] == "not run" else ""
            yield Snippet(page.name, number, found["code"], setup, not_run)


def prose(text: str) -> str:
    """A page without what isn't prose: code, comments, what is generated."""
    text = REFERENCE.sub("", GENERATED.sub("", text))
    return COMMENT.sub("", FENCE.sub("\n\n", text))


def sentences(text: str) -> Iterator[str]:
    """Its sentences.  A list's item, a heading and a table's cell end one as well."""
    for block in _blocks(prose(text)):
        plain = LINK.sub(lambda link: link["text"], block)
        plain = re.sub(r"`[^`]*`", "`code`", plain)
        plain = NO_END.sub("abbreviation", plain)
        for sentence in re.split(r"(?<=[.!?])[\"”)*_]*\s+", plain):
            if sentence.strip():
                yield " ".join(sentence.split())


def _blocks(text: str) -> Iterator[str]:
    block: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.lstrip().startswith("|"):
            yield from line.strip().strip("|").split("|")
            continue
        if not line.strip() or re.match(r" *(?:[-*] |\d+\. |#|:::)", line):
            yield " ".join(block)
            block = []
        if not line.lstrip().startswith(":::"):
            block.append(line)


def words(sentence: str) -> int:
    """What is read as one: numbers and code are words, dashes and signs aren't."""
    return len([word for word in sentence.split() if re.search(r"\w", word)])
