"""Who may connect: browsers by Origin and Host, everybody by token."""

import pytest
from starlette.datastructures import Headers

from stt_core.access import accepted_token, forbidden, offered_tokens
from stt_core.settings import Settings

GAME = "https://game.example"


def refused(origin: str | None, addressed: str = "127.0.0.1:8018", **settings: object) -> bool:
    """Whether a connection with these headers, bytes on the wire, is refused."""
    headers = [(b"host", addressed.encode())] + ([] if origin is None else [(b"origin", origin.encode())])
    sentence = forbidden(Headers(raw=headers), Settings.from_environment({}, **settings))
    assert sentence is None or sentence.endswith(".")
    return sentence is not None


@pytest.mark.parametrize("host", ["127.0.0.1:8018", "evil.example", "", "stt.example:443"])
def test_whatever_is_no_browser_may_connect(host):
    assert not refused(None, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:8018", "127.0.0.1:8018"),
        ("http://localhost:8018", "localhost:8018"),
        ("HTTP://LocalHost:8018", "localhost:8018"),
        ("http://[::1]:8018", "[::1]:8018"),
        ("http://192.168.0.5:8018", "192.168.0.5:8018"),
        ("http://localhost", "localhost:80"),
        ("https://localhost:443", "localhost"),
    ],
)
def test_the_servers_own_page_may_connect(origin, host):
    assert not refused(origin, host)


@pytest.mark.parametrize(
    "origin",
    [
        GAME,
        "https://GAME.example",
        "https://game.example:443",
        "https://other.example:8443",
    ],
)
def test_a_listed_page_may_connect(origin):
    assert not refused(origin, allowed_origins=f"{GAME}, https://other.example:8443")


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "file://",
        "http://game.example",
        "https://game.example:8443",
        "https://game.example.evil.com",
        "https://evil.com?game.example",
        "https://evil.com/https://game.example",
        "https://evil.com#https://game.example",
        "https://game.example@evil.com",
        "https://evilgame.example",
        "https://sub.game.example",
        "https://game.example.",
        "https://game。example",
        "https://gamе.example",  # a Cyrillic е
        "https://xn--gam-fma.example",
        "https://game.example, https://evil.com",
        "https://game.example:99999",
        "https://game.example:x",
        "https://[::1",
        "//game.example",
        "game.example",
        "*",
        "\x00",
        "http://localhost:3000",
        "http://127.0.0.1",
    ],
)
def test_any_other_page_may_not(origin):
    assert refused(origin, allowed_origins=GAME)


def test_only_the_origin_null_of_the_list_is_null():
    assert not refused("null", allowed_origins="null")


def test_a_star_lets_every_page_in_but_not_by_every_name():
    assert not refused("https://evil.com", allowed_origins="*")
    assert refused("https://evil.com", "evil.com", allowed_origins="*")


@pytest.mark.parametrize(
    "host",
    [
        "evil.com",
        "evil.com:8018",
        "127.0.0.1.evil.com",
        "localhost.evil.com",
        "localhost.",
        "localhost@evil.com",
        "localhost/evil.com",
        "localhost?evil.com",
        "0x7f.1",
        "2130706433",
        "",
        "[::1",
        "stt.example",
    ],
)
def test_a_page_that_points_its_own_name_at_this_machine_may_not_connect(host):
    """DNS rebinding: Origin and Host agree, and are the attacker's."""
    assert refused(f"http://{host}", host)


def test_a_listed_name_is_the_servers_own():
    assert not refused("https://stt.example", "stt.example", allowed_hosts="stt.example, other.example")
    assert not refused("https://stt.example", "STT.example", allowed_hosts="stt.EXAMPLE")
    assert not refused("https://stt.example", "stt.example", allowed_hosts="*")
    assert not refused("http://stt.lan:8018", "stt.lan:8018", host="stt.lan", insecure=True)


def test_with_a_token_any_name_will_do_for_its_own_page():
    assert not refused("https://stt.example", "stt.example", token="sesame")
    assert refused("https://evil.com", "stt.example", token="sesame")


@pytest.mark.parametrize(
    ("headers", "query", "offered"),
    [
        ({}, {}, []),
        ({"authorization": "Bearer a"}, {}, ["a"]),
        ({"authorization": "bearer   a "}, {}, ["a"]),
        ({"authorization": "Bearer a"}, {"token": "b"}, ["a", "b"]),
        ({}, {"token": "b"}, ["b"]),
        ({}, {"token": ""}, []),
        ({"authorization": "Basic a"}, {}, []),
        ({"authorization": "a"}, {}, []),
        ({"authorization": "Bearer"}, {}, [""]),
    ],
)
def test_tokens_are_offered_in_the_header_and_in_the_url(headers, query, offered):
    assert offered == offered_tokens(headers, query)


@pytest.mark.parametrize(
    ("offered", "accepted"),
    [
        (["sesame"], "sesame"),
        (["wrong", "simsim"], "simsim"),
        ([], None),
        ([""], None),
        (["Sesame"], None),
        (["sesam"], None),
        (["sesamee"], None),
        (["sesame,simsim"], None),
        (["sesame\0"], None),
        (["세서미", "\udcff", "x" * 1_000_000], None),
    ],
)
def test_a_token_opens_only_if_it_is_exactly_one_of_the_servers(offered, accepted):
    assert accepted == accepted_token(offered, ("sesame", "simsim"))
