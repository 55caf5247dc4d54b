"""Reads docs/specs.md: its examples, and the section of each rule. Run as a program it writes in what check says.

    python tests/spec/specs_page.py          # after the words of a rule have changed

An example that lacks the head of a file gets one, as the page tells its readers under "Short examples".
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bus.cli.trace_view import show_finding
from bus.errors import SpecError
from bus.spec.compile import check_path, load_protocol
from bus.spec.diagnostic import Diagnostic

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/specs.md"
EXAMPLE = "example.protocol.yaml"
READING = "How to read a finding"  # its example has a fault

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"#+ (.+)")
_RULE = re.compile(r"[EW]-[A-Z]+(?:-[A-Z]+)*")
_FILE = re.compile(r"# ([a-z][a-z0-9-]*\.protocol\.yaml)\n")
_ARROW = re.compile(r"([a-z][a-z0-9_-]*) -> ([a-z][a-z0-9_-]*(?:, [a-z][a-z0-9_-]*)*)['\"]?: ([A-Z][A-Za-z0-9_]*)")
_END = re.compile(r"\bend: ([a-z][a-z0-9-]*)")
_DRAW = re.compile(r"palaver draw (\S+)\n")


@dataclass(frozen=True, slots=True)
class Fence:
    """A fenced block: what is written behind its fence, its text, and under which heading it stands."""

    kind: str
    text: str
    heading: str
    line: int

    @property
    def file(self) -> str | None:
        """The name of the file that the block is, where it begins with one."""
        match = _FILE.match(self.text)
        return match[1] if match else None


@dataclass(frozen=True, slots=True)
class RuleSection:
    """What the page shows of a rule: an example, what check says of it, the example mended, and files beside them."""

    rule: str
    wrong: Fence
    words: Fence
    mended: Fence
    beside: tuple[Fence, ...]


def page() -> str:
    """Return the text of the page."""
    return PAGE.read_text(encoding="utf-8")


def prose(text: str) -> str:
    """Return *text* with empty lines in place of its fenced blocks."""
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)


def headings(text: str) -> list[tuple[int, str]]:
    """Return (line, title) of every heading, in order."""
    found = enumerate(map(_HEADING.match, prose(text).splitlines()), start=1)
    return [(line, match[1]) for line, match in found if match]


def fences(text: str) -> list[Fence]:
    """Return the fenced blocks of *text* in order."""
    found, titles = [], headings(text)
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        heading = [title for above, title in titles if above < line][-1]
        found.append(Fence(match[1], match[2], heading, line))
    return found


def rules_with_a_section(text: str) -> list[str]:
    """Return the rules that have a heading of their own, in order."""
    return [title for _, title in headings(text) if _RULE.fullmatch(title)]


def rule_sections(text: str) -> Iterator[RuleSection]:
    """Yield the section of every rule that shows examples."""
    blocks = fences(text)
    for rule in rules_with_a_section(text):
        mine = [one for one in blocks if one.heading == rule]
        beside = tuple(one for one in mine if one.file)
        shown = [one for one in mine if not one.file]
        if shown:
            wrong, words, mended = shown
            assert (words.kind, wrong.kind) == ("text", mended.kind), f"{rule}: wrong, what check says, mended"
            yield RuleSection(rule, wrong, words, mended, beside)


def completed(text: str) -> str:
    """Return *text* with the head of a file where it has none, and what its conversation names declared."""
    head = (
        [] if re.search(r"^language:", text, re.MULTILINE) else ["language: 1", "protocol: example", "version: 1.0.0"]
    )
    arrows = _ARROW.findall(text)
    roles = sorted({role for sender, receivers, _ in arrows for role in (sender, *receivers.split(", "))})
    declared = {
        "roles": dict.fromkeys(roles, "{}"),
        "messages": dict.fromkeys(sorted({message for *_, message in arrows}), "{}"),
        "outcomes": dict.fromkeys(sorted(set(_END.findall(text)) - {"failed", "canceled"}), '""'),
    }
    for section, names in declared.items():
        if names and not re.search(rf"^{section}:", text, re.MULTILINE):
            head.append(f"{section}: {{{', '.join(f'{name}: {value}' for name, value in names.items())}}}")
    return "\n".join([*head, text])


def findings(example: Fence, beside: tuple[Fence, ...], folder: Path) -> list[Diagnostic]:
    """Return what ``palaver check`` finds in *example*, or what the command in it is told; files go to *folder*."""
    for one in beside:
        assert one.file is not None
        (folder / one.file).write_text(one.text, encoding="utf-8")
    if example.kind == "sh":
        match = _DRAW.fullmatch(example.text)
        assert match, "expected 'palaver draw NAME' as the command"
        try:
            load_protocol(match[1])
        except SpecError as error:
            return list(error.diagnostics)
        return []
    path = folder / (example.file or EXAMPLE)
    path.write_text(completed(example.text), encoding="utf-8")
    return check_path(path.relative_to(Path.cwd()))[1]


def words(found: list[Diagnostic]) -> str:
    """Return what the page shows of *found*: one line each, without the place."""
    return "".join(str(one).removeprefix(f"{one.mark}: ") + "\n" for one in found)


def shown_finding(text: str, folder: Path) -> tuple[Fence, str]:
    """Return the block that shows how a finding is printed, and what is printed today of the example before it."""
    example, block = [one for one in fences(text) if one.heading == READING]
    path = folder / "notes.protocol.yaml"
    path.write_text(example.text, encoding="utf-8")
    [finding] = check_path(path.relative_to(Path.cwd()))[1]
    lines = show_finding(finding, example.text.splitlines(), width=100)
    return block, "".join(f"{line.plain.rstrip()}\n" for line in lines)


def main() -> None:
    """Write into the page what check says today."""
    text = page()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        block, said = shown_finding(text, Path(folder))
    at = text.index(f"## {READING}\n")
    text = text[:at] + text[at:].replace(f"```text\n{block.text}```", f"```text\n{said}```", 1)
    for section in list(rule_sections(text)):
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            said = words(findings(section.wrong, section.beside, Path(folder)))
        old = f"```text\n{section.words.text}```"
        at = text.index(old, text.index(f"### {section.rule}\n"))
        text = f"{text[:at]}```text\n{said}```{text[at + len(old) :]}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
