"""Versions of one protocol side by side: who may play in a conversation of which (RULES.md 15).

Versions are those with the same ``name@major``. Whether agents of one fit conversations of another is
``bus.spec.diff``'s to say; here it is remembered, and a version is chosen for a conversation that opens:
the highest that the opener and one registered player of each role fit. Absent roles constrain nothing,
people neither. Only versions that somebody live plays, and the opener's own, are candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bus.broker.registry import Play, Registry, Session
from bus.spec.change import Misfit
from bus.spec.diff import find_misfits
from bus.spec.protocol import Protocol
from bus.spec.version import version_of

Names = Mapping[str, Sequence[str]]  # role → the only agents that may play it
_NOBODY: frozenset[str] = frozenset()
_SHOWN_MISFITS = 3  # of one role in one direction; more would hide them


class Versions:
    """What is known of the versions of all protocols.

    Args:
        protocols: By digest; the broker adds to it.
        registry: Who is there.
    """

    def __init__(self, protocols: dict[str, Protocol], registry: Registry) -> None:
        self._protocols = protocols
        self._registry = registry
        self._misfits: dict[tuple[str, str, str], tuple[Misfit, ...]] = {}
        self._seen = (-1, -1)  # how many protocols and comings and goings there were at the last look
        self._of_identity: dict[str, list[str]] = {}
        self._played: dict[str, frozenset[str]] = {}
        self._suitable: dict[Play, frozenset[Play]] = {}

    def beside(self, digest: str) -> list[str]:
        """Return the digests of all known versions of that protocol, the given one included."""
        self._look()
        return self._of_identity[self._protocols[digest].identity]

    def misfits(self, digest: str, other: str, role: str) -> tuple[Misfit, ...]:
        """Return why *role*'s agents of *digest* do not fit conversations of *other*; () where they do."""
        if digest == other:
            return ()
        key = (digest, other, role)
        found = self._misfits.get(key)
        if found is None:
            old, new = self._protocols[digest], self._protocols[other]
            found = self._misfits[key] = find_misfits(version_of(old), version_of(new), role)
        return found

    def suitable(self, digest: str, role: int) -> frozenset[Play]:
        """Return every (digest, role) that somebody plays and which may take *role* in a conversation of *digest*."""
        self._look()
        found = self._suitable.get((digest, role))
        if found is None:
            name = self._protocols[digest].roles[role].name
            plays = {(digest, role)}
            for other in self.played(digest):
                names = [one.name for one in self._protocols[other].roles]
                if name in names and not self.misfits(other, digest, name):
                    plays.add((other, names.index(name)))
            found = self._suitable[digest, role] = frozenset(plays)
        return found

    def may_play(self, session: Session, digest: str, role: int) -> bool:
        """Return whether *session* plays what may take *role* in a conversation of *digest*."""
        return not session.plays.isdisjoint(self.suitable(digest, role))

    def understands(self, session: Session, digest: str) -> bool:
        """Return whether a role that *session* plays, or may open with, fits conversations of *digest*."""
        played = {(one, self._protocols[one].roles[role].name) for one, role in session.plays}
        for known in session.protocols:
            if self._protocols[known].identity != self._protocols[digest].identity:
                continue
            roles = [role for one, role in played if one == known]
            for name in roles or [role.name for role in self._protocols[known].roles]:
                if not self.misfits(known, digest, name):
                    return True
        return False

    def played(self, digest: str) -> frozenset[str]:
        """Return the versions of that protocol which somebody live plays."""
        beside = self.beside(digest)
        found = self._played.get(digest)
        if found is None:
            plays = {one for session in self._registry.sessions() for one, _ in session.plays}
            found = self._played[digest] = frozenset(plays.intersection(beside))
        return found

    # -- opening --------------------------------------------------------------------------------------

    def choose(
        self, digest: str, role: str, *, names: Names, without: Session | None = None, own: frozenset[str] = _NOBODY
    ) -> str | None:
        """Return the version for a conversation that *role* of *digest* opens, or None where there is none.

        Args:
            names: Who alone may play which role.
            without: A session that does not count any more.
            own: Other roles of *digest* that the opener plays itself.
        """
        if self.played(digest) <= {digest}:
            return digest
        candidates = {digest, *self.played(digest)}
        order = sorted(candidates, key=lambda one: (self._number(one), one == digest, one), reverse=True)
        for candidate in order:
            plays = own if candidate == digest else _NOBODY
            if not self.misfits(digest, candidate, role) and not self.blocked(candidate, role, names, without, plays):
                return candidate
        return None

    def blocked(
        self, digest: str, role: str, names: Names, without: Session | None = None, own: frozenset[str] = _NOBODY
    ) -> dict[str, list[Session]]:
        """Return role → its players, for each role that is played but by nobody who fits the version *digest*.

        Args:
            role: Who opens, and so plays itself.
            names: As for ``choose``.
            without: As for ``choose``.
            own: As for ``choose``.
        """
        if self.played(digest) <= {digest}:
            return {}
        found = {}
        for index, other in enumerate(self._protocols[digest].roles):
            if other.human or other.name == role or other.name in own:
                continue
            players = self._players(digest, other.name, names.get(other.name, ()), without)
            if players and not any(self.may_play(session, digest, index) for session in players):
                found[other.name] = players
        return found

    def explain(
        self, digest: str, role: str, *, names: Names, without: Session | None = None
    ) -> tuple[str, list[dict[str, object]]]:
        """Return, for people and for programs, why there is no version for what *role* of *digest* would open."""
        own = self._protocols[digest]
        parts: list[str] = []
        facts: list[dict[str, object]] = []
        for other, players in self.blocked(digest, role, names, without).items():
            known: dict[str, str] = {}
            for session in players:
                for theirs, index in session.plays:
                    if theirs in self.beside(digest) and self._protocols[theirs].roles[index].name == other:
                        known.setdefault(theirs, session.name)
            for theirs, name in known.items():
                version = self._protocols[theirs].version
                parts.append(f"{other} of {version}, which {name!r} plays")
                for one, two, who in ((theirs, digest, other), (digest, theirs, role)):
                    for misfit in self.misfits(one, two, who)[:_SHOWN_MISFITS]:
                        facts.append(self._fact(one, two, who, misfit))
        reasons = "; ".join(str(fact["message"]) for fact in facts)
        text = (
            f"{role} of {own.name} {own.version} has no version in common with {', '.join(parts) or 'the others'}"
            f"{': ' if reasons else ''}{reasons}; have both run one version, or give what breaks a new major version"
        )
        return text, facts

    def _fact(self, digest: str, other: str, role: str, misfit: Misfit) -> dict[str, object]:
        version, conversation = self._protocols[digest].version, self._protocols[other].version
        after = f" ({', '.join(misfit.trace)})" if misfit.trace else ""
        return {
            "role": role,
            "version": version,
            "conversation": conversation,
            "rule": misfit.rule,
            "message": f"{role} of {version} in conversations of {conversation} {misfit.reason}{after}",
            "trace": list(misfit.trace),
        }

    # -- parts ----------------------------------------------------------------------------------------

    def _players(self, digest: str, role: str, names: Sequence[str], without: Session | None) -> list[Session]:
        beside = self.beside(digest)
        return [
            session
            for session in self._registry.sessions()
            if session is not without
            and (not names or session.name in names)
            and any(one in beside and self._protocols[one].roles[index].name == role for one, index in session.plays)
        ]

    def _number(self, digest: str) -> tuple[int, ...]:
        return tuple(int(number) for number in self._protocols[digest].version.split("."))

    def _look(self) -> None:
        """Forget what no longer holds where protocols came, or agents came or went, since the last look."""
        seen = (len(self._protocols), self._registry.n_changes)
        if seen == self._seen:
            return
        self._seen = seen
        self._suitable.clear()
        self._played.clear()
        self._of_identity.clear()
        for digest, protocol in self._protocols.items():
            self._of_identity.setdefault(protocol.identity, []).append(digest)
