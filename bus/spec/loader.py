"""Strict YAML in, frozen nodes out; the only user of yaml and the only part of ``spec`` that reads files.

Pure-Python scanner and parser (the C one crashes on deep input), the scalars of the YAML 1.2 core schema
only (``on`` and ``NO`` are text, ``12:30`` too), no tags, anchors, aliases, merge keys, directives, second
documents, duplicate keys, infinities. LANGUAGE.md, "YAML", tells what went wrong without each of these.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.error import Mark as YamlMark
from yaml.events import (
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    StreamStartEvent,
)
from yaml.parser import Parser, ParserError
from yaml.reader import Reader as YamlReader
from yaml.reader import ReaderError
from yaml.scanner import Scanner
from yaml.tokens import (
    BlockEntryToken,
    BlockMappingStartToken,
    BlockSequenceStartToken,
    FlowMappingStartToken,
    FlowSequenceStartToken,
    ScalarToken,
)

from bus.errors import SpecError
from bus.spec.diagnostic import DUPLICATE, SYNTAX, Diagnostic, Report, spec_error
from bus.spec.node import Entry, ListNode, MapNode, Node, ScalarNode, show
from bus.spec.syntax import Mark

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
_MAX_DIGITS = 40  # longer numbers mean nothing to anybody, and int() is quadratic

# YAML 1.2.2, section 10.3.2 (core schema tag resolution).
_NULL = re.compile(r"null|Null|NULL|~|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_LINE_END = re.compile("\r\n|\n|\r")
_BLANK = re.compile("[ ]*(?:#[^\0\r\n]*)?")
_RUN = re.compile("(?:[^\0 \t\r\n:]|:(?![\0 \t\r\n]))+")
_FLOW_RUN = re.compile("(?:[^\0 \t\r\n:,?\\[\\]{}]|:(?![\0 \t\r\n,\\[\\]{}]))+")
_SURROGATE = re.compile("[\ud800-\udfff]")
# YAML 1.1 ends lines with these, YAML 1.2 and editors do not: every line number behind one would be disputed.
_OLD_LINE_END = re.compile("[\u0085\u2028\u2029]")
_TOO_DEEP = f"expected at most {MAX_DEPTH} levels, got more"
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def load_document(path: Path) -> Node:
    """Return the document in the file at *path*.

    Raises:
        SpecError: Missing, no plain file, too large, not UTF-8, or not the YAML that we accept.
    """
    return parse_document(load_text(path), str(path))


def load_text(path: Path) -> str:
    """Return the text of the file at *path*.

    Raises:
        SpecError: Missing, no plain file, unreadable, above ``MAX_BYTES`` or not UTF-8.
    """
    start = Mark(str(path), 1, 1)
    try:
        # O_NONBLOCK: opening a pipe nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _refusal(start, "expected a plain file, got a folder, device or pipe")
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise _refusal(start, f"expected a file that can be read, got: {reason}") from error
    if len(data) > MAX_BYTES:
        raise _refusal(start, f"expected at most {MAX_BYTES} bytes, got more")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        at = _place(str(path), data[: error.start].decode("utf-8"), error.start)
        raise _refusal(at, f"expected UTF-8, got the byte 0x{data[error.start]:02x}") from error


def parse_document(text: str, file: str = "<text>") -> Node:
    """Return the one document in *text*; *file* names it in marks. Pure.

    Raises:
        SpecError: Not the YAML that we accept; all duplicate keys, anchors and tags are told at once.
    """
    start = Mark(file, 1, 1)
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise _refusal(start, f"expected at most {MAX_BYTES} bytes, got {size}")
    report = Report()
    old = _OLD_LINE_END.search(text)
    if old is not None:
        problem = f"expected line feeds between lines, got #x{ord(old[0]):04x}"
        raise _refusal(_place(file, text, old.start()), problem, f'inside text write "\\u{ord(old[0]):04x}" for it')
    try:
        node = _Composer(_Events(text, file), file, report).document()
    except ReaderError as error:
        problem = f"a character that YAML forbids: #x{error.character:04x}"
        raise _refusal(_place(file, text, error.position), problem) from error
    except yaml.MarkedYAMLError as error:
        problem = " ".join(part for part in (error.problem, error.context) if part)
        raise _refusal(_mark(file, error.problem_mark or error.context_mark), f"not YAML: {problem}") from error
    except (ValueError, OverflowError) as error:  # the scanner's chr() of an escape beyond Unicode
        raise _refusal(start, f"not YAML: {error}") from error
    report.raise_errors()
    return node


def split_lines(text: str) -> list[str]:
    """Return the lines of *text* as marks count them."""
    return _LINE_END.split(text)


def _place(file: str, text: str, offset: int) -> Mark:
    before = split_lines(text[:offset])
    return Mark(file, len(before), len(before[-1]) + 1)


def _refusal(mark: Mark, message: str, suggestion: str | None = None) -> SpecError:
    return spec_error([Diagnostic(mark, SYNTAX, message, suggestion=suggestion)])


def _mark(file: str, mark: YamlMark | None) -> Mark:
    return Mark(file, mark.line + 1, mark.column + 1) if mark is not None else Mark(file, 1, 1)


def _begin(event: Event) -> YamlMark | None:
    mark = event.start_mark
    return mark if isinstance(mark, YamlMark) else None  # the C parser's marks are typed apart


class _Events(YamlReader, Scanner, Parser):
    """Events of pure-Python YAML, without anchors, aliases, tags and directives.

    What can be told from one character, and depth in brackets, is refused here, before anything is built: the
    scanner looks ahead through brackets for a key, and nothing is read for which there is no use. Block depth needs
    no look-ahead; the composer counts it event by event.

    The methods that are called for each token and node are PyYAML's, but shorter by what cannot happen here: they
    take half of the time.
    """

    def __init__(self, text: str, file: str) -> None:
        self._file = file
        YamlReader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)

    def refuse(self, message: str) -> NoReturn:
        """Refuse the document where the scanner stands."""
        raise _refusal(_mark(self._file, self.get_mark()), message)

    def fetch_flow_collection_start(self, TokenClass: type) -> None:
        """Scan ``[`` or ``{``."""
        if self.flow_level >= MAX_DEPTH:
            self.refuse(_TOO_DEEP)
        super().fetch_flow_collection_start(TokenClass)

    def fetch_anchor(self) -> None:
        """Refuse ``&name``."""
        self.refuse(f"anchors are not allowed here, got {self._word()!r}")

    def fetch_alias(self) -> None:
        """Refuse ``*name``."""
        self.refuse(f"aliases are not allowed here, got {self._word()!r}")

    def fetch_tag(self) -> None:
        """Refuse ``!name``."""
        self.refuse(f"tags are not allowed here, got {self._word()!r}")

    def fetch_directive(self) -> None:
        """Refuse ``%YAML`` and the like."""
        self.refuse(f"directives are not allowed here, got {self._word()!r}")

    def _word(self) -> str:
        return str(self.prefix(40)).split()[0].rstrip("\0,]}")

    def scan_to_next_token(self) -> None:
        """Go on behind spaces, comments and ends of lines."""
        if self.index == 0 and self.peek() == "\ufeff":
            self.forward()
        while True:
            self._pass(_BLANK)
            if not self.scan_line_break():  # type: ignore[no-untyped-call]  # its stub has no types
                return
            if not self.flow_level:
                self.allow_simple_key = True

    def scan_plain(self) -> ScalarToken:
        """Return the text without quotes that begins here."""
        chunks: list[str] = []
        begin = end = self.get_mark()
        spaces: list[str] | None = []
        while self.peek() != "#":
            run = self._pass(_FLOW_RUN if self.flow_level else _RUN)
            if not run:
                break
            self.allow_simple_key = False
            chunks += spaces or ()
            chunks.append(run)
            end = self.get_mark()
            spaces = self.scan_plain_spaces(self.indent + 1, begin)
            if not spaces or (not self.flow_level and self.column <= self.indent):
                break
        return ScalarToken("".join(chunks), True, begin, end)

    def _pass(self, pattern: re.Pattern[str]) -> str:
        """Go on behind what *pattern*, in which no line ends, matches here; return that."""
        match = pattern.match(self.buffer, self.pointer)
        passed = match[0] if match else ""
        self.pointer += len(passed)
        self.index += len(passed)
        self.column += len(passed) - passed.count("\ufeff")
        return passed

    def need_more_tokens(self) -> bool:
        """Return whether the next token is not there yet, or could turn out to be a key."""
        if self.done or (self.tokens and not self.possible_simple_keys):
            return False
        return bool(super().need_more_tokens())

    def check_token(self, *choices: Any) -> bool:  # as the stubs of yaml say it
        """Return whether the next token is one of *choices*, or any."""
        while self.need_more_tokens():
            self.fetch_more_tokens()
        return bool(self.tokens) and (not choices or isinstance(self.tokens[0], choices))

    def parse_node(self, block: bool = False, indentless_sequence: bool = False) -> Event:
        """Return the event with which the next node begins."""
        token = self.peek_token()  # type: ignore[no-untyped-call]  # its stub has no types
        begin, end = token.start_mark, token.end_mark
        if indentless_sequence and isinstance(token, BlockEntryToken):
            self.state = self.parse_indentless_sequence_entry
            return SequenceStartEvent(None, None, True, begin, end)
        if isinstance(token, ScalarToken):
            self.get_token()  # type: ignore[no-untyped-call]  # as above
            self.state = self.states.pop()
            return ScalarEvent(None, None, (token.plain, not token.plain), token.value, begin, end, style=token.style)
        if isinstance(token, FlowSequenceStartToken):
            self.state = self.parse_flow_sequence_first_entry
            return SequenceStartEvent(None, None, True, begin, end, flow_style=True)
        if isinstance(token, FlowMappingStartToken):
            self.state = self.parse_flow_mapping_first_key
            return MappingStartEvent(None, None, True, begin, end, flow_style=True)
        if block and isinstance(token, BlockSequenceStartToken):
            self.state = self.parse_block_sequence_first_entry
            return SequenceStartEvent(None, None, True, begin, begin, flow_style=False)
        if block and isinstance(token, BlockMappingStartToken):
            self.state = self.parse_block_mapping_first_key
            return MappingStartEvent(None, None, True, begin, begin, flow_style=False)
        raise ParserError(None, None, f"expected a value, but found {token.id!r}", begin)


class _Composer:
    """Builds nodes from events; recursion is bounded by ``MAX_DEPTH``."""

    def __init__(self, events: _Events, file: str, report: Report) -> None:
        self._events: Iterator[Event] = iter(events.get_event, None)
        self._file = file
        self._report = report

    def document(self) -> Node:
        """Return the only document of the stream."""
        node: Node | None = None
        for event in self._events:
            mark = _mark(self._file, _begin(event))
            if isinstance(event, StreamStartEvent | DocumentEndEvent):
                continue
            if isinstance(event, StreamEndEvent):
                break
            if isinstance(event, DocumentStartEvent):
                if node is not None:
                    raise _refusal(mark, "expected one document, got a second one")
                continue
            node = self._node(event, 1)
        if node is None:
            raise _refusal(Mark(self._file, 1, 1), "expected a document, got an empty file")
        return node

    def _node(self, event: Event, depth: int) -> Node:
        mark = _mark(self._file, _begin(event))
        if depth > MAX_DEPTH:
            raise _refusal(mark, _TOO_DEEP)
        if isinstance(event, ScalarEvent):
            return self._scalar(event, mark)
        if isinstance(event, SequenceStartEvent):
            return self._list(mark, depth)
        assert isinstance(event, MappingStartEvent)  # the parser yields no other event here
        return self._map(mark, depth)

    def _list(self, mark: Mark, depth: int) -> ListNode:
        items: list[Node] = []
        for event in self._events:
            if isinstance(event, SequenceEndEvent):
                break
            items.append(self._node(event, depth + 1))
        return ListNode(mark, tuple(items))

    def _map(self, mark: Mark, depth: int) -> MapNode:
        entries: dict[str, Entry] = {}
        for event in self._events:
            if isinstance(event, MappingEndEvent):
                break
            key = self._key(event, depth + 1)
            value = self._node(next(self._events), depth + 1)
            if key is None:
                continue
            if key.value in entries:
                first = entries[str(key.value)].mark
                message = f"the key {show(key)} stands here a second time; first in line {first.line}"
                self._report.error(key.mark, DUPLICATE, message)
                continue
            entries[str(key.value)] = Entry(key.mark, str(key.value), value)
        return MapNode(mark, tuple(entries.values()))

    def _key(self, event: Event, depth: int) -> ScalarNode | None:
        key = self._node(event, depth)
        if isinstance(key, ScalarNode) and key.value == "<<" and not key.quoted:
            self._refuse(key.mark, "merge keys are not allowed here, got '<<'")
            return None
        if isinstance(key, ScalarNode) and isinstance(key.value, str):
            return key
        self._refuse(key.mark, f"expected text as key, got {show(key)}", "put it in quotes if you mean text")
        return None

    def _scalar(self, event: ScalarEvent, mark: Mark) -> ScalarNode:
        text: str = event.value
        if not text.isascii() and _SURROGATE.search(text):
            self._refuse(mark, "expected Unicode text, got half of a surrogate pair")
            text = ""
        if event.style is not None:
            return ScalarNode(mark, text, quoted=True)
        if _NULL.fullmatch(text):
            return ScalarNode(mark, None)
        if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
            return ScalarNode(mark, text[0] in "tT")
        if not _INT.fullmatch(text) and not _FLOAT.fullmatch(text) and not _NOT_FINITE.fullmatch(text):
            return ScalarNode(mark, text)
        return ScalarNode(mark, self._number(text, mark))

    def _number(self, text: str, mark: Mark) -> int | float:
        if len(text) <= _MAX_DIGITS and _INT.fullmatch(text):
            if text[:2] in ("0o", "0x"):
                return int(text, 0)
            return int(text)  # 017 is seventeen in YAML 1.2
        value = float(text) if len(text) <= _MAX_DIGITS and not _NOT_FINITE.fullmatch(text) else float("inf")
        if value in (float("inf"), float("-inf")):
            self._refuse(mark, f"expected a finite number of at most {_MAX_DIGITS} characters, got {text[:20]!r}")
            return 0
        return value

    def _refuse(self, mark: Mark, message: str, suggestion: str | None = None) -> None:
        self._report.error(mark, SYNTAX, message, suggestion=suggestion)
