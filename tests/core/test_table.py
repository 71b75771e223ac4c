"""The steps from one route table to another."""

from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.core.table import Change, Pattern, Place, Step, Table, renamed, steps

PLACES = st.builds(Place, st.integers(0, 1), st.integers(0, 1))
PATTERNS = st.builds(
    Pattern, st.integers(0, 3), st.integers(0, 1), st.dictionaries(st.sampled_from("abcd"), PLACES, min_size=1)
)
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
    at, facts, places = routes[step.route].at, routes[step.route].facts, dict(routes[step.route].places)
    wanted = new[step.route].places.get(step.upstream)
    match step.change:
        case Change.ROUTE_CHANGED:
            at, facts = new[step.route].at, new[step.route].facts
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
    routes[step.route] = Pattern(at, facts, places)
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
        name: Pattern(pattern.at, pattern.facts, dict(reversed(pattern.places.items())))
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
    stays = Pattern(0, 0, {"a": Place(0, 0)})
    old = {
        "x": Pattern("here", 0, {"a": Place(0, 0), "b": Place(0, 0), "c": Place(0, 0)}),
        "y": stays,
        "z": stays,
    }
    new = {
        "x": Pattern("there", 0, {"a": Place(0, 1), "b": Place(1, 1), "d": Place(0, 0)}),
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
    old = {"x": Pattern(0, 0, {"a": a, "b": b}), "y": Pattern(0, 0, {"c": a})}
    new = {"x": Pattern(0, 0, {"a": a}), "y": Pattern(0, 0, {"c": a, "b": b})}

    assert steps(old, new) == [Step(Change.ADDED, "y", "b"), Step(Change.REMOVED, "x", "b")]


# -- other names


A, B, C = (Place(identity, 0) for identity in "abc")


def test_a_route_at_the_same_place_is_the_same() -> None:
    """Whatever its name and its upstreams are."""
    old = {"main": Pattern("/mcp", 0, {"default": A})}
    new = {"mcp": Pattern("/mcp", 1, {"a": B, "b": C})}

    assert renamed(old, new) == {"main": "mcp"}


def test_a_route_with_the_same_upstream_is_the_same() -> None:
    """A route without a name is called after its path, and has got another one."""
    old = {"mcp": Pattern("/mcp", 0, {"mcp-1": A})}
    new = {"mcp2": Pattern("/mcp2", 0, {"mcp2-1": A, "mcp2-2": B})}

    assert renamed(old, new) == {"mcp": "mcp2"}


def test_the_same_place_counts_more_than_the_same_upstream() -> None:
    """Clients know the place."""
    old = {"x": Pattern("/x", 0, {"a": A}), "y": Pattern("/y", 0, {"b": B})}
    new = {"u": Pattern("/y", 0, {"a": A}), "v": Pattern("/v", 0, {"b": B})}

    assert renamed(old, new) == {"y": "u"}


def test_a_route_that_could_be_either_is_none() -> None:
    """Two come with its upstream, or two go with that of one: nobody can say which is meant."""
    one = {"x": Pattern("/x", 0, {"a": A})}
    two = {"u": Pattern("/u", 0, {"a": A}), "v": Pattern("/v", 0, {"a": A, "b": B})}

    assert renamed(one, two) == renamed(two, one) == {}


def test_a_route_that_stays_is_not_renamed() -> None:
    """Its name is what it is known by, also where another one comes to its place."""
    old = {"x": Pattern("/x", 0, {"a": A})}
    new = {"x": Pattern("/other", 0, {"b": B}), "y": Pattern("/x", 0, {"a": A})}

    assert renamed(old, new) == {}


@given(TABLES, TABLES)
def test_a_renamed_route_goes_and_comes_once(old: Table, new: Table) -> None:
    """Under the new names the steps lead to the new table as before."""
    # The configuration refuses two routes at one place.
    assume(all(len({pattern.at for pattern in table.values()}) == len(table) for table in (old, new)))
    names = renamed(old, new)

    assert set(names) <= set(old) - set(new)
    assert set(names.values()) <= set(new) - set(old)
    assert len(set(names.values())) == len(names)
    table = {names.get(name, name): pattern for name, pattern in old.items()}
    for step in steps(table, new):
        table = taken(table, step, new)
    assert table == new
