"""The steps from one route table to another."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.table import Change, Pattern, Place, Step, Table, steps

PLACES = st.builds(Place, st.integers(0, 1), st.integers(0, 1))
PATTERNS = st.builds(Pattern, st.integers(0, 1), st.dictionaries(st.sampled_from("abcd"), PLACES, min_size=1))
TABLES = st.dictionaries(st.sampled_from("xyz"), PATTERNS)


def taken(table: Table, step: Step, new: Table) -> dict[str, Pattern]:
    """Take one step as whoever runs the routes would."""
    routes = dict(table)
    if step.change is Change.ROUTE_REMOVED:
        del routes[step.route]
        return routes
    if step.change is Change.ROUTE_ADDED:
        assert step.route not in routes
        routes[step.route] = new[step.route]
        return routes
    facts, places = routes[step.route].facts, dict(routes[step.route].places)
    wanted = new[step.route].places.get(step.upstream)
    match step.change:
        case Change.ROUTE_CHANGED:
            facts = new[step.route].facts
        case Change.ADDED:
            assert step.upstream not in places
            places[step.upstream] = wanted
        case Change.REPLACED:
            assert places[step.upstream].identity != wanted.identity
            places[step.upstream] = wanted
        case Change.ADJUSTED:
            assert places[step.upstream].identity == wanted.identity
            places[step.upstream] = wanted
        case Change.REMOVED:
            del places[step.upstream]
    routes[step.route] = Pattern(facts, places)
    return routes


@given(TABLES, TABLES)
def test_the_steps_lead_from_the_old_to_the_new(old: Table, new: Table) -> None:
    """Taken one by one they give the new table, and no pool is empty on the way."""
    table = dict(old)
    for step in steps(old, new):
        before = table
        table = taken(before, step, new)

        assert table != before, "a step that changes nothing"
        assert all(pattern.places for pattern in table.values())
    assert table == new


@given(TABLES)
def test_equal_tables_need_no_step(table: Table) -> None:
    """Nothing is touched by what says the same, in whatever order."""
    turned = {
        name: Pattern(pattern.facts, dict(reversed(pattern.places.items())))
        for name, pattern in reversed(table.items())
    }

    assert steps(table, turned) == []


@given(TABLES, TABLES)
def test_steps_come_in_their_order(old: Table, new: Table) -> None:
    """What leaves a route's place free comes first, and upstreams come before others go."""
    order = [list(Change).index(step.change) for step in steps(old, new)]

    assert order == sorted(order)


def test_each_kind_of_change_is_told_from_the_others() -> None:
    """A route and an upstream each come, change and go; an upstream changes in place or is another one."""
    stays = Pattern(0, {"a": Place(0, 0)})
    old = {
        "x": Pattern("here", {"a": Place(0, 0), "b": Place(0, 0), "c": Place(0, 0)}),
        "y": stays,
        "z": stays,
    }
    new = {
        "x": Pattern("there", {"a": Place(0, 1), "b": Place(1, 1), "d": Place(0, 0)}),
        "y": stays,
        "w": stays,
    }

    assert steps(old, new) == [
        Step(Change.ROUTE_REMOVED, "z"),
        Step(Change.ROUTE_CHANGED, "x"),
        Step(Change.ROUTE_ADDED, "w"),
        Step(Change.ADDED, "x", "d"),
        Step(Change.ADJUSTED, "x", "a"),
        Step(Change.REPLACED, "x", "b"),
        Step(Change.REMOVED, "x", "c"),
    ]


def test_an_upstream_does_not_cross_routes() -> None:
    """What goes from one route to another is added to the one and removed from the other."""
    a, b = Place(0, 0), Place(1, 0)
    old = {"x": Pattern(0, {"a": a, "b": b}), "y": Pattern(0, {"c": a})}
    new = {"x": Pattern(0, {"a": a}), "y": Pattern(0, {"c": a, "b": b})}

    assert steps(old, new) == [Step(Change.ADDED, "y", "b"), Step(Change.REMOVED, "x", "b")]
