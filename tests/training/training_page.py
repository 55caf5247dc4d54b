"""docs/training.md as its tests read it: what stands in fences, by section and language."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    Attributes:
        section: The title of the section of the second level that it stands in.
        language: What the fence says, or nothing.
        before: The paragraph before it; "here `NAME`:" at its end says as which file the block is meant.
    """

    section: str
    language: str
    before: str
    text: str

    @property
    def file(self) -> str | None:
        """The name of the file that a reader makes of the block, or None."""
        named = re.search(r"here `(\S+)`:$", self.before)
        return named[1] if named else None


def page_blocks() -> Iterator[Block]:
    """Give every block of the page, in its order."""
    section, before, inside = "", "", None
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if inside is None and line.startswith("```"):
            language, inside = line.removeprefix("```"), []
        elif inside is not None and line == "```":
            yield Block(section, language, before, "".join(f"{one}\n" for one in inside))
            before, inside = "", None
        elif inside is not None:
            inside.append(line)
        elif line.startswith("## "):
            section, before = line.removeprefix("## "), ""
        elif line:
            before = line
    assert inside is None, "the page's last block has no end"


def blocks(section: str, language: str) -> list[str]:
    """Return the blocks of a section in one language."""
    return [one.text for one in page_blocks() if (one.section, one.language) == (section, language)]
