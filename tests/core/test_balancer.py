"""Who gets the next session: each policy's shares, and what changes when one comes or goes."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.balancer import (
    POLICIES,
    Candidate,
    ConsistentHash,
    LeastSessions,
    Policy,
    RoundRobin,
    Share,
    Weighted,
)

NAMES = "abcdefgh"
weights = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 12), min_size=1)


def candidates(weighted: dict[str, int], loads: dict[str, int] | None = None) -> list[Candidate]:
    """Return candidates with these weights and loads."""
    return [Candidate(name, weight, (loads or {}).get(name, 0)) for name, weight in weighted.items()]


def chosen(policy: Policy, choices: list[Candidate], key: str = "") -> str:
    """Return the name of the chosen one."""
    return choices[policy.pick(choices, key)].name


def test_the_policies_are_those_of_the_configuration() -> None:
    """Each name that can be configured has its policy."""
    assert set(POLICIES) == {"least_sessions", "round_robin", "weighted", "consistent_hash"}


@given(st.sampled_from(sorted(POLICIES)), st.lists(st.tuples(weights, st.text(max_size=3)), min_size=1, max_size=30))
def test_one_of_the_candidates_is_chosen(name: str, rounds: list[tuple[dict[str, int], str]]) -> None:
    """Whoever comes and goes between two questions, and the same questions get the same answers."""
    first, second = POLICIES[name](), POLICIES[name]()
    for weighted, key in rounds:
        choices = candidates(weighted)
        index = first.pick(choices, key)

        assert 0 <= index < len(choices)
        assert second.pick(choices, key) == index


@given(weights, st.integers(1, 4))
def test_least_sessions_fills_by_weight(weighted: dict[str, int], times: int) -> None:
    """From nothing, each gets exactly its part of as many sessions as the weights add up to."""
    policy, loads = LeastSessions(), Counter[str]()
    for _ in range(times * sum(weighted.values())):
        loads[chosen(policy, candidates(weighted, loads))] += 1

    assert dict(loads) == {name: times * weight for name, weight in weighted.items()}


@given(weights, st.dictionaries(st.sampled_from(NAMES), st.integers(0, 30)))
def test_least_sessions_takes_who_has_least(weighted: dict[str, int], loads: dict[str, int]) -> None:
    """With the one more, nobody else would have less for its weight."""
    choices = candidates(weighted, loads)
    index = LeastSessions().pick(choices, "")
    most = choices[index]

    assert all((most.load + 1) * other.weight <= (other.load + 1) * most.weight for other in choices)


def test_least_sessions_takes_turns_where_all_have_the_same() -> None:
    """Sessions that open and close at once are spread, too."""
    policy = LeastSessions()

    assert [chosen(policy, candidates({"a": 1, "b": 1, "c": 1})) for _ in range(6)] == list("abcabc")


def test_round_robin_gives_each_its_turn() -> None:
    """Weights and loads change nothing."""
    policy = RoundRobin()

    assert [chosen(policy, candidates({"a": 9, "b": 1, "c": 1}, {"a": 7})) for _ in range(6)] == list("abcabc")


def test_round_robin_goes_on_when_one_is_away() -> None:
    """Who was away has its turn as soon as it is back, and only one."""
    policy, all_three = RoundRobin(), {"a": 1, "b": 1, "c": 1}
    turns = [chosen(policy, candidates(all_three)) for _ in range(4)]
    turns += [chosen(policy, candidates({"a": 1, "c": 1})) for _ in range(4)]
    turns += [chosen(policy, candidates(all_three)) for _ in range(6)]

    assert "".join(turns) == "abca" + "caca" + "bcabca"


def test_names_that_are_gone_are_forgotten() -> None:
    """A pool whose members are swapped every day remembers the present ones."""
    policy = RoundRobin()
    for number in range(1000):
        policy.pick(candidates({"a": 1, f"b{number}": 1}), "")

    assert len(policy._turns) <= 2 * 2 + 16 + 1
    assert chosen(policy, candidates({"a": 1, "b999": 1})) == "a"


@given(weights, st.integers(1, 3))
def test_weighted_gives_exact_shares(weighted: dict[str, int], times: int) -> None:
    """Over as many turns as the weights add up to, each has as many as its weight."""
    policy = Weighted()
    turns = Counter(chosen(policy, candidates(weighted)) for _ in range(times * sum(weighted.values())))

    assert turns == {name: times * weight for name, weight in weighted.items()}


def test_weighted_spreads_the_turns() -> None:
    """The heavy one does not have all its turns in a row."""
    policy = Weighted()

    assert "".join(chosen(policy, candidates({"a": 5, "b": 1, "c": 1})) for _ in range(7)) == "aabacaa"


def test_weighted_saves_no_turns_for_who_was_away() -> None:
    """One that comes back gets its share, not all that it has missed."""
    policy, both = Weighted(), {"a": 1, "b": 1}
    for _ in range(3):
        policy.pick(candidates(both), "")
    for _ in range(100):
        policy.pick(candidates({"a": 1}), "")

    assert Counter(chosen(policy, candidates(both)) for _ in range(10)) == {"a": 5, "b": 5}


@given(weights, st.text(min_size=1), st.data())
def test_a_key_stays_where_it_is_whoever_goes(weighted: dict[str, int], key: str, data: st.DataObject) -> None:
    """Another one's going, the order and the loads change nothing: only the keys of the one that goes move."""
    policy = ConsistentHash()
    home = chosen(policy, candidates(weighted), key)
    others = data.draw(st.lists(st.sampled_from(sorted(weighted)), unique=True))
    kept = {name: weight for name, weight in weighted.items() if name not in others or name == home}
    order = data.draw(st.permutations(sorted(kept)))

    assert chosen(policy, candidates({name: kept[name] for name in order}, {home: 99}), key) == home


@given(weights, st.text(min_size=1), st.integers(1, 12))
def test_a_key_moves_only_to_the_one_that_comes(weighted: dict[str, int], key: str, weight: int) -> None:
    """Who joins takes keys from the others and moves none between them; the same with more weight."""
    policy = ConsistentHash()
    home = chosen(policy, candidates(weighted), key)

    assert chosen(policy, candidates({**weighted, "new": weight}), key) in {home, "new"}

    for name, before in weighted.items():
        heavier = {**weighted, name: before + weight}

        assert chosen(policy, candidates(heavier), key) in {home, name}


def test_keys_are_spread_by_weight() -> None:
    """Of many keys each gets its part, give or take what chance allows (the keys are always the same)."""
    policy, choices = ConsistentHash(), candidates({"a": 1, "b": 2, "c": 5})
    homes = Counter(chosen(policy, choices, f"user-{number}") for number in range(8000))

    assert {name: round(count / 500) for name, count in homes.items()} == {"a": 2, "b": 4, "c": 10}


def test_without_a_key_the_one_with_least_is_taken() -> None:
    """Nobody is known to whom it could be true."""
    policy = ConsistentHash()

    assert chosen(policy, candidates({"a": 1, "b": 1}, {"a": 3, "b": 2})) == "b"
    assert chosen(policy, candidates({"a": 1, "b": 1}, {"a": 1, "b": 2})) == "a"


@pytest.mark.parametrize("percent", [0, 1, 7, 33, 50, 99, 100])
def test_a_share_is_exact_all_the_time(percent: int) -> None:
    """After any number of them the part is off by less than one."""
    share, taken = Share(percent), 0
    for count in range(1, 1001):
        taken += share.take()

        assert taken == count * percent // 100
