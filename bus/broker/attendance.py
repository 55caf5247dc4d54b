"""Sessions come and go: HELLO, HEARTBEAT, CREDIT, BYE, and those that fall silent."""

from __future__ import annotations

from collections import deque

from bus.broker.admission import Admission
from bus.broker.conversation import Conversation
from bus.broker.delivery import DeliveryState
from bus.broker.dispatch import Dispatch
from bus.broker.entry import BUS
from bus.broker.history import History
from bus.broker.mailbox import Mailbox
from bus.broker.registry import Play, Session
from bus.broker.state import Alarm, BrokerState
from bus.errors import SpecError
from bus.ids import derive_id
from bus.spec.mode import not_enforced
from bus.spec.tables import ScopeTable
from bus.wire.record import WIRE_VERSION, Kind, Record, fits

_PLAY_SHAPE = ((int,), (str,))
_HELD_SHAPE = ((bytes,), (int,), (int,), (int,), (bytes,))
MAX_CREDIT = 100_000  # more than this no agent can hold; bounds what a peer may ask for


class HelloRefused(Exception):
    """Why a HELLO cannot be taken; never leaves the broker."""

    def __init__(self, code: str, message: str, facts: dict[str, object] | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.facts = facts or {}


class Attendance:
    """Registers sessions and notices when they are gone."""

    def __init__(
        self, state: BrokerState, history: History, dispatch: Dispatch, admission: Admission, *, secret: bytes
    ) -> None:
        self._state = state
        self._history = history
        self._dispatch = dispatch
        self._admission = admission
        self._secret = secret
        self._n_tokens = 0

    def hello(self, peer: bytes, record: Record) -> Session:
        """Register the peer and answer WELCOME.

        Raises:
            HelloRefused: Another wire version, a source that is no protocol, an unknown role, or a version that
                others who are there have none in common with (15); nothing changed.
        """
        _, version, name, instance, sources, plays, credit, held = record
        if version != WIRE_VERSION:
            raise HelloRefused("wire-version", f"expected wire version {WIRE_VERSION}, got {version}")
        if not name or len(name) > 200:
            raise HelloRefused("malformed", "expected an agent name of 1 to 200 characters")
        state = self._state
        if not all(isinstance(entry, list) and fits(entry, _HELD_SHAPE) for entry in held):
            text = "expected held leases of [conversation, role, fence, position, message id]"
            raise HelloRefused("malformed", text)
        digests = self._read_sources(sources)
        roles = self._read_plays(digests, plays)
        older = state.registry.find(name, instance)
        self._check_versions(roles, older)
        self._journal_protocols(digests)
        self._journal_plays(roles)
        if older is not None:
            self._leave(older, held)
        self._n_tokens += 1
        token = derive_id("token", self._secret, state.term, self._n_tokens, name)
        session = Session(
            peer=peer,
            name=name,
            instance=instance,
            token=token,
            credit=max(1, min(credit, MAX_CREDIT)),
            now=state.now,
        )
        session.plays = roles
        numbers = [session.number(digest) for digest in digests]
        state.registry.add(session)
        kept = self._keep(session, held)
        settings = {
            "heartbeat_interval": state.settings.heartbeat_interval,
            "lease": state.settings.lease,
            "window": state.settings.window,
            "modes": not_enforced(state.modes),
        }
        state.send(session, [int(Kind.WELCOME), state.term, token, numbers, kept, settings])
        state.note("info" if roles else "debug", "agent.registered", agent=name, instance=instance, n_roles=len(roles))
        self._introduce(session)
        self._dispatch.serve_waiting()
        return session

    def learn(self, session: Session, source: str) -> int:
        """Give *session* a number for one protocol more than its HELLO named, and return it.

        Raises:
            HelloRefused: *source* is no protocol; nothing changed.
        """
        [digest] = self._read_sources([source])
        self._journal_protocols([digest])
        number = session.number(digest)
        self._introduce(session)
        return number

    def bye(self, session: Session) -> None:
        """The peer leaves on purpose: its leases go back at once and no attempt counts (10)."""
        self._end(session, crashed=False)

    def heard(self, token: bytes) -> bool:
        """Note a heartbeat; return whether the session is known."""
        session = self._state.registry.by_token.get(token)
        if session is None:
            return False
        session.last_heard = self._state.now
        return True

    def end_silent(self) -> None:
        """End the sessions of which nothing was heard for a lease (9)."""
        state = self._state
        for session in state.registry.sessions():
            if state.now - session.last_heard > state.settings.lease:
                state.note("warning", "lease.lost", agent=session.name, instance=session.instance)
                self._end(session, crashed=True)
        if state.grace_until and state.now >= state.grace_until:
            state.grace_until = 0.0
            self._dispatch.serve_waiting()
        self._dispatch.review_suspects()
        state.agenda.add(state.now + state.settings.lease / 4, Alarm.LEASES)

    def lose(self, name: str) -> None:
        """Fire `lost: role` for everything that *name* is bound to, where the protocol has it (12)."""
        state = self._state
        if state.registry.is_live(name):
            return
        for conversation in list(state.conversations.values()):
            for mailbox in conversation.mailboxes:
                if mailbox.agent != name or mailbox.human or conversation.outcome is not None:
                    continue
                event = self._lost_event(conversation.tables.scopes, mailbox.machine.scopes[mailbox.at], mailbox.role)
                if event is not None:
                    self._admission.decide(["event", conversation.conversation_id, event])

    # -- parts ----------------------------------------------------------------------------------------

    def _lost_event(self, tables: tuple[ScopeTable, ...], scopes: tuple[int, ...], role: int) -> int | None:
        for scope in reversed(scopes):
            for lost, event in tables[scope].lost:
                if lost == role:
                    return event
        return None

    def _read_sources(self, sources: list[object]) -> list[str]:
        digests = []
        for source in sources:
            if not isinstance(source, str):
                raise HelloRefused("malformed", "expected protocol sources as text")
            try:
                protocol = self._history.add_protocol(source)
            except SpecError as error:
                raise HelloRefused("bad-protocol", str(error)) from error
            digests.append(protocol.digest)
        return digests

    def _journal_protocols(self, digests: list[str]) -> None:
        state = self._state
        for digest in digests:
            if digest not in state.journaled_protocols:
                state.journaled_protocols.add(digest)
                row: Record = ["protocol", state.protocols[digest].spec.source]
                state.ledger.journal(row, session=None, n=0, urgent=False, now=state.now)

    def _journal_plays(self, roles: frozenset[Play]) -> None:
        state = self._state
        for digest in sorted({digest for digest, _ in roles} - state.journaled_plays):
            state.journaled_plays.add(digest)
            state.ledger.journal(["played", digest], session=None, n=0, urgent=False, now=state.now)

    def _check_versions(self, roles: frozenset[Play], older: Session | None) -> None:
        """Refuse who would find nobody to talk to in a role that is played by other versions only (15).

        After a restart everybody comes back in any order: what was let in before is let in again.
        """
        state = self._state
        for digest, index in sorted(roles):
            if state.now < state.grace_until and digest in state.known_before:
                continue
            names = [one.name for one in state.protocols[digest].roles]
            role = names[index]
            own = frozenset(names[other] for one, other in roles if one == digest)
            if state.versions.choose(digest, role, names={}, without=older, own=own) is None:
                text, facts = state.versions.explain(digest, role, names={}, without=older)
                raise HelloRefused("no-common-version", text, {"diff": facts})

    def _introduce(self, session: Session) -> None:
        """Tell the session of the versions of its protocols that others play, and others of those that it plays.

        Whoever knows of more than one asks which is to be pinned before it opens (query ``pin``).
        """
        state = self._state
        versions = state.versions
        own = [digest for digest in session.protocols if len(versions.beside(digest)) > 1]
        if not own:
            return
        wanted = {other for digest in own for other in versions.played(digest)}
        beside = {other for digest in own for other in versions.beside(digest)}
        for conversation in state.conversations.values():  # of its name, to attach to again
            opener = None if conversation.opener == BUS else conversation.mailboxes[conversation.opener].agent
            if conversation.digest in beside and opener == session.name:
                wanted.add(conversation.digest)
        for digest in sorted(wanted):
            if versions.understands(session, digest):
                self._dispatch.teach(session, digest)
        for digest in sorted({digest for digest, _ in session.plays if digest in own}):
            for other in state.registry.sessions():
                if versions.understands(other, digest):
                    self._dispatch.teach(other, digest)

    def _read_plays(self, digests: list[str], plays: list[object]) -> frozenset[Play]:
        roles = set()
        for play in plays:
            if not isinstance(play, list) or not fits(play, _PLAY_SHAPE) or not 0 <= play[0] < len(digests):
                raise HelloRefused("malformed", "expected plays of [source index, role name]")
            protocol = self._state.protocols[digests[play[0]]]
            names = [role.name for role in protocol.roles]
            if play[1] not in names or protocol.roles[names.index(play[1])].source is not None:
                known = ", ".join(role.name for role in protocol.roles if role.source is None)
                text = f"expected a role of {protocol.name} that an agent plays ({known}), got {play[1]!r}"
                raise HelloRefused("unknown-role", text)
            roles.add((digests[play[0]], names.index(play[1])))
        return frozenset(roles)

    def _leave(self, older: Session, held: list[Record]) -> None:
        """End the older session of the same instance; it crashed unless it still holds what it was given."""
        held_leases = {(entry[0], entry[1]) for entry in held}
        crashed = False
        for conversation_id, role in list(older.leases):
            conversation = self._state.conversations[conversation_id]
            if (conversation_id, role) in held_leases:
                self._dispatch.give_back(conversation, conversation.mailboxes[role])
            elif conversation.mailboxes[role].leased:
                crashed = True
        self._end(older, crashed=crashed)

    def _end(self, session: Session, *, crashed: bool) -> None:
        """Take everything back from a session that left, died or was replaced."""
        state = self._state
        state.registry.remove(session, now=state.now)
        state.ledger.forget(session)
        conversations: dict[Conversation, None] = {}
        for conversation_id, role in list(session.leases):
            conversation = state.conversations[conversation_id]
            mailbox = conversation.mailboxes[role]
            if crashed and mailbox.leased:
                state.suspects.setdefault(session.name, {})[mailbox] = conversation
            self._dispatch.give_back(conversation, mailbox, crashed=crashed)
            if conversation.held:  # it sends them again in its next life
                conversation.held = deque(entry for entry in conversation.held if entry[0] is not session)
            conversation.touched[mailbox] = None
            conversations[conversation] = None
            self._bury_poison(conversation, mailbox)
        for conversation in conversations:
            self._dispatch.serve_touched(conversation)
        if not state.registry.is_live(session.name):
            state.agenda.add(state.now + state.settings.lost_after, Alarm.LOST, session.name)
        # Scripts come and go all the time; only who plays a role is news.
        level = "debug" if not session.plays else "warning" if crashed else "info"
        event = "agent.lost" if crashed else "agent.left"
        state.note(level, event, agent=session.name, instance=session.instance)

    def _bury_poison(self, conversation: Conversation, mailbox: Mailbox) -> None:
        """Make a dead letter of what has killed each process that took it (10)."""
        oldest, most = mailbox.oldest(), self._state.settings.max_attempts
        if oldest is not None and oldest.state is DeliveryState.QUEUED and oldest.attempt > most:
            detail = f"the agent's process died {most} times while it had this"
            self._admission.decide(["dead", conversation.conversation_id, mailbox.role, "crashed", detail], urgent=True)

    def _keep(self, session: Session, held: list[Record]) -> list[Record]:
        """Let a reconnecting agent go on with the leases that nobody else took meanwhile (18)."""
        kept: list[Record] = []
        for conversation_id, role, fence, position, message_id in held:
            conversation = self._state.conversations.get(conversation_id)
            if conversation is None or not 0 <= role < len(conversation.mailboxes):
                continue
            mailbox = conversation.mailboxes[role]
            if mailbox.session is not None or not self._may_keep(session, conversation, mailbox):
                continue
            names = [(one.position, one.message_id) for one in mailbox.queued if one.state is DeliveryState.QUEUED]
            if (position, message_id) in names:
                self._dispatch.adopt(conversation, mailbox, session, fence=fence, position=position)
                kept.append([conversation_id, role])
        return kept

    def _may_keep(self, session: Session, conversation: Conversation, mailbox: Mailbox) -> bool:
        if mailbox.agent is not None and mailbox.player in (None, session.name) and mailbox.role == conversation.opener:
            return conversation.digest in session.protocols
        is_free = mailbox.player in (None, session.name)
        role = conversation.players[mailbox.role].role
        return is_free and self._state.versions.may_play(session, conversation.digest, role)
