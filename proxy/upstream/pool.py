"""The upstreams of one route: who gets the next session, and where a session goes whose upstream is gone.

Owns the members and their roles. Knows no session: it says where, and others move. Invariants: a session is placed on
a member that is well, where there is one, but for a panic; whoever waits for a member that is ejected is let go as
soon as another one may be tried; a pool of one ejects nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING

from proxy.clock import run_all
from proxy.core.balancer import POLICIES, Candidate, Share
from proxy.core.health import REASONS, HealthState, Signal
from proxy.observe import hooks
from proxy.upstream.member import Member, MemberState
from proxy.upstream.prober import Prober

if TYPE_CHECKING:
    from proxy import config
    from proxy.clock import Clock, Timer
    from proxy.observe.hooks import Observer
    from proxy.upstream.base import Edge

SILENT = REASONS[Signal.TIMED_OUT]
REMOVAL_SECONDS = 5.0
"""How long the connections of a member that was removed stay: the DELETEs of its sessions are on their way."""


class Keys:
    """Names that stay unique however often a name is used again; one for all pools of a process."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}

    def __call__(self, name: str) -> str:
        """Return *name* the first time, then `name~2` and so on; `~` is in no name."""
        number = self._used[name] = self._used.get(name, 0) + 1
        return name if number == 1 else f"{name}~{number}"


class Pool:
    """The members of one route."""

    def __init__(
        self,
        route: str,
        policy: str,
        configs: Iterable[config.Upstream],
        make_edge: Callable[[config.Upstream], Edge],
        clock: Clock,
        observer: Observer,
        health: config.Health,
        unique_key: Callable[[str], str] | None = None,
    ) -> None:
        self.route = route
        self.members: tuple[Member, ...] = ()
        """All that were not removed, oldest first."""
        self.is_panicking = False
        """Whether so few members are well that ejections are ignored."""
        self.on_ejected: list[Callable[[Member], None]] = []
        self.on_removed: list[Callable[[Member], None]] = []
        self.on_readmitted: list[Callable[[Member], None]] = []
        self._make_edge = make_edge
        self._clock = clock
        self._observer = observer
        self._health = health
        self._unique_key = unique_key or Keys()
        self._active: tuple[Member, ...] = ()
        self._available = 0
        self._announced: dict[Member, float] = {}
        """Those that were said to be ejected, and since when."""
        self._is_offering = False
        self._canary: tuple[Member, Member, Share] | None = None
        self._leaving: dict[Member, Timer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._prober = Prober(health, clock, lambda: self._active)
        self.set_policy(policy)
        for each in configs:
            self._join(each)
        self._review()

    # -- where to

    def place(self, key: str = "", tried: Collection[Member] = (), *, is_session: bool = True) -> Member | None:
        """Choose a member for a new session, or for a request without one.

        Args:
            key: whom it is for; the same one gets the same member under `consistent_hash`.
            tried: who could not take it.
            is_session: whether it stays; what does not is spread by running calls, not by sessions.

        Returns:
            The member; None when all were tried, or there is none.
        """
        active = self._active
        if len(active) == 1:
            return None if active[0] in tried else active[0]
        return self._choose(self._candidates(tried), key, is_session=is_session)

    def has_place(self, tried: Collection[Member] = ()) -> bool:
        """Tell whether `place` would find one; nothing is counted."""
        return any(member not in tried for member in self._active)

    def successor(self, member: Member, tried: Collection[Member] = (), key: str = "") -> Member:
        """Return where a session of *member* is made anew: there, unless it is out and another one is better.

        *tried*: members that would not host it.
        """
        if member.state is MemberState.ACTIVE and member not in tried:
            if member.health.state is HealthState.CLOSED or len(self._active) == 1:
                return member
            if member.can_be_tried:
                member.tried()
                return member
        others = [other for other in self._active if other is not member and other not in tried]
        well = self._well(others)
        if not well and (member in tried or member.state is MemberState.REMOVED):
            # It is not there, so even one that is ejected may be better.
            well = others
        return self._choose(well, key, is_session=True) or member

    def find(self, name: str) -> Member | None:
        """Return the member of that name, an active one first; or of that key."""
        found = [member for member in self.members if member.name == name]
        found.sort(key=lambda member: member.state is not MemberState.ACTIVE)
        return found[0] if found else next((member for member in self.members if member.key == name), None)

    # -- who is in it

    def add(self, config: config.Upstream) -> Member:
        """Take a new member in."""
        member = self._join(config)
        if self._observer.is_active:
            self._observer.upstream_added(hooks.UpstreamAdded(upstream=member.name, route=self.route))
        self._review()
        return member

    def drain(self, member: Member) -> None:
        """Give it no new sessions; who waits for it goes elsewhere."""
        if member.state is not MemberState.ACTIVE:
            return
        member.state = MemberState.DRAINING
        if self._observer.is_active:
            self._observer.upstream_draining(hooks.UpstreamDraining(upstream=member.name))
        self._review()

    def undrain(self, member: Member) -> None:
        """Give it sessions again."""
        if member.state is MemberState.DRAINING:
            member.state = MemberState.ACTIVE
            self._review()

    def remove(self, member: Member) -> None:
        """Take it out for good; its connections are cut a moment later."""
        if member.state is MemberState.REMOVED:
            return
        member.state = MemberState.REMOVED
        self.members = tuple(other for other in self.members if other is not member)
        self._announced.pop(member, None)
        if self._canary is not None and member in self._canary:
            self._canary = None
        if self._observer.is_active:
            self._observer.upstream_removed(hooks.UpstreamRemoved(upstream=member.name))
        member.rearm()
        self._review()
        self._leaving[member] = self._clock.call_later(REMOVAL_SECONDS, lambda: self._end(member))
        member.recovery.bypass(True)
        self._release(member)
        run_all(lambda told=told: told(member) for told in tuple(self.on_removed))  # type: ignore[misc]

    def set_policy(self, policy: str) -> None:
        """Choose otherwise from now on.

        Raises:
            KeyError: there is no such policy.
        """
        self.policy = policy
        self._policy = POLICIES[policy]()

    def share(self, old: Member, new: Member, percent: int) -> None:
        """Of the sessions that either would get give *new* so many of a hundred, 0 to 100, and *old* the others."""
        self._canary = (old, new, Share(percent))

    def unshare(self) -> None:
        """Let the policy alone choose again."""
        self._canary = None

    def share_of(self, member: Member) -> int | None:
        """Return the part that `share` gives it; None where it has none."""
        if self._canary is None or member not in self._canary[:2]:
            return None
        _, new, part = self._canary
        return part.percent if member is new else 100 - part.percent

    async def close(self) -> None:
        """Cut everything."""
        self._prober.close()
        for timer in self._leaving.values():
            timer.cancel()
        members = (*self.members, *self._leaving)
        self._leaving.clear()
        await asyncio.gather(*self._tasks, *(member.close() for member in members), return_exceptions=True)

    # -- choosing

    def _well(self, members: Iterable[Member]) -> list[Member]:
        return [member for member in members if member.health.state is HealthState.CLOSED or member.can_be_tried]

    def _candidates(self, tried: Collection[Member]) -> list[Member]:
        untried = [member for member in self._active if member not in tried] if tried else list(self._active)
        if self.is_panicking and self._available and not tried:
            # The few that are well must not carry all. Who found one out of order goes to them. One that takes
            # requests and says nothing is no help.
            return [member for member in untried if member.is_available or member.health.reason != SILENT] or untried
        return self._well(untried) or untried

    def _choose(self, members: list[Member], key: str, *, is_session: bool) -> Member | None:
        if not members:
            return None
        candidates = [
            Candidate(each.key, each.config.weight, each.load if is_session else each.gate.running) for each in members
        ]
        chosen = members[self._policy.pick(candidates, key)]
        if self._canary is not None:
            old, new, part = self._canary
            if chosen in (old, new) and old in members and new in members:
                chosen = new if part.take() else old
        if is_session:
            chosen.place()
        if chosen.health.state is HealthState.HALF_OPEN:
            chosen.tried()
        return chosen

    # -- roles

    def _join(self, config: config.Upstream) -> Member:
        key = self._unique_key(config.name)
        member = Member(config, key, self._make_edge(config), self._clock, self._observer, self._health)
        member.changed = self._changed
        self.members = (*self.members, member)
        return member

    def _review(self) -> None:
        """Give every member its role anew, after the members or their health changed."""
        active = self._active = tuple(each for each in self.members if each.state is MemberState.ACTIVE)
        was_dark = not self._available
        self._available = sum(each.is_available for each in active)
        is_alone = len(active) <= 1
        was_panicking = self.is_panicking
        self.is_panicking = not is_alone and (
            not self._available or self._available < len(active) * self._health.panic_threshold
        )
        self._prober.review()
        for member in self.members:
            member.take_role(
                is_alone=is_alone and member.state is MemberState.ACTIVE,
                is_last_resort=is_alone or self.is_panicking,
                is_probed=self._prober.is_running,
            )
            member.recovery.bypass(bool(self._available) and not member.is_available)
            if not is_alone and not self._available and member.health.state is HealthState.OPEN:
                # All are out, and who waits for one of them would miss another one's return.
                member.recovery.watch()
            else:
                member.recovery.unwatch()
        # Of all, not of the one that changed: one may be out since it was alone, when that was nobody's business.
        steps: list[Callable[[], None]] = [partial(self._announce, each) for each in self.members]
        if self.is_panicking and not was_panicking:
            steps.append(self._tell_panic)
        if self._available:
            steps += [partial(self._release, each) for each in self.members if not each.is_available]
            if was_dark:
                # At their ejection there was nobody to go to.
                steps += [partial(self._leave, each) for each in tuple(self._announced)]
        run_all(steps)

    def _announce(self, member: Member) -> None:
        """Tell that it is out now, or back, once."""
        is_out = member.health.state is not HealthState.CLOSED
        if not is_out and member in self._announced:
            self._readmit(member)
        elif is_out and member not in self._announced and member in self._active and len(self._active) > 1:
            self._eject(member)

    def _leave(self, member: Member) -> None:
        """Say once more that it is out: somebody is well now."""
        if member in self._announced and not member.is_available:
            run_all([partial(told, member) for told in self.on_ejected])

    def _tell_panic(self) -> None:
        if self._observer.is_active:
            self._observer.pool_panicked(
                hooks.PoolPanicked(route=self.route, available=self._available, members=len(self._active))
            )

    def _changed(self, member: Member, before: HealthState) -> None:
        if member.health.state is not before:
            self._review()
        if member.health.state is HealthState.HALF_OPEN:
            self._offer_trials(member)

    def _eject(self, member: Member) -> None:
        self._announced[member] = self._clock.now()
        if self._observer.is_active:
            self._observer.upstream_ejected(hooks.UpstreamEjected(upstream=member.name, reason=member.health.reason))
        run_all([partial(told, member) for told in self.on_ejected])

    def _readmit(self, member: Member) -> None:
        waited = self._clock.now() - self._announced.pop(member)
        if self._observer.is_active:
            self._observer.upstream_readmitted(hooks.UpstreamReadmitted(upstream=member.name, waited_seconds=waited))
        # Those that are down and not ejected yet: nobody need wait until they are.
        down = [other for other in self.members if other is not member and other.recovery.is_down]
        run_all(
            [
                *(partial(told, member) for told in self.on_readmitted),
                *(partial(self._release, other) for other in down),
            ]
        )

    def _release(self, member: Member) -> None:
        """Let whoever waits for it choose again."""
        run_all((member.recovery.release, member.gate.release_all))

    def _offer_trials(self, member: Member) -> None:
        """Let some of those that wait for others try a member that may be back, while nobody else is."""
        if self._available or self._is_offering:
            return
        self._is_offering = True
        try:
            left = member.health.free_trials(self._clock.now())
            for other in self._active:
                if left > 0 and other is not member:
                    left -= other.recovery.release(left)
        finally:
            self._is_offering = False

    def _end(self, member: Member) -> None:
        if member.recovery.is_busy:
            self._leaving[member] = self._clock.call_later(REMOVAL_SECONDS, lambda: self._end(member))
            return
        del self._leaving[member]
        task = asyncio.get_running_loop().create_task(member.close())
        # The loop holds tasks weakly; one that nobody holds is collected in the middle of its work.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
