"""One drain, swap, move or refresh under way.

Owns its state, who is moved when, and when it is over. Knows neither how a session is moved nor who asked. Invariants:
every change of state is a row of `phases.JOB`; every session it is about stands in exactly one place of its tally;
until the comparison is done nothing is changed; at its end no session is left on the old member, or the job says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from proxy.control.orders import DRAIN, SWAP, Order, Work
from proxy.control.passage import Passage
from proxy.control.phases import FINAL, JobEvent, JobState, after
from proxy.control.tally import GONE_OVER, Standing, Tally
from proxy.control.views import Difference, JobCounts, JobView
from proxy.core.health import HealthState
from proxy.observe import hooks
from proxy.upstream.member import MemberState

if TYPE_CHECKING:
    from proxy.control.compare import Verdict
    from proxy.relay.session import SessionRelay
    from proxy.upstream.member import Member

TICK_SECONDS = 0.1
"""How often a job looks for what nobody tells it: newcomers, ended tasks, ended calls, time."""
_UNTIL_BACK = frozenset({JobState.MOVING, JobState.HOLDING, JobState.FINISHING})


class Job:
    """One order being carried out; `begin` or `begin_comparing` starts it."""

    def __init__(self, job_id: str, order: Order, work: Work) -> None:
        self.id = job_id
        self.order = order
        self.old = order.old
        self.new = order.new
        self.percent = order.percent
        self.state = JobState.MOVING
        self.problem = ""
        self.differences: list[Difference] = []
        self._pool = order.registry.ctx.pool
        self._work = work
        self._clock = work.clock
        self._tally: Tally[SessionRelay] = Tally()
        self._shown: JobCounts | None = None
        self._forward = Passage(
            work.clock, work.slots, order.old, self._choose, self._stands, order.drain_seconds,
            tries_others=order.kind == DRAIN,
        )  # fmt: skip
        self._back: Passage | None = None
        self._is_ticking = False
        self._started_at = self._deadline = work.clock.now()
        self._took: float | None = None
        self._calls: tuple[int, int, int] | None = None
        self._old_before = (order.old.finished, order.old.unknown)
        self._new_before = (0, 0)

    # -- life

    def begin_comparing(self) -> None:
        """Wait for `compared`; nothing is changed until then."""
        self.state = JobState.COMPARING
        self._tell()

    def compared(self, verdict: Verdict) -> None:
        """Go on, or end here; harmless once it was cancelled."""
        if self.state is not JobState.COMPARING:
            return
        self.differences = [
            Difference(field=each.field, old=each.old, new=each.new, is_loss=each.is_loss)
            for each in verdict.differences
        ]
        if verdict.problem:
            self.problem = verdict.problem
            self._receive(JobEvent.REFUSED)
            return
        if self.order.admit is not None:
            self.new = self.order.admit()
        self._receive(JobEvent.COMPARED)
        self._begin_moving()

    def begin(self) -> None:
        """Move at once."""
        self._tell()
        self._begin_moving()

    def extend(self, percent: int) -> None:
        """Give a canary that holds a larger share.

        Raises:
            IllegalTransition: it is no canary that holds.
        """
        self._receive(JobEvent.EXTENDED)
        self.percent = percent
        self._begin_moving()

    def cancel(self) -> None:
        """Stop where it is: what has moved has moved, moves under way end, and both members take sessions.

        Raises:
            IllegalTransition: it is over.
        """
        after(self.state, JobEvent.CANCELLED)
        for passage in (self._forward, self._back):
            if passage is not None:
                passage.stop()
        if self.is_exclusive and self.state is not JobState.COMPARING:
            self._pool.unshare()
            self._pool.undrain(self.old)
            if self._back is not None and self.new is not None:
                self._pool.undrain(self.new)
        self._receive(JobEvent.CANCELLED)

    def take_back(self, problem: str = "") -> None:
        """Move back what has moved; *problem* says why, if not for its operator's word alone.

        Raises:
            IllegalTransition: it is over, or nothing has been moved yet.
        """
        after(self.state, JobEvent.TAKEN_BACK)
        new = self.new
        assert new is not None, "only a swap is taken back, and it knows where to"
        self.problem = problem
        self._receive(JobEvent.TAKEN_BACK)
        self._forward.stop()
        self._pool.unshare()
        self._pool.undrain(self.old)
        if self.has_added_new:
            self._pool.drain(new)
        seconds = self.order.drain_seconds
        self._deadline = self._clock.now() + seconds
        self._back = Passage(self._clock, self._work.slots, new, lambda _: self.old, self._stands_back, seconds)
        self._collect_back(self._back)
        self._settle()

    @property
    def is_over(self) -> bool:
        """Tell whether nothing more happens, but for moves that are under way."""
        return self.state in FINAL

    @property
    def is_exclusive(self) -> bool:
        """Tell whether it is about members: each can be part of one such job at a time."""
        return self.order.relay is None

    @property
    def has_added_new(self) -> bool:
        """Tell whether the new member came with this job, and goes with it if it is taken back."""
        return self.order.admit is not None

    def view(self) -> JobView:
        """Return what people are shown."""
        now = self._clock.now()
        shown_new = self.order.shown_new or (self.new.key if self.new is not None else "")
        return JobView(
            id=self.id,
            kind=self.order.kind,
            state=self.state.value,
            old=self.old.key,
            new=shown_new,
            percent=self.percent,
            counts=self.counts(),
            differences=self.differences,
            problem=self.problem,
            started_seconds=now - self._started_at,
            took_seconds=self._took,
        )

    def counts(self) -> JobCounts:
        """Return the accounting so far."""
        return self._shown or self._tally.counts(*(self._calls or self._calls_now()))

    def _calls_now(self) -> tuple[int, int, int]:
        relay, old = self.order.relay, self.old
        if relay is not None:
            # The member's numbers are those of all its sessions.
            return 0, 0, sum(leg.running for leg in relay.older if leg.member is old)
        return old.finished - self._old_before[0], old.unknown - self._old_before[1], old.gate.running

    # -- forward

    def _begin_moving(self) -> None:
        if self.new is not None and not self._tally:
            self._new_before = (self.new.finished, self.new.unknown)
        self._deadline = self._clock.now() + self.order.drain_seconds
        if self.is_exclusive:
            self._pool.unshare()
        if self.is_partial and self.new is not None:
            self._pool.share(self.old, self.new, self.percent)
            self._take(self._share())
        else:
            # Before the drain, which lets those go at once that wait for the old one.
            here = [relay for relay in self._here() if relay not in self._forward]
            if self.is_exclusive:
                self._pool.drain(self.old)
            if self.order.relay is None:
                self._take(here)
            self._collect()
        self._settle()
        if not self._is_ticking and not self.is_over:
            self._is_ticking = True
            self._clock.call_later(TICK_SECONDS, self._tick)

    @property
    def is_partial(self) -> bool:
        """Tell whether it moves a canary's share."""
        return self.percent < 100

    def _here(self) -> list[SessionRelay]:
        relays = self.order.registry.relays if self.order.relay is None else (self.order.relay,)
        return [relay for relay in relays if relay.leg.member is self.old]

    def _collect(self) -> None:
        """Move whoever is on the old member and has not had a turn, those too that were on their way there."""
        if self.order.relay is not None:
            if not self._tally:
                self._take([self.order.relay])
        elif self.old.sessions > self._forward.staying + self._tally.number(Standing.REMAINING):
            self._take(relay for relay in self._here() if relay not in self._forward)

    def _take(self, relays: Iterable[SessionRelay]) -> None:
        taken = list(relays)
        for relay in taken:
            self._tally.put(relay, Standing.REMAINING)
        self._forward.add(taken)

    def _share(self) -> list[SessionRelay]:
        """Choose who else belongs to the canary's share, in an order that nobody can guess and that favours nobody."""
        gone = self._tally.number(*GONE_OVER)
        here = self._here()
        # Rounded up: a canary of none would show nothing.
        wanted = -(-(gone + len(here)) * self.percent // 100) - gone
        free = [relay for relay in here if not (relay.is_pinned or relay.session.has_tasks or relay in self._forward)]
        free.sort(key=lambda relay: relay.fingerprint)
        return free[: max(0, wanted)]

    def _choose(self, relay: SessionRelay) -> Member | None:
        if self.new is not None:
            return self.new
        return self._pool.place(relay.placing_key, (self.old, *self._forward.tried.get(relay, ())))

    def _stands(self, relay: SessionRelay, standing: Standing) -> None:
        self._tally.put(relay, standing)
        self._settle()

    # -- back

    def _collect_back(self, back: Passage) -> None:
        back.add(
            relay
            for relay in self.order.registry.relays
            if relay.leg.member is self.new
            and relay not in back
            and (self.has_added_new or self._tally.of(relay) in GONE_OVER)
        )

    def _stands_back(self, relay: SessionRelay, standing: Standing) -> None:
        if standing in GONE_OVER:
            # It is where it was before the job began.
            self._tally.put(relay, Standing.REMAINING)
        elif standing is Standing.CLOSED:
            self._tally.put(relay, standing)
        self._settle()

    # -- what follows

    def _tick(self) -> None:
        self._is_ticking = not self.is_over
        if self.is_over:
            return
        is_late = self._clock.now() >= self._deadline
        if self._back is not None:
            self._back.look(is_late=is_late)
            self._collect_back(self._back)
        else:
            # A canary takes no task from anybody.
            self._forward.look(is_late=is_late and not self.is_partial)
            if not self.is_partial:
                self._collect()
        self._settle()
        self._clock.call_later(TICK_SECONDS, self._tick)

    def _settle(self) -> None:
        """See whether the next state is reached."""
        if self.state in _UNTIL_BACK and self.order.kind == SWAP:
            problem = self._too_much_went_wrong()
            if problem:
                self.take_back(problem)
                return
        if self.state is JobState.MOVING and self._forward.is_idle:
            if self.is_partial:
                self._receive(JobEvent.SHARE_MOVED)
            elif not self._forward.waits_for_tasks:
                self._receive(JobEvent.ALL_MOVED)
        if self.state is JobState.FINISHING and self._is_clear(self.old, self._forward):
            # Once more: whoever came or went in the meantime would be left out.
            self._forward.forget_gone()
            self._collect()
            if self.state is JobState.FINISHING and self._is_clear(self.old, self._forward):
                self._conclude()
        back, new = self._back, self.new
        if back is None or new is None or self.state is not JobState.ROLLING_BACK:
            return
        if self._forward.is_idle and self._is_clear(new, back):
            back.forget_gone()
            self._collect_back(back)
            if self.state is JobState.ROLLING_BACK and self._is_clear(new, back):
                self._conclude_back(new, back)

    def _is_clear(self, member: Member, passage: Passage) -> bool:
        """Tell whether nothing that ends by itself in time is left on a member."""
        if not passage.is_still:
            return False
        if not self.is_exclusive or self._clock.now() >= self._deadline:
            return True
        passing = self.order.registry.ctx.passing
        return not member.gate.running and all(each.member is not member for each in passing)

    def _too_much_went_wrong(self) -> str:
        """Say why a swap has to be taken back; empty when it has not."""
        new, tally, failed = self.new, self._tally, sum(self._forward.failures.values())
        if new is None:
            return ""
        if failed and self._forward.is_idle and not tally.number(*GONE_OVER):
            return f"no session could be moved: {self._reasons()}"
        settings = self._work.settings()
        if settings.rollback_error_rate and new.health.state is HealthState.OPEN and self._is_old_well:
            return f"{new.key} is out ({new.health.reason}) while {self.old.key} is well"
        unknown = new.unknown - self._new_before[1]
        wrong = failed + unknown
        total = wrong + new.finished - self._new_before[0] + tally.number(Standing.MOVED, Standing.REBUILT)
        if not settings.rollback_error_rate or total < settings.rollback_min_calls:
            return ""
        if wrong < settings.rollback_error_rate * total:
            return ""
        return f"{wrong} of {total} moves and calls went wrong on the new upstream"

    @property
    def _is_old_well(self) -> bool:
        return self.old.state is not MemberState.REMOVED and self.old.health.state is HealthState.CLOSED

    def _reasons(self) -> str:
        return ", ".join(f"{reason} ({number})" for reason, number in self._forward.failures.most_common())

    def _conclude(self) -> None:
        failed, pinned = self._tally.number(Standing.FAILED), self._tally.number(Standing.PINNED)
        if failed:
            self.problem = f"{failed} of {len(self._tally)} sessions stay on {self.old.key}: {self._reasons()}"
        elif pinned:
            self.problem = f"{pinned} pinned sessions stay on {self.old.key}"
        self._freeze()
        if self.order.removes:
            self._work.empty(self.order.registry, self.old)
        self._receive(JobEvent.STUCK if failed else JobEvent.FINISHED)

    def _conclude_back(self, new: Member, back: Passage) -> None:
        if back.staying:
            more = f"{back.staying} sessions stay on {new.key}, which could not be moved back"
            self.problem = f"{self.problem}; {more}" if self.problem else more
            self._pool.undrain(new)
            self._receive(JobEvent.STUCK)
            return
        if self.has_added_new:
            self._work.empty(self.order.registry, new)
        self._receive(JobEvent.RETURNED)

    def _receive(self, event: JobEvent) -> None:
        self.state = after(self.state, event)
        if self.is_over:
            self._freeze()
        self._tell()
        if self.is_over:
            self._work.ended(self)
            self._let_go()

    def _let_go(self) -> None:
        """Forget the sessions it was about, once the last of its moves has ended: the numbers stay to be looked at."""
        if not self._forward.is_idle or (self._back is not None and not self._back.is_idle):
            self._clock.call_later(TICK_SECONDS, self._let_go)
            return
        self._shown = self.counts()
        self._tally = Tally()
        self._forward.clear()
        if self._back is not None:
            self._back.clear()

    def _freeze(self) -> None:
        """Keep the numbers of this moment: those of the members go on."""
        if self._calls is None:
            self._calls = self._calls_now()
            self._took = self._clock.now() - self._started_at

    def _tell(self) -> None:
        if self._work.observer.is_active:
            self._work.observer.job_changed(
                hooks.JobChanged(job=self.id, kind=self.order.kind, state=self.state.value, upstream=self.old.name)
            )
