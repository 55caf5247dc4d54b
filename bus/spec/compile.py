"""Text to ``Protocol``: strict YAML, parse, checks, message classes, projection, in this order.

One digest gives one ``Protocol`` object in a process, so that its message classes are the same however
often and from wherever it is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from weakref import WeakValueDictionary

from bus.errors import SpecError
from bus.spec.check import BUILT_IN_OUTCOMES, check_names, check_unused, check_uses
from bus.spec.check_choice import check_choices
from bus.spec.check_fields import check_fields
from bus.spec.check_flow import check_flow
from bus.spec.check_order import check_order
from bus.spec.check_overtaking import check_bounds, check_overtaking, check_running_ahead
from bus.spec.check_progress import check_end, check_progress
from bus.spec.check_time import check_deadlines
from bus.spec.diagnostic import Diagnostic, Report, did_you_mean, spec_error
from bus.spec.digest import digest
from bus.spec.loader import load_text, parse_document
from bus.spec.models import Models, message_types
from bus.spec.parse import PROTOCOL_NAME, parse_spec
from bus.spec.projection import Projections, project
from bus.spec.protocol import Protocol
from bus.spec.syntax import Mark, Spec
from bus.spec.unfold import NOT_RUN

SUFFIX = ".protocol.yaml"
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
    return compile_protocol(load_text(path), file=str(path))


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
    """Return the protocol that *text* says; *file* names it in diagnostics. Pure but for its cache.

    Raises:
        SpecError: The text is wrong, or says what this version cannot run yet.
    """
    return _compile(text, file)


def check_text(text: str, file: str = "<text>") -> tuple[Spec | None, list[Diagnostic]]:
    """Return what *text* says and all that is wrong with it, warnings included.

    The spec is None where the text has errors. Never raises.
    """
    examined = _examine(text, file)
    return (None if examined.report.has_errors else examined.spec), examined.report.diagnostics


@dataclass(frozen=True, slots=True)
class _Examined:
    """What the checks saw. *spec* is None where the text is no YAML of ours."""

    spec: Spec | None
    report: Report
    models: Models | None = None
    falls_off: bool = False
    projections: Projections | None = None


def _examine(text: str, file: str) -> _Examined:
    report = Report()
    spec = None
    try:
        spec = parse_spec(parse_document(text, file), text, report)
        return check_spec(spec, report)
    except SpecError as error:  # no YAML of ours, or the report is full
        report.take(error.diagnostics)
        return _Examined(spec, report)


def check_spec(spec: Spec, report: Report) -> _Examined:
    """Check what was parsed; *report* holds what parsing found.

    Raises:
        SpecError: The report is full.
    """
    is_whole = not report.has_errors
    if is_whole or (spec.roles and spec.messages):  # without a section every name in it would be unknown
        check_names(spec, report)
    if not is_whole:
        return _Examined(spec, report)
    misnamed = report.has_errors
    falls_off = check_flow(spec, report)
    check_deadlines(spec, report)
    if not misnamed:  # else a mistyped name would also be told as one that nobody uses, or that decides nothing
        check_choices(spec, report)
        check_uses(spec, report)
    if report.has_errors:
        return _Examined(spec, report)
    models = check_fields(spec, report)
    projections = _check_conversation(spec, report)
    if not report.has_errors:  # else something may be unused because of them
        check_unused(spec, falls_off, report)
    return _Examined(spec, report, models, falls_off, projections)


def _check_conversation(spec: Spec, report: Report) -> Projections | None:
    """Check what needs the automaton and the roles' views; return these where they could be made."""
    try:
        found = project(spec)
    except SpecError as error:
        # What is NOT_RUN is in order, but not for this version to run.
        report.take(diagnostic for diagnostic in error.diagnostics if diagnostic.rule != NOT_RUN)
        return None
    check_order(spec, found, report)
    if not report.has_errors:
        check_overtaking(spec, found, report)
        check_running_ahead(spec, found, report)
    if not report.has_errors:
        check_progress(spec, found, report)
    if not report.has_errors:
        check_bounds(spec, found, report)
        check_end(spec, found, report)
    return found


@lru_cache(maxsize=_CACHED_TEXTS)
def _compile(text: str, file: str) -> Protocol:
    examined = _examine(text, file)
    examined.report.raise_errors()
    spec = examined.spec
    assert spec is not None  # else there are errors
    assert examined.models is not None  # as above
    if spec.imports:
        message = f"imports: this version does not resolve them, got {', '.join(spec.imports)}"
        raise spec_error([Diagnostic(spec.mark, "E-UNSUPPORTED", message, suggestion="copy what you need")])
    name = digest(spec)
    known = _by_digest.get(name)
    if known is not None:
        return known
    outcomes = [name for name, _ in spec.outcomes] + list(BUILT_IN_OUTCOMES)
    if examined.falls_off:
        outcomes.append("done")
    models = examined.models.all()
    protocol = Protocol(
        spec=spec,
        name=spec.protocol,
        version=spec.version,
        digest=name,
        roles=spec.roles,
        messages=message_types(spec, models),
        outcomes=tuple(dict.fromkeys(outcomes)),
        tables=(examined.projections or project(spec)).tables(),
        models=models,
    )
    return _by_digest.setdefault(name, protocol)
