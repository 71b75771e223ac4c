"""The way to the admin API: what it asks, and how it tells what went wrong."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from proxy.commands import client
from proxy.commands.client import AdminClient, parse_admin, part
from proxy.commands.outcome import NOT_FOUND, REFUSED, UNREACHABLE, USAGE, CommandError
from proxy.control.base import ControlError
from proxy.observe.hooks import SessionClosed
from support.operators import TOKEN, ThreadedAdmin


@contextmanager
def answering(*pieces: bytes, is_cut: bool = True) -> Iterator[str]:
    """Serve one connection with these bytes, whatever it asks, and tell where; not cut, it stays open."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            for piece in pieces:
                connection.sendall(piece)
            if not is_cut:
                over.wait(10)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        thread.join(10)
        listener.close()


def failure(address: str, method: str = "GET") -> CommandError:
    """Ask for something and return how it failed."""
    with pytest.raises(CommandError) as caught:
        AdminClient(parse_admin(address)).ask(method, "/status")
    return caught.value


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:9901", "http://127.0.0.1:9901"),
        ("HTTP://localhost:1/", "http://localhost:1"),
        ("proxy.internal:80", "http://proxy.internal:80"),
        ("[::1]:9901", "http://[::1]:9901"),
        ("0.0.0.0:9901", "http://127.0.0.1:9901"),
        ("http://[::]:9901", "http://[::1]:9901"),
    ],
)
def test_an_address_may_be_written_in_several_ways(text: str, url: str) -> None:
    """A URL, a host with a port, or what a listener is told to listen on."""
    assert parse_admin(text).url == url


@pytest.mark.parametrize("text", ["", "9901", "localhost", "https://a:1", "http://a:1/x", "a:0", "fd:3", "a:99999"])
def test_what_is_no_address_is_wrong_usage(text: str) -> None:
    """It is refused before anything is asked."""
    with pytest.raises(CommandError, match="--admin: expected http://host:port") as caught:
        parse_admin(text)
    assert caught.value.exit_code == USAGE


def test_a_token_that_no_header_can_hold_is_wrong_usage() -> None:
    """It is refused before it could break a header."""
    with pytest.raises(CommandError, match="--token") as caught:
        AdminClient(parse_admin("a:1"), "a\r\nb")
    assert caught.value.exit_code == USAGE


def test_an_answer_is_decoded(admin: ThreadedAdmin) -> None:
    """JSON comes back as values, no body as None, and queries leave out what was not given."""
    asking = AdminClient(parse_admin(admin.url))

    assert asking.ask("GET", "/sessions", query={"limit": 1, "route": "", "state": None})["total"] == 3
    assert asking.ask("DELETE", f"/sessions/{part('sess01')}") is None
    assert asking.ask("POST", "/upstreams", {"url": "http://a/"})["name"] == "c"


def test_a_name_with_anything_in_it_arrives_whole(admin: ThreadedAdmin) -> None:
    """A URL in the place of a name is escaped."""
    asking = AdminClient(parse_admin(admin.url))

    assert asking.ask("GET", f"/upstreams/{part('http://127.0.0.1:3001/a')}")["name"] == "a"


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("not_found", NOT_FOUND), ("ambiguous", REFUSED), ("conflict", REFUSED), ("invalid", USAGE), ("odd", REFUSED)],
)
def test_each_refusal_has_its_exit_code(admin: ThreadedAdmin, code: str, exit_code: int) -> None:
    """The proxy's words are told, its code becomes the command's."""
    admin.control.error = ControlError(code, "because")

    with pytest.raises(CommandError, match="^because$") as caught:
        AdminClient(parse_admin(admin.url)).ask("POST", "/reload")
    assert caught.value.exit_code == exit_code


def test_the_token_is_sent_and_its_lack_is_told() -> None:
    """With it the proxy answers; without it the message says how to give it."""
    with ThreadedAdmin(TOKEN) as admin:
        address = parse_admin(admin.url)
        version = AdminClient(address, TOKEN).ask("GET", "/status")["version"]
        with pytest.raises(CommandError, match="--token") as caught:
            AdminClient(address, "wrong").ask("GET", "/status")

    assert (version, caught.value.exit_code) == ("0.1.0", USAGE)


def test_nobody_there_is_unreachable() -> None:
    """A refused connection is told with its address."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        error = failure(address)

    assert error.exit_code == UNREACHABLE
    assert str(error) == f"the admin API at http://{address} cannot be reached: Connection refused"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\n\r\n",
        b'HTTP/1.1 400 Bad\r\nContent-Length: 13\r\n\r\n{"error":"no"}',
        b"SSH-2.0-x\r\n",
        b"",
    ],
)
def test_what_is_no_admin_api_is_unreachable(answer: bytes) -> None:
    """Another server on that port is told from a refusal."""
    with answering(answer) as address:
        assert failure(address).exit_code == UNREACHABLE


@pytest.mark.parametrize(("method", "is_told"), [("GET", False), ("POST", True)])
def test_silence_is_given_up(monkeypatch: pytest.MonkeyPatch, method: str, is_told: bool) -> None:
    """A proxy that does not answer is not waited for, and whether a change was made is said to be unknown."""
    monkeypatch.setattr(client, "TIMEOUT_SECONDS", 0.1)
    with answering(is_cut=False) as address:
        error = failure(address, method)

    assert error.exit_code == UNREACHABLE
    assert "did not answer within 0.1 s" in str(error)
    assert ("whether it was done is not known" in str(error)) is is_told


def test_events_are_read_with_their_ids(admin: ThreadedAdmin) -> None:
    """The first tells the place alone, the others what happened."""
    admin.do(lambda: admin.feed.session_closed(SessionClosed(reason="expired")))
    place, event = AdminClient(parse_admin(admin.url)).events("0", follow=False)

    assert (place.id, place.body) == ("f00d-0", {})
    assert (event.id, event.body["event"], event.body["reason"]) == ("f00d-1", "session_closed", "expired")


def test_a_refused_feed_is_told() -> None:
    """Without the token there are no events, and no waiting for them."""
    with ThreadedAdmin(TOKEN) as admin, pytest.raises(CommandError) as caught:
        list(AdminClient(parse_admin(admin.url)).events("", follow=True))

    assert caught.value.exit_code == USAGE


def test_a_silent_feed_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without events and heartbeats the connection counts as lost."""
    monkeypatch.setattr(client, "SILENCE_SECONDS", 0.1)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    with answering(head, b"id: x-1\n\n", is_cut=False) as address, pytest.raises(CommandError) as caught:
        list(AdminClient(parse_admin(address)).events("", follow=True))

    assert caught.value.exit_code == UNREACHABLE
