"""Texts of packages: their descriptions without what names the answer.

Masked: the package's own name and its source's in any case, every name of a package that has a
hyphen ([PKG]: python3-*, lib*-perl and the like give class and links away), e-mail addresses ([EMAIL]).
"""

from __future__ import annotations

import re
from collections.abc import Collection

MASK = "[PKG]"
MAX_LETTERS = 3_000
"""Some descriptions list hundreds of modules; no max_length keeps as much."""

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+\w")
_NAME = re.compile(r"(?<![\w+.-])[A-Za-z0-9][\w+.-]*")
_BEFORE, _AFTER = r"(?<![A-Za-z0-9+-])(?<![A-Za-z0-9]\.)", r"(?![A-Za-z0-9+]|[.-][A-Za-z0-9])"
"""Not inside a word, a file name or a host name."""


def package_text(description: str, *, own: Collection[str], hyphenated: Collection[str]) -> str:
    """One line for the short description and one for each paragraph, masked.

    `own`: names of the package and its source; `hyphenated`: all names of packages with a hyphen.
    """
    text = _EMAIL.sub("[EMAIL]", _unfold(description))
    # names of one letter are words; longest first: "gcc" must not leave "[PKG]-doc" of "gcc-doc"
    lower = text.lower()
    found = {name for name in own if len(name) > 1 and name in lower}
    names = sorted(found, key=lambda name: (-len(name), name))
    if names:  # few texts hold a name: a pattern for each package would take half a minute
        joined = "|".join(re.escape(name) for name in names)
        text = re.sub(f"{_BEFORE}(?:{joined}){_AFTER}", MASK, text, flags=re.I)

    def mask(match: re.Match[str]) -> str:
        name = match[0].rstrip(".+-")
        return MASK + match[0][len(name) :] if name.lower() in hyphenated else match[0]

    return _NAME.sub(mask, text)[:MAX_LETTERS]


def _unfold(description: str) -> str:
    """The lines of a paragraph as one; a line with a single dot parts two paragraphs."""
    short, _, long = description.partition("\n")
    paragraphs: list[list[str]] = [[]]
    for line in long.split("\n"):
        if line.strip() == ".":
            paragraphs.append([])
        elif line.strip():
            paragraphs[-1].append(line.strip())
    return "\n".join([short, *(" ".join(lines) for lines in paragraphs if lines)])
