"""One version of a protocol, for comparing with another: what its file says and the tables made of that.

Not a ``Protocol``: of those there is one for each digest, so that of two files which differ in their docs
only the second would be read as the first.
"""

from __future__ import annotations

from dataclasses import dataclass

from bus.spec.compile import check_text
from bus.spec.diagnostic import Severity, spec_error
from bus.spec.projection import project
from bus.spec.protocol import Protocol
from bus.spec.syntax import Delivery, Spec
from bus.spec.tables import Tables


@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """One version of a protocol."""

    spec: Spec
    tables: Tables

    @property
    def label(self) -> str:
        """``name 1.2.0``."""
        return f"{self.spec.protocol} {self.spec.version}"

    @property
    def roles(self) -> tuple[str, ...]:
        """The names of the roles, by index."""
        return tuple(role.name for role in self.spec.roles)

    @property
    def messages(self) -> tuple[str, ...]:
        """The names of the message types, by index."""
        return tuple(message.name for message in self.spec.messages)

    def delivery(self, type: int) -> Delivery:
        """Return the delivery class of a message type."""
        return Delivery(self.spec.messages[type].delivery or self.spec.delivery)


def version_of(protocol: Protocol) -> Version:
    """Return what is compared of *protocol*."""
    return Version(protocol.spec, protocol.tables)


def read_version(text: str, file: str = "<text>") -> Version:
    """Return the version that *text* says; *file* names it in marks.

    Raises:
        SpecError: The text is wrong; warnings do not count.
    """
    spec, diagnostics = check_text(text, file)
    if spec is None:
        raise spec_error([one for one in diagnostics if one.severity is Severity.ERROR])
    return Version(spec, project(spec).tables())
