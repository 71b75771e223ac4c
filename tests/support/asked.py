"""A request that reached a handler, and what its sink told the handler since."""

from proxy.core.edge import Request, Sink


class Asked:
    """One request with its sink. Fulfils `core.edge.Watcher`."""

    def __init__(self, request: Request, sink: Sink) -> None:
        self.request = request
        self.sink = sink
        self.closed = 0
        self.drained = 0
        sink.watch(self)

    def sink_closed(self) -> None:
        """Count."""
        self.closed += 1

    def sink_drained(self) -> None:
        """Count."""
        self.drained += 1
