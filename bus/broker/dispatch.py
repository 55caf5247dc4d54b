"""Who is handed what: mailboxes leased to sessions, deliveries within their credit, leases taken back."""

from __future__ import annotations

from math import inf

from bus.broker.conversation import Conversation
from bus.broker.delivery import Delivery, DeliveryState
from bus.broker.entry import BUS
from bus.broker.mailbox import Mailbox
from bus.broker.registry import Session
from bus.broker.state import FINISHED_CONVERSATIONS, Alarm, BrokerState
from bus.ids import show_id
from bus.spec.protocol import Delivery as DeliveryClass
from bus.wire.record import Kind, Record

_DELIVER = int(Kind.DELIVER)  # looked up for every message


class Dispatch:
    """Hands deliveries out and takes leases back."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state

    def serve_touched(self, conversation: Conversation) -> None:
        """Act on what has changed in *conversation*: revoked leases, deadlines, deliveries, its end."""
        while conversation.revoked or conversation.settled or conversation.touched:
            if conversation.settled or conversation.revoked:
                self._take_back(conversation)
            touched, conversation.touched = conversation.touched, {}
            for mailbox in touched:
                if mailbox.deadline < mailbox.scheduled_at or mailbox.remind_at < mailbox.scheduled_at:
                    self._schedule(conversation, mailbox)
                if mailbox.queued:
                    self.serve(conversation, mailbox)
        timeout = conversation.scopes.next_timeout()
        if timeout is not None and timeout[0] < conversation.scopes.scheduled_at:
            conversation.scopes.scheduled_at = timeout[0]
            self._state.agenda.add(timeout[0], Alarm.SCOPE, conversation)
        if conversation.outcome is not None:
            self._retire(conversation)

    def serve(self, conversation: Conversation, mailbox: Mailbox) -> None:
        """Deliver what is queued, as far as a live session has credit."""
        state = self._state
        session = mailbox.session
        if session is None:
            session = self._find_session(conversation, mailbox)
            if session is None:
                state.waiting[mailbox] = conversation
                self._tell_nobody(conversation, mailbox)
                return
            self.lease(conversation, mailbox, session)
        if mailbox.not_before > state.now or (state.suspects and self._is_held_back(session.name, mailbox)):
            return
        queued, leased = mailbox.queued, mailbox.leased
        while queued and queued[0].state is DeliveryState.QUEUED:
            if leased and leased[0].attempt > 1:
                return  # alone until it is settled: should it fail again, nothing else is to blame (10)
            if session.credit <= 0:
                session.starved[conversation.conversation_id, mailbox.role] = None
                return
            session.credit -= 1
            delivery = queued.popleft()
            delivery.move("lease")
            leased.append(delivery)
            self._deliver(conversation, mailbox, session, delivery)

    def lease(self, conversation: Conversation, mailbox: Mailbox, session: Session) -> None:
        """Give the mailbox to *session* under a new fence."""
        state = self._state
        mailbox.session = session
        mailbox.fence = state.new_fence()
        mailbox.told_nobody = False
        session.leases[conversation.conversation_id, mailbox.role] = None
        self.teach(session, conversation.digest)
        state.waiting.pop(mailbox, None)
        if conversation.cast.gathering is not None:
            facts = {"conversation": conversation.conversation_id, **conversation.cast.as_facts()}
            state.send(session, [int(Kind.NOTICE), "members", facts])
        keeper = (session.name, session.instance)
        if mailbox.role != conversation.opener and mailbox.keeper != keeper:
            mailbox.keeper = keeper
            row: Record = ["lease", conversation.conversation_id, mailbox.role, *keeper]
            state.ledger.journal(row, session=None, n=0, urgent=False, now=state.now)

    def teach(self, session: Session, digest: str) -> None:
        """Hand *session* the text of a version that it fits and has not named, before anything comes under it."""
        if digest not in session.protocols:
            facts = {"number": session.number(digest), "source": self._state.protocols[digest].spec.source}
            self._state.send(session, [int(Kind.NOTICE), "protocol", facts])

    def adopt(
        self, conversation: Conversation, mailbox: Mailbox, session: Session, *, fence: int, position: int
    ) -> None:
        """Let *session* go on with a lease that it held before the broker restarted (RULES.md 18).

        Args:
            position: Of the delivery that it works on; what stands before it was handled, and it says so again.
        """
        mailbox.session = session
        mailbox.fence = mailbox.told_fence = fence
        session.leases[conversation.conversation_id, mailbox.role] = None
        self.teach(session, conversation.digest)
        self._state.waiting.pop(mailbox, None)
        while mailbox.queued and mailbox.queued[0].position <= position:
            delivery = mailbox.queued.popleft()
            delivery.move("lease")
            mailbox.leased.append(delivery)
            session.credit -= 1

    def give_back(self, conversation: Conversation, mailbox: Mailbox, *, crashed: bool = False) -> None:
        """End the lease of *mailbox*; what was delivered and not settled waits for another."""
        session = mailbox.session
        n_leased = len(mailbox.leased)
        mailbox.release(crashed=crashed)
        mailbox.session = mailbox.keeper = None
        if session is not None:
            session.credit += n_leased
            key = (conversation.conversation_id, mailbox.role)
            session.leases.pop(key, None)
            session.starved.pop(key, None)

    def feed(self, session: Session) -> None:
        """Serve the mailboxes that wait for the session's credit."""
        while session.starved and session.credit > 0:
            conversation_id, role = next(iter(session.starved))
            del session.starved[conversation_id, role]
            conversation = self._state.conversations[conversation_id]
            self.serve(conversation, conversation.mailboxes[role])

    def serve_waiting(self) -> None:
        """Try the mailboxes that nobody could take, after somebody came."""
        for mailbox, conversation in list(self._state.waiting.items()):
            self.serve(conversation, mailbox)

    def cleared(self, name: str, mailbox: Mailbox) -> None:
        """Let the next suspect of *name* through: this one has committed or outlived a lease (RULES.md 10)."""
        suspects = self._state.suspects.get(name)
        if suspects is not None and mailbox in suspects:
            del suspects[mailbox]
            self._try_suspect(name)

    def review_suspects(self) -> None:
        """Pass over suspects that came to nothing meanwhile, so that those behind them get their turn."""
        for name, suspects in list(self._state.suspects.items()):
            mailbox, conversation = next(iter(suspects.items()))
            if self._is_stale(name, conversation, mailbox):
                self._try_suspect(name)

    def _try_suspect(self, name: str) -> None:
        suspects = self._state.suspects[name]
        while suspects:
            mailbox, conversation = next(iter(suspects.items()))
            if not self._is_stale(name, conversation, mailbox):
                self.serve(conversation, mailbox)
                return
            del suspects[mailbox]
        del self._state.suspects[name]

    def _is_stale(self, name: str, conversation: Conversation, mailbox: Mailbox) -> bool:
        """Return whether no instance of *name* will be handed what it held there when it died."""
        oldest = mailbox.oldest()
        if oldest is None or oldest.state is DeliveryState.DEAD:
            return True
        player = mailbox.session.name if mailbox.session is not None else mailbox.player
        return player not in (None, name) or conversation.conversation_id not in self._state.conversations

    def pass_on(self, conversation: Conversation, voice: int, record: Record, *, is_aside: bool = False) -> None:
        """Deliver an at-most-once message: never journaled, never steps a state (4, 13).

        Args:
            is_aside: The order forbids it, and its protocol's mode lets it pass.
        """
        _, _, message_id, conversation_id, _, type, address, _, remaining, trace, body = record
        for role in conversation.tables.addresses[address]:
            receiver = conversation.mailboxes[role]
            if receiver.session is None or role == voice:
                continue
            if not is_aside and (voice, type) not in receiver.machine.receive[receiver.at]:
                continue
            number = receiver.session.protocols[conversation.digest]
            delivery: Record = [
                _DELIVER, conversation_id, number, role, receiver.fence, 0, 1, 0, type, voice, conversation.epoch,
                -is_aside, conversation.cast.show_state(role, receiver.at), remaining, trace, message_id, None, body,
            ]  # fmt: skip
            self.deliver_lossy(receiver.session, delivery)

    def deliver_lossy(self, session: Session, record: Record) -> None:
        """Hand an at-most-once DELIVER out: now, as the newest of its kind later, or never."""
        if session.lossy_credit <= 0:
            session.newest[record[1], record[3], record[8]] = record
            return
        session.lossy_credit -= 1
        self._state.send(session, record)

    def deliver_newest(self, session: Session) -> None:
        """Hand out the newest at-most-once messages that waited for credit."""
        while session.newest and session.lossy_credit > 0:
            conversation_id, role, type = key = next(iter(session.newest))
            record = session.newest.pop(key)
            conversation = self._state.conversations.get(conversation_id)
            if conversation is None or conversation.outcome is not None:
                continue
            mailbox = conversation.mailboxes[role]
            is_aside = record[11] < 0
            if mailbox.session is session and (is_aside or (record[9], type) in mailbox.machine.receive[mailbox.at]):
                session.lossy_credit -= 1
                self._state.send(session, record)

    # -- parts ----------------------------------------------------------------------------------------

    def _deliver(self, conversation: Conversation, mailbox: Mailbox, session: Session, delivery: Delivery) -> None:
        commits, saved, fence, position = 0, None, mailbox.fence, delivery.position
        if delivery is mailbox.leased[0]:
            commits = mailbox.commits
            if mailbox.told_fence != fence and position > mailbox.settled:
                saved = mailbox.saved
        mailbox.told_fence = fence
        at: object = conversation.cast.state_of(mailbox, delivery)
        if conversation.cast.gathering is not None:
            at = conversation.cast.show_state(mailbox.role, delivery.state_after)
        record: Record = [
            _DELIVER, conversation.conversation_id, session.protocols[conversation.digest], mailbox.role, fence,
            position, delivery.attempt, commits, delivery.type, delivery.sender, delivery.epoch,
            -delivery.sequence if delivery.is_aside else delivery.sequence, at,
            self.remaining(conversation, mailbox), delivery.trace, delivery.message_id, saved, delivery.body,
        ]  # fmt: skip
        # Who plays nothing is a script: what it reads it may print, so it reads only what is on disk.
        waits = session.n_waiting > 0 or (
            not session.plays
            and delivery.type >= 0
            and conversation.protocol.messages[delivery.type].delivery is DeliveryClass.DURABLE
        )
        if waits:
            self._state.ledger.send_synced(session, record)
        else:
            self._state.ledger.send(session, record)

    def remaining(self, conversation: Conversation, mailbox: Mailbox) -> float | None:
        """Return the seconds until the role is late, or the conversation over; None where it need not act."""
        deadline = min(mailbox.deadline, conversation.ends_by)
        return None if mailbox.deadline == inf else max(0.0, deadline - self._state.now)

    def _find_session(self, conversation: Conversation, mailbox: Mailbox) -> Session | None:
        registry, role = self._state.registry, conversation.players[mailbox.role].role
        if mailbox.keeper is not None and self._state.now < self._state.grace_until:
            session = registry.find(*mailbox.keeper)
            fits = session is not None and self._state.versions.may_play(session, conversation.digest, role)
            return session if fits else None
        names = (mailbox.player,) if mailbox.player is not None else mailbox.offered
        if conversation.opener == BUS and mailbox.player is None and not mailbox.human:
            names = self._callers(conversation, mailbox) or names
        return registry.player(self._state.versions.suitable(conversation.digest, role), names=names)

    def _callers(self, conversation: Conversation, mailbox: Mailbox) -> tuple[str, ...]:
        """Return who plays the calling conversation's role that this one was mapped to, or may yet; () for anybody."""
        assert conversation.parent is not None
        state = self._state
        caller = state.conversations.get(conversation.parent.conversation)
        if caller is None:
            return ()
        role = conversation.players[mailbox.role].role
        name = conversation.protocol.roles[role].name
        ours = dict(caller.tables.calls[conversation.parent.position].roles).get(name)
        if ours is None:
            return ()
        other = caller.mailboxes[caller.cast.player(ours)]
        if other.player is not None:
            return (other.player,)
        if other.session is not None:
            return (other.session.name,)
        return other.offered or state.registry.players((caller.digest, ours), (conversation.digest, role))

    def _is_held_back(self, name: str, mailbox: Mailbox) -> bool:
        suspects = self._state.suspects.get(name)
        if suspects is None or mailbox not in suspects:
            return False
        if next(iter(suspects)) is not mailbox:
            return True
        state = self._state
        state.agenda.add(state.now + state.settings.lease, Alarm.RETRY, (suspects[mailbox], mailbox, mailbox.fence))
        return False

    def _take_back(self, conversation: Conversation) -> None:
        """Carry out revocations: tell the session, return its credit, put the rest under a new fence (RULES.md 5)."""
        state = self._state
        settled, conversation.settled = conversation.settled, []
        for mailbox, n_leased in settled:
            if mailbox.session is not None:
                mailbox.session.credit += n_leased
                if state.suspects:
                    self.cleared(mailbox.session.name, mailbox)
                if mailbox.session.starved:
                    self.feed(mailbox.session)
        revoked, conversation.revoked = conversation.revoked, []
        for mailbox, fence in revoked:
            mailbox.revoked_fence = fence
            session = mailbox.session
            assert session is not None  # only leases that somebody has are revoked
            facts = {"conversation": conversation.conversation_id, "role": mailbox.role, "fence": fence}
            state.send(session, [int(Kind.NOTICE), "revoked", facts])
            session.credit += len(mailbox.leased)
            mailbox.release()
            mailbox.fence = state.new_fence()
            self.cleared(session.name, mailbox)
            conversation.touched[mailbox] = None

    def _schedule(self, conversation: Conversation, mailbox: Mailbox) -> None:
        mailbox.scheduled_at = min(mailbox.deadline, mailbox.remind_at)
        self._state.agenda.add(mailbox.scheduled_at, Alarm.DEADLINE, (conversation, mailbox))

    def _tell_nobody(self, conversation: Conversation, mailbox: Mailbox) -> None:
        """Tell the others, once, that nobody who plays the role is live (RULES.md 14)."""
        if mailbox.told_nobody or mailbox.human or conversation.outcome is not None:
            return
        mailbox.told_nobody = True
        role = conversation.players[mailbox.role].name
        facts = {"conversation": conversation.conversation_id, "role": role}
        for other in conversation.mailboxes:
            if other.session is not None:
                self._state.send(other.session, [int(Kind.NOTICE), "nobody-plays", facts])
        self._state.note(
            "warning", "delivery.waiting", conversation_id=show_id(conversation.conversation_id), role=role
        )

    def _retire(self, conversation: Conversation) -> None:
        """Move an ended conversation to the finished ones once all who took part have heard of its end."""
        if conversation.is_retained:
            return
        for mailbox in conversation.mailboxes:
            if len(mailbox) and (mailbox.session is not None or (mailbox.agent is not None and not mailbox.human)):
                return
        self.retire(conversation)

    def retire(self, conversation: Conversation) -> None:
        """Forget who was to hear of the conversation's end; it stays readable."""
        state = self._state
        for mailbox in conversation.mailboxes:
            state.waiting.pop(mailbox, None)
            if mailbox.session is not None:
                self.give_back(conversation, mailbox)
        if state.conversations.pop(conversation.conversation_id, None) is None:
            return
        state.finished[conversation.conversation_id] = conversation
        if len(state.finished) > FINISHED_CONVERSATIONS:
            state.finished.popitem(last=False)
