"""One POST of a session, sorted: a call, a message to deliver, an answer for the upstream, or nothing we can read.

Owns the decision who takes it. Lives for the length of that decision. Invariant: an answer to a server request goes
to the upstream session that asked, or nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.core import jsonrpc
from proxy.core.edge import Request, Sink
from proxy.core.ids import Generation, RequestId
from proxy.core.jsonrpc import Envelope, Kind
from proxy.observe import hooks
from proxy.relay import replies, tasks
from proxy.relay.call import Call
from proxy.relay.note import Note
from proxy.relay.unread import Unread

if TYPE_CHECKING:
    from proxy.relay.session import SessionRelay

# A member of an enum costs ten times a global to get at.
_REQUEST = Kind.REQUEST


def sort(relay: SessionRelay, envelope: Envelope, request: Request, sink: Sink) -> None:
    """Hand a POST on."""
    request_id = envelope.id
    if envelope.kind is _REQUEST and request_id is not None:
        # Nearly all of them, so nothing else is made on their way.
        ids, body = (request_id,), request.body
        ctx = relay.ctx
        if relay.session.tasks and tasks.is_lost(relay, envelope.method, body):
            relay.touch()
            replies.report_all(sink, "task_lost", ids, is_batch=False)
        elif (not relay.calls and ctx.budget.has_room(len(body))) or is_admitted(relay, ids, body, sink):
            # Nearly always the session's one call: nothing to compare it with, nothing to count. That it keeps the
            # session awake need not be noted: it is active until its end, which is noted.
            head = request.head
            correlation_id = head.request_id or ctx.correlation_id()
            accepts_sse = head.findings.accepts_sse
            can_stream = head.accepts_sse if accepts_sse is None else accepts_sse
            Call(relay, ids, envelope.method, body, head, correlation_id, sink).begin(can_stream)
    else:
        relay.touch()
        Inbox(relay, request, sink).sort(envelope)


def is_admitted(
    relay: SessionRelay, ids: tuple[RequestId, ...], body: bytes, sink: Sink, *, is_batch: bool = False
) -> bool:
    """Tell whether these requests may run; else *sink* has been given an answer, or to the call that has it."""
    relay.touch()
    calls = relay.calls
    for request_id in ids:
        running = calls.get(request_id)
        if running is None:
            continue
        if running.is_same(body):
            running.take_over(sink)
        else:
            replies.report_all(sink, "id_in_use", ids, is_batch=is_batch)
        return False
    ctx = relay.ctx
    limit = ctx.session.max_calls
    if len(calls) + len(ids) > limit:
        replies.report_all(sink, "too_many_calls", ids, is_batch=is_batch, limit=limit)
        return False
    if not ctx.budget.has_room(len(body)):
        replies.report_all(sink, "too_many_bytes", ids, is_batch=is_batch)
        return False
    return True


class Inbox:
    """One POST that is no single request, on its way to who deals with it."""

    __slots__ = ("_correlation_id", "_head", "_relay", "_request", "_sink")

    def __init__(self, relay: SessionRelay, request: Request, sink: Sink) -> None:
        self._relay = relay
        self._request = request
        self._sink = sink
        self._head = request.head
        self._correlation_id = relay.ctx.correlate(request.head)

    def sort(self, envelope: Envelope) -> None:
        """Hand the POST on."""
        kind = envelope.kind
        if kind is Kind.NOTIFICATION:
            self._notification(envelope)
        elif kind is Kind.RESPONSE:
            answered = self._answered(envelope, self._request.body)
            if answered is None:
                self._drop_answer()
                replies.accepted(self._sink)
            else:
                self._deliver(answered[1], answered[0], may_repeat=False)
        elif kind is Kind.BATCH and self._relay.session.revision.has_batches:
            self._batch()
        else:
            # Not ours to judge: the upstream says what is wrong with it.
            Unread(self._relay, self._head, self._request.body, self._sink).begin()

    def _batch(self) -> None:
        members = jsonrpc.split_batch(self._request.body)
        requests = (member.id for member, _ in members if member.kind is Kind.REQUEST and member.id is not None)
        ids = tuple(dict.fromkeys(requests))
        asked = self._request.body
        if ids and not is_admitted(self._relay, ids, asked, self._sink, is_batch=True):
            return
        kept: list[bytes] = []
        only_in: Generation | None = None
        for member, text in members:
            answered = self._answered(member, text) if member.kind is Kind.RESPONSE else (None, text)
            if answered is None:
                self._drop_answer()
                continue
            only_in = answered[0] if answered[0] is not None else only_in
            kept.append(answered[1])
        is_changed = kept != [text for _, text in members]
        body = b"[" + b",".join(kept) + b"]" if is_changed else asked
        if ids:
            relay, sink = self._relay, self._sink
            Call(relay, ids, None, body, self._head, self._correlation_id, sink, asked=asked).begin(False)
        elif kept:
            self._deliver(body, only_in, may_repeat=False)
        else:
            replies.accepted(self._sink)

    # -- notifications

    def _notification(self, envelope: Envelope) -> None:
        relay = self._relay
        body = self._request.body
        only_in: Generation | None = None
        if envelope.method == "notifications/initialized":
            # Part of the handshake, which every rebuild repeats by itself.
            relay.session.initialized = True
            only_in = relay.session.binding.generation
        elif envelope.method == "notifications/cancelled":
            cancelled_id = jsonrpc.cancelled_id(body)
            call = relay.calls.get(cancelled_id) if cancelled_id is not None else None
            if call is None or call.is_cancelled:
                # Forwarded once; a second one, or one for a finished call, has nothing to cancel.
                relay.dropped("nothing_to_cancel", self._correlation_id)
                replies.accepted(self._sink)
                return
            if not call.cancel():
                replies.accepted(self._sink)
                return
            only_in = call.generation
            if cancelled_id is not None:
                body = call.cancel_body(body, cancelled_id)
        elif envelope.method == "notifications/progress":
            # Of a question that an older upstream session asked, it is that one's to hear (semantics 15).
            told = jsonrpc.progress_of(body)
            only_in = None if told is None else relay.session.server_requests.owner_of_progress(told[0])
            if only_in is not None and relay.leg_of(only_in) is None:
                relay.dropped("upstream_session_lost", self._correlation_id)
                replies.accepted(self._sink)
                return
        self._deliver(body, only_in, may_repeat=True)

    def _deliver(self, body: bytes, only_in: Generation | None, *, may_repeat: bool) -> None:
        """Take responsibility for a notification or response, within the bound of calls."""
        relay = self._relay
        if len(relay.notes) >= relay.ctx.session.max_calls:
            relay.dropped("too_many_notifications", self._correlation_id)
            replies.accepted(self._sink)
        else:
            note = Note(relay, body, self._head, self._correlation_id, self._sink, only_in, may_repeat=may_repeat)
            note.begin()

    # -- responses to server requests

    def _answered(self, envelope: Envelope, body: bytes) -> tuple[Generation | None, bytes] | None:
        """Return where a client's response belongs and its body with the upstream's id; None when that is lost."""
        if envelope.id is None:
            return None, body
        session = self._relay.session
        owner = session.server_requests.answer(envelope.id)
        if owner is None:
            # Every request of a later binding went through `admit`, so this answers one of a lost session.
            return (None, body) if session.binding.generation <= 1 else None
        generation, upstream_id = owner
        if self._relay.leg_of(generation) is None:
            return None
        return generation, body if upstream_id == envelope.id else jsonrpc.replace_id(body, upstream_id)

    def _drop_answer(self) -> None:
        relay = self._relay
        if relay.ctx.observer.is_active:
            relay.ctx.observer.answer_dropped(
                hooks.AnswerDropped(session=relay.fingerprint, request_id=self._correlation_id)
            )
