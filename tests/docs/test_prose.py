"""README and docs: short sentences, links that lead somewhere, nothing outgrown or out of date."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from .pages import COMMENT, FENCE, LINK, PAGES, README, ROOT, prose, sentences, words

MOST_WORDS = 30
README_LINES = 150
PICTURE_PX = 700
PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
FAULTS_ROW = re.compile(r"^\| \d+ \|.*\n", re.M)  # generated: names of tests


@PAGE
def test_no_sentence_is_long(page: Path) -> None:
    text = FAULTS_ROW.sub("", page.read_text())
    long = [(words(each), each) for each in sentences(text) if words(each) > MOST_WORDS]
    assert not long, "\n".join(f"{count} words: {each}" for count, each in long)


def test_a_long_sentence_would_be_found() -> None:
    long = "word " * 31
    assert max(map(words, sentences(f"Short one.\n\n{long}\nand on.\n"))) > MOST_WORDS
    assert max(map(words, sentences(f"- item\n- {long}\n"))) > MOST_WORDS
    assert max(map(words, sentences(f"| a | {long} |\n"))) > MOST_WORDS
    assert max(map(words, sentences(f"```text\n{long}\n```\n\n<!-- {long} -->\nx"))) == 1


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= README_LINES


@PAGE
def test_links_lead_somewhere(page: Path) -> None:
    """Files are looked for here; headings of other pages by `make docs`."""
    for link in LINK.finditer(COMMENT.sub("", FENCE.sub("", page.read_text()))):
        to, _, anchor = link["to"].partition("#")
        if to.startswith(("http://", "https://")):
            continue
        target = page.parent / to if to else page
        assert target.exists(), link[0]
        if anchor and target.suffix == ".md":
            assert anchor in headings(target), link[0]


def headings(page: Path) -> set[str]:
    """The names of a page's headings, as links have them."""
    found = re.findall(r"^#+ (.*)$", prose(page.read_text()), re.M)
    plain = (re.sub(r"[^\w\s-]", "", LINK.sub(lambda m: m["text"], each)) for each in found)
    return {re.sub(r"\s+", "-", each.strip().lower()) for each in plain}


@PAGE
def test_pictures_are_not_high(page: Path) -> None:
    """Those that README and docs show; the benchmarks draw their own."""
    for link in LINK.finditer(page.read_text()):
        if link[0].startswith("!"):
            assert 0 < height_of(page.parent / link["to"]) <= PICTURE_PX, link["to"]


def height_of(picture: Path) -> float:
    """In pixels.  A PNG has its height in its header, an SVG in its first tag."""
    if picture.suffix == ".png":
        return int.from_bytes(picture.read_bytes()[20:24], "big")
    found = re.search(r"<svg[^>]*?\bheight=[\"']([\d.]+)(?:px|pt)?[\"']", picture.read_text())
    assert found is not None, picture.name
    return float(found[1])


def test_every_page_is_listed() -> None:
    """In mkdocs.yml, or it is shown last."""
    listed = set(re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert listed <= {page.name for page in PAGES if page != README}


def test_files_of_the_package_that_are_named_exist() -> None:
    rooms = "core|doctor|drill|health|monitor|postgres|http|telemetry|dns"
    for page in PAGES:
        for name in re.findall(rf"`((?:{rooms})/[\w/]+\.py)`", page.read_text()):
            assert (ROOT / "resilient" / name).exists(), f"{page.name}: {name}"
        for name in re.findall(r"`(tests/[\w/]+(?:\.py|\.txt)?)`", page.read_text()):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_make_has_every_target_that_is_named() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        named = set(re.findall(r"`?make ([a-z][a-z-]+)", "\n".join(_code(page))))
        assert named <= targets, f"{page.name}: {named - targets}"


def _code(page: Path) -> list[str]:
    text = page.read_text()
    return [*re.findall(r"`(make [^`]*)`", text), *re.findall(r"^make .*$", text, re.M)]


def test_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for page in PAGES:
        for given in re.findall(r"resilient-connect\[([\w,]+)\]", page.read_text()):
            assert set(given.split(",")) <= set(project["optional-dependencies"]), page.name


def test_the_versions_are_those_of_the_project() -> None:
    """`docs/versions.md` has the bounds of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    apart = ("dev", "bench", "docs")  # for work on the library itself
    needed = [*project["dependencies"]]
    needed += [each for name, extra in extras.items() if name not in apart for each in extra]
    bounds = {}
    for each in needed:
        if found := re.match(r"([\w-]+)(?:\[\w+\])?>=([\w.]+)", each):
            bounds[found[1].lower().replace("-", "_")] = found[2]
    text = (ROOT / "docs" / "versions.md").read_text()
    table = dict(re.findall(r"^\| (\w+) \| ≥ ([\d.]+)", text, re.M))
    assert table.pop("Python") == project["requires-python"].removeprefix(">=")
    assert table
    for name, least in table.items():
        assert bounds[name.lower()] == least, name
