"""Links a spec with the files that it imports: finds them in a bundle and brings their declarations in.

Names come in as they are, so a name may be declared once only. What an import brings and nobody uses is left
out again (``prune``): a protocol does not change with a library's other messages.
Pure; ``fetch`` is what finds files on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from bus.errors import SpecError
from bus.spec.bundle import SpecText
from bus.spec.diagnostic import DUPLICATE, Diagnostic, Report, Severity
from bus.spec.loader import parse_document
from bus.spec.node import ListNode, MapNode, Node
from bus.spec.parse import VERSION, is_field, parse_spec
from bus.spec.reference import Reference, Version, parse_reference, parse_version
from bus.spec.syntax import Call, Import, MessageDeclaration, Spec, Struct
from bus.spec.walk import sends, steps

SUFFIX = ".protocol.yaml"
UNKNOWN_IMPORT, IMPORT_CYCLE, BAD_IMPORT = "E-UNKNOWN-IMPORT", "E-IMPORT-CYCLE", "E-BAD-IMPORT"

Declaration: TypeAlias = MessageDeclaration | Struct


@dataclass(frozen=True, slots=True, eq=False)
class SpecFile:
    """One text of a bundle, read by itself.

    Attributes:
        document: None where the text is no YAML of ours.
        spec: What it says, or None; imports are not brought in.
        findings: What is wrong with its form.
    """

    source: SpecText
    document: Node | None
    spec: Spec | None
    findings: tuple[Diagnostic, ...]

    @property
    def name(self) -> str:
        """The name that it declares; where that cannot be read, the one in the file's name."""
        name = self.spec.protocol if self.spec is not None else ""
        return name or self.source.file.rpartition("/")[2].removesuffix(SUFFIX)

    @property
    def version(self) -> Version | None:
        """The version that it declares, or None where that cannot be read."""
        text = self.spec.version if self.spec is not None else ""
        return parse_version(text) if VERSION.fullmatch(text) else None

    @property
    def errors(self) -> list[Diagnostic]:
        """The findings that refuse it."""
        return [one for one in self.findings if one.severity is Severity.ERROR]


def read_spec(source: SpecText) -> SpecFile:
    """Return what *source* says, with whatever is wrong with its form. Never raises."""
    report = Report()
    try:
        document = parse_document(source.text, source.file)
    except SpecError as error:
        return SpecFile(source, None, None, error.diagnostics)
    try:
        spec = parse_spec(document, source.text, report)
    except SpecError as error:  # the report is full
        return SpecFile(source, document, None, error.diagnostics)
    return SpecFile(source, document, spec, tuple(report.diagnostics))


class Bundle:
    """The files among which references are resolved; the first is the one that is wanted."""

    def __init__(self, files: Iterable[SpecFile]) -> None:
        self.files = tuple(files)

    def find(self, reference: Reference) -> SpecFile | None:
        """Return the highest version in range, else a file of that name whose version cannot be read, or None."""
        fitting = [
            (file.version, file)
            for file in self.files
            if file.name == reference.name and (file.version is None or reference.fits(file.version))
        ]
        return max(fitting, key=lambda one: one[0] or (-1, -1, -1))[1] if fitting else None

    def others(self, reference: Reference) -> list[str]:
        """Return what there is of that name out of range, for people."""
        found = [file for file in self.files if file.name == reference.name and file.spec is not None]
        return [f"{file.spec.version} ({file.source.file})" for file in found if file.spec is not None]

    def reached(self, first: SpecFile) -> tuple[list[SpecFile], list[tuple[SpecFile, Reference]]]:
        """Return the files that *first* needs, itself first, and who asks for what is not there."""
        found: list[SpecFile] = [first]
        missing: list[tuple[SpecFile, Reference]] = []
        waiting = [(first, True)]  # (file, whether its calls count: those of an imported file do not)
        seen = set(waiting)
        for file, is_run in waiting:
            called = calls_of(file) if is_run else []
            wanted = [(one, False) for one in imports_of(file)] + [(one, True) for one in called]
            for reference, runs in wanted:
                target = self.find(reference)
                if target is None:
                    missing.append((file, reference))
                elif (target, runs) not in seen:
                    seen.add((target, runs))
                    waiting.append((target, runs))
                    if target not in found:
                        found.append(target)
        return found, missing


def imports_of(file: SpecFile) -> list[Reference]:
    """Return what *file* imports."""
    return [parse_reference(one.text) for one in file.spec.imports] if file.spec is not None else []


def calls_of(file: SpecFile) -> list[Reference]:
    """Return what the steps of *file* call."""
    if file.spec is None:
        return []
    return [parse_reference(step.protocol) for step in steps(file.spec.conversation) if isinstance(step, Call)]


def declarations(spec: Spec) -> list[Declaration]:
    """Return the messages and types of *spec*."""
    return [*spec.messages, *spec.types]


def briefly(target: SpecFile, errors: list[Diagnostic]) -> str:
    """Return what is wrong with *target*, in a sentence for the file that needs it."""
    count = "an error" if len(errors) == 1 else f"{len(errors)} errors, the first"
    return f"{target.source.file} has {count}: {errors[0]}"


@dataclass(slots=True)
class _Linking:
    """One file's imports while they are resolved. *visible*: declarations by name, each with the file it is from."""

    main: SpecFile
    bundle: Bundle
    report: Report
    visible: dict[str, tuple[Declaration, SpecFile]] = field(default_factory=dict)
    done: set[SpecFile] = field(default_factory=set)

    def bring(self, file: SpecFile, at: Import | None, path: tuple[SpecFile, ...]) -> None:
        """Make visible what *file* imports. *at*: the import of the main file that leads here."""
        assert file.spec is not None
        for one in file.spec.imports:
            here = at or one
            target = self.target(one, here, file)
            if target is None:
                continue
            if target in path:
                names = " imports ".join(each.name for each in (*path[path.index(target) :], target))
                hint = "move what both need into a third file"
                self.report.error(here.mark, IMPORT_CYCLE, f"imports: {names}", suggestion=hint)
            elif target not in self.done:
                self.done.add(target)
                self.bring(target, here, (*path, target))
                assert target.spec is not None
                for declared in declarations(target.spec):
                    self.declare(declared, target, here)

    def target(self, wanted: Import, here: Import, file: SpecFile) -> SpecFile | None:
        """Return the file that *wanted* means, or tell what is wrong with it at *here*."""
        reference = parse_reference(wanted.text)
        target = self.bundle.find(reference)
        through = "" if file is self.main else f" (which {file.source.file} imports)"
        if target is None:
            self.report.add(not_found(here, reference, self.bundle, UNKNOWN_IMPORT, f"imports{through}"))
            return None
        if target.spec is None or target.errors:
            text = f"imports{through}: {briefly(target, target.errors)}"
            self.report.error(here.mark, BAD_IMPORT, text, suggestion="mend that file first")
            return None
        return target

    def declare(self, declared: Declaration, origin: SpecFile, here: Import) -> None:
        """Make one name visible, or tell that it is declared already."""
        known = self.visible.setdefault(declared.name, (declared, origin))
        if known[0] is declared:
            return
        own = known[1] is self.main
        mark = known[0].mark if own else here.mark
        first, second = ("declared here", here.text) if own else (str(known[0].mark), here.text)
        text = f"{declared.name!r} has two declarations: {first}, and {declared.mark}, which {second} brings in"
        self.report.error(mark, DUPLICATE, text, suggestion="rename one of them, or drop the import")


def not_found(here: Import | Call, wanted: Reference, bundle: Bundle, rule: str, where: str) -> Diagnostic:
    """Return the finding that *wanted* is nowhere, or in no version that fits."""
    others = bundle.others(wanted)
    if others:
        text = f"{where}: expected a version of {wanted.name!r} that fits {wanted.text!r}, found {', '.join(others)}"
        hint = "ask for a range that there is, or add that version"
    else:
        text = f"{where}: expected {wanted.text!r}, found no {wanted.name}{SUFFIX}"
        hint = "put it beside this file or into a folder of specs"
    return Diagnostic(here.mark, rule, text, suggestion=hint)


def link(main: SpecFile, bundle: Bundle, report: Report) -> Spec:
    """Return the spec of *main*, which has one, together with all that its imports declare.

    What is wrong with the imports goes to *report*; the spec then has what could be brought in.
    """
    spec = main.spec
    assert spec is not None
    if not spec.imports:
        return spec
    linking = _Linking(main, bundle, report)
    for declared in declarations(spec):
        linking.visible.setdefault(declared.name, (declared, main))
    linking.bring(main, None, (main,))
    messages, types = list(spec.messages), list(spec.types)
    for declaration, origin in linking.visible.values():
        if origin is main:
            continue
        if isinstance(declaration, MessageDeclaration):
            messages.append(_as_declared(declaration, origin, spec))
        else:
            types.append(declaration)
    linked = replace(spec, messages=tuple(messages), types=tuple(types))
    if not report.has_errors:
        linked = replace(linked, keys=_known_keys(main, linked, report))
    return linked


def _as_declared(message: MessageDeclaration, origin: SpecFile, spec: Spec) -> MessageDeclaration:
    """Return *message* with the delivery class that it has in the file it is from."""
    assert origin.spec is not None
    if message.delivery is not None or origin.spec.delivery == spec.delivery:
        return message
    return replace(message, delivery=origin.spec.delivery)


def _known_keys(main: SpecFile, linked: Spec, report: Report) -> tuple[str, ...]:
    node = main.document.get("keys") if isinstance(main.document, MapNode) else None
    marks = [item.mark for item in node.items] if isinstance(node, ListNode) else []
    return tuple(
        name for mark, name in zip(marks, linked.keys, strict=False) if is_field(mark, name, linked.messages, report)
    )


def prune(linked: Spec, main: SpecFile) -> Spec:
    """Return *linked* without what its imports brought and it does not use."""
    own = main.spec
    assert own is not None
    if not own.imports:
        return linked
    mine = {one.name for one in declarations(own)}
    said = {send.message for send in sends(linked.conversation)}
    messages = tuple(one for one in linked.messages if one.name in mine or one.name in said)
    used = types_used((*messages, *own.types), linked.types)
    types = tuple(one for one in linked.types if one.name in mine or one.name in used)
    return replace(linked, messages=messages, types=types)


def types_used(by: Iterable[Declaration], types: tuple[Struct, ...]) -> set[str]:
    """Return the names of the *types* that the fields of *by* have, and the fields of these, and so on."""
    named = {struct.name: struct for struct in types}
    used: set[str] = set()
    waiting = list(by)
    while waiting:
        for one in waiting.pop().fields:
            name = one.type.name if one.type is not None else ""
            if name in named and name not in used:
                used.add(name)
                waiting.append(named[name])
    return used


def check_imports(pruned: Spec, main: SpecFile, bundle: Bundle, report: Report) -> None:
    """Warn of imports of which nothing is used: W-UNUSED-IMPORT. All of them are there and in order."""
    used = {one.mark.file for one in declarations(pruned)}
    called = [bundle.find(one) for one in calls_of(main)]
    assert main.spec is not None
    for one in main.spec.imports:
        target = bundle.find(parse_reference(one.text))
        if target is None or target in called or used & set(_files_below(target, bundle)):
            continue
        text = f"imports: nothing of {one.text!r} is used"
        report.warn(one.mark, "W-UNUSED-IMPORT", text, suggestion="remove it")


def _files_below(target: SpecFile, bundle: Bundle) -> Iterator[str]:
    """Yield the names of *target* and of all that it imports."""
    waiting, seen = [target], {target}
    for file in waiting:
        yield file.source.file
        for one in map(bundle.find, imports_of(file)):
            if one is not None and one not in seen:
                seen.add(one)
                waiting.append(one)
