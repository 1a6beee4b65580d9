"""The pages of the documentation: their blocks, links and headings, and the tests that they name."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])
_FENCE = re.compile(r"^( *)(```+)(\S*)\n(.*?)^ *\2$", re.MULTILINE | re.DOTALL)
NODE = re.compile(r"\b(tests/\w+\.py)((?:::\w+)+)")
"""How a page names a test: its file and its name, as pytest does."""


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    """Where its contents begin."""
    language: str
    text: str
    """Without the indentation of the list that it stands in."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """Every block of every page, or those in these languages."""
    return [block for page in PAGES for block in _blocks(page) if not languages or block.language in languages]


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in _FENCE.finditer(text):
        body = re.sub(rf"^{match[1]}", "", match[4], flags=re.MULTILINE)
        yield Block(page, text.count("\n", 0, match.start(4)) + 1, match[3], body)


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _FENCE.sub("", page.read_text())


def inline(page: Path) -> list[str]:
    """The code in a page's prose."""
    return [" ".join(each.split()) for each in re.findall(r"`([^`]+)`", prose(page))]


def links(page: Path) -> list[str]:
    """Where the links and pictures of a page lead to, those to other sites left out."""
    without_code = re.sub(r"`[^`]*`", "", prose(page))
    targets: list[str] = re.findall(r"\]\(([^()\s]+)\)", without_code)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


@cache
def anchors(page: Path) -> frozenset[str]:
    """The names of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.+)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = 1
        unique = name
        while unique in found:
            unique = f"{name}-{number}"
            number += 1
        found.add(unique)
    return frozenset(found)


@cache
def functions_of(file: str) -> frozenset[str]:
    """The names of the tests in a file, as `::test` or `::Class::test`."""
    path = ROOT / file
    return frozenset(_tests(ast.parse(path.read_text()).body, "")) if path.exists() else frozenset()


def _tests(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for each in body:
        if isinstance(each, ast.ClassDef):
            yield from _tests(each.body, f"{prefix}::{each.name}")
        elif isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and each.name.startswith("test_"):
            yield f"{prefix}::{each.name}"


def rows(page: Path, heading: str) -> list[list[str]]:
    """The cells of every row of the tables whose first heading is this one."""
    found: list[list[str]] = []
    for table in re.findall(
        rf"^\| {re.escape(heading)} \|.*\n\|[ |-]+\|\n((?:\|.*\n)+)", page.read_text(), re.MULTILINE
    ):
        found += [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]
    return found
