"""Text to ``Protocol``: strict YAML, parse, imports, checks, message classes, projection, in this order.

One digest gives one ``Protocol`` object in a process, so that its message classes are the same however
often and from wherever it is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from weakref import WeakValueDictionary

from bus.errors import SpecError
from bus.spec.bundle import SpecText, join_bundle, split_bundle
from bus.spec.check import BUILT_IN_OUTCOMES, check_names, check_unused, check_uses
from bus.spec.check_call import check_call_points, check_calls
from bus.spec.check_choice import check_choices
from bus.spec.check_counting import check_counting
from bus.spec.check_each import check_members
from bus.spec.check_fields import check_fields
from bus.spec.check_flow import check_flow
from bus.spec.check_full import check_full
from bus.spec.check_mistaken import check_mistaken_events
from bus.spec.check_order import check_order
from bus.spec.check_overtaking import check_bounds, check_overtaking, check_running_ahead
from bus.spec.check_progress import check_end, check_progress
from bus.spec.check_time import check_deadlines
from bus.spec.diagnostic import Diagnostic, Report, did_you_mean, spec_error
from bus.spec.digest import digest
from bus.spec.fetch import MAX_FILES, fetch_bundle
from bus.spec.linker import SUFFIX, Bundle, SpecFile, check_imports, link, prune, read_spec
from bus.spec.models import Models, message_types
from bus.spec.parse import PROTOCOL_NAME
from bus.spec.projection import Projections, project
from bus.spec.protocol import Protocol
from bus.spec.syntax import Mark, Spec

SPECS_VARIABLE = "PALAVER_SPECS"
_CACHED_TEXTS = 64  # a broker is handed texts by its peers: bounded

_by_digest: WeakValueDictionary[str, Protocol] = WeakValueDictionary()


def load_protocol(name_or_path: str | Path, *, search: Sequence[Path] = ()) -> Protocol:
    """Return the protocol of a spec.

    Args:
        name_or_path: ``"newsroom"``, which is looked for as ``newsroom.protocol.yaml`` in *search*, the folder
            in ``PALAVER_SPECS``, ``specs/``, the present folder and the specs that come with palaver; or a path.
        search: Folders to look in first.

    Raises:
        SpecError: There is no such spec, or it is wrong; the text names each place and what to do.
    """
    path = find_protocol(name_or_path, search=search)
    return _compile(fetch_bundle(path, [*search, *spec_folders()]))


def find_protocol(name_or_path: str | Path, *, search: Sequence[Path] = ()) -> Path:
    """Return where the spec is that ``load_protocol`` would load.

    Raises:
        SpecError: *name_or_path* is a bare name and no folder has it.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or not PROTOCOL_NAME.fullmatch(text):
        return Path(name_or_path)
    folders = [*search, *spec_folders()]
    for folder in folders:
        path = folder / (text + SUFFIX)
        if path.is_file():
            return path
    known = sorted({file.name.removesuffix(SUFFIX) for folder in folders for file in folder.glob(f"*{SUFFIX}")})
    message = f"expected the name of a protocol ({', '.join(known) or 'none found'}) or a path, got {text!r}"
    mark = Mark(text + SUFFIX, 1, 1)
    raise spec_error([Diagnostic(mark, "E-UNKNOWN-PROTOCOL", message, suggestion=did_you_mean(text, known))])


def spec_folders() -> list[Path]:
    """Return the folders in which bare names are looked for, nearest first."""
    variable = os.environ.get(SPECS_VARIABLE)
    package = Path(__file__).parents[1]
    return [
        *([Path(variable)] if variable else []),
        Path("specs"),
        Path(),
        package / "project" / "specs",  # installed
        package.parent / "specs",  # a checkout
    ]


def compile_protocol(text: str, *, file: str = "<text>") -> Protocol:
    """Return the protocol that *text*, one file's or a bundle, says; *file* names it in diagnostics.

    Pure but for its cache: what the text needs and does not hold is not looked for.

    Raises:
        SpecError: The text is wrong, or says what this version cannot run yet.
    """
    return _compile(split_bundle(text, file))


def check_text(text: str, file: str = "<text>") -> tuple[Spec | None, list[Diagnostic]]:
    """Return what *text*, one file's or a bundle, says and all that is wrong with it, warnings included.

    The spec is None where the text has errors. Never raises.
    """
    return _check(split_bundle(text, file))


def check_path(path: Path) -> tuple[Spec | None, list[Diagnostic]]:
    """Do as ``check_text`` with the file at *path*, and those that it imports or calls.

    Raises:
        SpecError: One of them cannot be read.
    """
    return _check(fetch_bundle(path, spec_folders()))


def _check(texts: tuple[SpecText, ...]) -> tuple[Spec | None, list[Diagnostic]]:
    compiler = Compiler(texts)
    examined = compiler.examine(compiler.first)
    return (None if examined.report.has_errors else examined.spec), examined.report.diagnostics


@dataclass(frozen=True, slots=True)
class _Examined:
    """What the checks saw. *spec* is None where the text is no YAML of ours."""

    spec: Spec | None
    report: Report
    models: Models | None = None
    falls_off: bool = False
    projections: Projections | None = None
    callees: dict[str, Protocol] = field(default_factory=dict)


class Compiler:
    """The files of one bundle: each is examined once, however many call it."""

    def __init__(self, texts: tuple[SpecText, ...]) -> None:
        self._bundle = Bundle([read_spec(one) for one in texts[:MAX_FILES]])
        self.first = self._bundle.files[0]
        self._n_files = len(texts)
        self._done: dict[SpecFile, Protocol | SpecError] = {}

    def examine(self, file: SpecFile) -> _Examined:
        """Check *file* with all that it needs. Never raises."""
        report = Report()
        try:
            return self._examine(file, report)
        except SpecError as error:  # the report is full
            report.take(error.diagnostics)
            return _Examined(file.spec, report)

    def _examine(self, file: SpecFile, report: Report) -> _Examined:
        report.take(file.findings)
        if self._n_files > MAX_FILES:
            text = f"expected at most {MAX_FILES} files in one bundle, got {self._n_files}"
            report.error(Mark(file.source.file, 1, 1), "E-TOO-MANY-FILES", text)
        if file.spec is None:
            return _Examined(None, report)
        is_whole = not report.has_errors
        spec = link(file, self._bundle, report)
        if is_whole and report.has_errors:  # else every name that an import should bring would be unknown
            return _Examined(spec, report)
        if is_whole or (spec.roles and spec.messages):  # without a section every name in it would be unknown
            check_names(spec, report)
        if not is_whole:
            return _Examined(spec, report)
        misnamed = report.has_errors
        pruned = spec if misnamed else prune(spec, file)
        if pruned.library:
            return self._library(pruned, file, report)
        return self._protocol(pruned, file, report, misnamed=misnamed)

    def compile(self, file: SpecFile) -> Protocol:
        """Return the protocol that *file* says.

        Raises:
            SpecError: It is wrong, no protocol, or says what this version cannot run yet.
        """
        found = self._done.get(file)
        if found is None:
            try:
                found = self._compile(file)
            except SpecError as error:
                found = error
            self._done[file] = found
        if isinstance(found, SpecError):
            raise found
        return found

    def _library(self, spec: Spec, file: SpecFile, report: Report) -> _Examined:
        if not report.has_errors:
            check_fields(spec, report)
            check_imports(spec, file, self._bundle, report)
        return _Examined(spec, report)

    def _protocol(self, spec: Spec, file: SpecFile, report: Report, *, misnamed: bool) -> _Examined:
        falls_off = check_flow(spec, report)
        check_deadlines(spec, report)
        callees: dict[str, Protocol] = {}
        if not misnamed:  # else a mistyped name would also be told as one that nobody uses, or that decides nothing
            check_choices(spec, report)
            check_members(spec, report)
            check_uses(spec, report)
            callees = check_calls(spec, file, self._bundle, self.compile, report)
        if report.has_errors:
            return _Examined(spec, report)
        models = check_fields(spec, report)
        projections = _check_conversation(spec, report)
        if not report.has_errors:  # else something may be unused because of them
            check_unused(spec, falls_off, report)
            check_imports(spec, file, self._bundle, report)
        return _Examined(spec, report, models, falls_off, projections, callees)

    def _compile(self, file: SpecFile) -> Protocol:
        examined = self.examine(file)
        examined.report.raise_errors()
        spec = examined.spec
        assert spec is not None  # else there are errors
        if spec.library:
            text = f"{spec.protocol!r} is a library: it has no conversation to open"
            raise spec_error([Diagnostic(spec.mark, "E-LIBRARY", text, suggestion="import it into a protocol")])
        name = digest(spec, {text: callee.digest for text, callee in examined.callees.items()})
        known = _by_digest.get(name)
        if known is not None:
            return known
        outcomes = [name for name, _ in spec.outcomes] + list(BUILT_IN_OUTCOMES)
        if examined.falls_off:
            outcomes.append("done")
        needed, _ = self._bundle.reached(file)
        assert examined.models is not None  # as above
        models = examined.models.all()
        protocol = Protocol(
            spec=replace(spec, source=join_bundle(one.source for one in needed)),
            name=spec.protocol,
            version=spec.version,
            digest=name,
            roles=spec.roles,
            messages=message_types(spec, models),
            outcomes=tuple(dict.fromkeys(outcomes)),
            tables=(examined.projections or project(spec)).tables(),
            models=models,
            callees=examined.callees,
        )
        return _by_digest.setdefault(name, protocol)


def _check_conversation(spec: Spec, report: Report) -> Projections | None:
    """Check what needs the automaton and the roles' views; return these where they could be made."""
    try:
        found = project(spec)
    except SpecError as error:
        report.take(error.diagnostics)
        return None
    check_order(spec, found, report)
    if not report.has_errors:
        check_call_points(spec, found, report)
    if not report.has_errors:
        check_overtaking(spec, found, report)
        check_mistaken_events(spec, found, report)
        check_running_ahead(spec, found, report)
        check_counting(spec, found, report)
    if not report.has_errors:
        check_progress(spec, found, report)
        check_full(spec, found, report)
    if not report.has_errors:
        check_bounds(spec, found, report)
        check_end(spec, found, report)
    return found


@lru_cache(maxsize=_CACHED_TEXTS)
def _compile(texts: tuple[SpecText, ...]) -> Protocol:
    compiler = Compiler(texts)
    return compiler.compile(compiler.first)
