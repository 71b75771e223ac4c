"""The records: frozen, of one make, and nothing in them that must not be shown."""

import inspect

import msgspec
import pytest

from proxy.observe import hooks, records
from proxy.observe.records import Record, SessionClosed, SessionMoved


def test_records_are_frozen_and_say_session_and_request() -> None:
    """A record can be shared, nothing changes it; no session and no request are empty strings."""
    record = SessionClosed(reason="expired")

    assert (record.session, record.request_id) == ("", "")
    with pytest.raises(AttributeError):
        record.reason = "deleted"  # type: ignore[misc]
    assert all(cls.__struct_config__.frozen for cls in Record.__subclasses__())


def test_records_hold_plain_values_only() -> None:
    """What is kept for later holds nothing alive: texts, numbers and yes or no."""
    kinds = {field.type for cls in Record.__subclasses__() for field in msgspec.structs.fields(cls)}

    assert kinds == {str, int, float, bool}


def test_the_observer_contract_offers_every_record() -> None:
    """Who calls a verb finds its record beside it."""
    own = {name for name, value in vars(records).items() if inspect.isclass(value)}

    assert own <= set(hooks.__all__)
    assert all(getattr(hooks, name) is getattr(records, name) for name in own)


def test_a_move_names_both_ends() -> None:
    """Of a session that changed its member, the record says from where and to where."""
    record = SessionMoved(session="0123456789", upstream="b", previous="a", generation=2, waited_seconds=0.5)

    assert msgspec.to_builtins(record) == {
        "session": "0123456789",
        "request_id": "",
        "upstream": "b",
        "previous": "a",
        "generation": 2,
        "waited_seconds": 0.5,
    }
