"""One large response of a call on its way to the client before its end is there (semantics 28).

Owns the judgement whether a frame may go out in parts, and the proof at its end. Knows no client and no upstream.
Invariant: what becomes an entry is a response to an open request of the call; whatever else comes of it is taken back,
and who has a part of it is cut off.
"""

from proxy.core import jsonrpc
from proxy.core.cut import Beginning, CuttingDecoder, Ending, lines_behind
from proxy.core.ids import RequestId
from proxy.core.jsonrpc import Kind
from proxy.core.recognition import ResponseBeginning, begins_response, ends_response
from proxy.core.replay import Stream
from proxy.core.sse import Frame
from proxy.store.base import Passage, StreamLog


class Cutting:
    """One frame under way."""

    __slots__ = ("_beginning", "_passage", "_told", "is_lost")

    def __init__(self, beginning: Beginning, told: ResponseBeginning, passage: Passage) -> None:
        self._beginning = beginning
        self._told = told
        self._passage = passage
        self.is_lost = False
        """Whether it turned out to be no answer, and too large to be retained."""

    def add(self, part: bytes) -> None:
        """Pass on more of the data line."""
        self._passage.add(part)

    def end(self, ending: Ending, unanswered: dict[RequestId, None]) -> Frame | None:
        """Make the frame an entry if it answers an open request, which is one no more.

        Else what went out is taken back, and the frame returned to be taken as any other, unless it is lost.
        """
        passage = self._passage
        parts = [*passage.data, ending.data or b""]
        envelope = ends_response(self._told, parts)
        if envelope is None and passage.is_whole:
            envelope = jsonrpc.classify(b"".join(parts))
        if envelope is not None and envelope.kind is Kind.RESPONSE and envelope.id in unanswered:
            del unanswered[envelope.id]
            passage.complete(lines_behind(self._beginning, ending), ending.id, terminal=not unanswered)
            return None
        self.is_lost = not passage.is_whole
        passage.drop()
        return None if self.is_lost else Frame(b"".join(parts), ending.id, ending.event, ending.retry)

    def drop(self) -> None:
        """Forget the frame; who has a part of it is cut off."""
        self._passage.drop()


def begin(
    decoder: CuttingDecoder | None,
    offer: Frame,
    log: StreamLog,
    stream: Stream,
    unanswered: dict[RequestId, None],
    *,
    is_resumed: bool,
) -> Cutting | None:
    """Take the decoder's offer of a large frame; None when it must come whole.

    Args:
        decoder: who made the offer.
        offer: a `Beginning`, the last item that the decoder gave; anything else is none.
        log: where the frame will be an entry.
        stream: the call's.
        unanswered: the call's open requests.
        is_resumed: whether the upstream may be repeating itself, and mixing in frames of other calls.
    """
    if decoder is None or not isinstance(offer, Beginning):
        return None
    told = begins_response(offer.data or b"")
    if told is None:
        return None
    if told.id is None:
        # Some servers write the id last: what else than the one open answer is it, where nothing is repeated?
        if is_resumed or len(unanswered) != 1:
            return None
    elif told.id not in unanswered:
        return None
    cutting = Cutting(offer, told, log.begin(stream, offer.event))
    for part in decoder.cut():
        cutting.add(part)
    return cutting
