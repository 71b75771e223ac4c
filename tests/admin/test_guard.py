"""Who may ask the admin API."""

import pytest

from proxy.admin.guard import Guard

HOST = ("Host", "127.0.0.1:9901")
TOKEN = "s3cret-token"


def verdict(guard: Guard, *headers: tuple[str, str], host: tuple[str, str] = HOST, is_open: bool = False) -> int | None:
    """Return the status of a refusal."""
    refusal = guard.refusal([host, *headers], is_open=is_open)
    return None if refusal is None else refusal.status


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        (f"Bearer {TOKEN}", None),
        (f"bearer  {TOKEN} ", None),
        (TOKEN, 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Basic {TOKEN}", 401),
        ("Bearer \udcff\udcfe", 401),
    ],
)
def test_the_token_is_needed_whole(authorization: str, expected: int | None) -> None:
    """Only a bearer of the very token is served."""
    assert verdict(Guard(TOKEN), ("Authorization", authorization)) == expected


def test_no_token_is_refused_where_there_is_one() -> None:
    """Without the header nothing but what is open is served."""
    assert verdict(Guard(TOKEN)) == 401
    assert verdict(Guard(TOKEN), is_open=True) is None
    assert verdict(Guard("")) is None


def test_two_tokens_are_refused() -> None:
    """Between two values there is no right one."""
    two = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer other")]

    assert verdict(Guard(TOKEN), *two) == 400


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9901", "127.0.0.1", "127.1.2.3:80", "[::1]:9901"])
def test_loopback_names_are_served_without_a_token(host: str) -> None:
    """What a person types reaches the API."""
    assert verdict(Guard(""), host=("Host", host)) is None


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:9901", "", "[::2]"])
def test_a_rebound_name_is_refused_without_a_token(host: str) -> None:
    """A page whose name was made to resolve to this machine is not served, not even what is open."""
    assert verdict(Guard(""), host=("Host", host)) == 403
    assert verdict(Guard(""), host=("Host", host), is_open=True) == 403


def test_any_name_is_served_with_the_token() -> None:
    """Off the loopback interface names are whatever the network says."""
    headers = ("Authorization", f"Bearer {TOKEN}")

    assert verdict(Guard(TOKEN), headers, host=("Host", "proxy-1.internal:9901")) is None


@pytest.mark.parametrize("token", ["", TOKEN])
@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://127.0.0.1:9901", None),
        ("http://127.0.0.1:3000", 403),
        ("http://localhost:9901", 403),
        ("https://evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_pages_of_others_are_refused(token: str, origin: str, expected: int | None) -> None:
    """A page of another origin, also one of another port of this machine, reaches nothing."""
    headers = [("Origin", origin), ("Authorization", f"Bearer {token}")]

    assert verdict(Guard(token), *headers) == expected
    assert verdict(Guard(token), *headers, is_open=True) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("Content-Type", "application/json")], None),
        ([("Content-Type", "application/json; charset=utf-8")], None),
        ([("Content-Type", "text/plain")], 415),
        ([("Content-Type", "application/x-www-form-urlencoded")], 415),
        ([], 415),
        ([("Content-Type", "application/json"), ("Content-Encoding", "gzip")], 415),
    ],
)
def test_a_body_is_plain_json(headers: list[tuple[str, str]], expected: int | None) -> None:
    """What a form of any page can send is not read."""
    refusal = Guard.body_refusal(headers)

    assert (None if refusal is None else refusal.status) == expected
