"""Who may connect. Pure decisions; the app carries them out.

A web page can open a WebSocket to any address, this machine's included, and no browser asks the server first. So a
connection that names an `Origin` is a browser's and must come from a page that is known: the server's own, or a listed
one. Games send no `Origin`. Without a token a page could also point its own name at this machine (DNS rebinding) and
become "the same origin", so then the name by which it addresses the server counts as well.
"""

import hmac
import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from stt_core.settings import Settings

DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def forbidden(headers: Mapping[str, str], settings: Settings) -> str | None:
    """Why a browser may not connect, in a sentence; None if it may or is none."""
    origin = headers.get("origin")
    if origin is None:
        return None
    host = headers.get("host", "")
    allowed = _listed(settings.allowed_origins)
    if "*" not in allowed and _origin(origin) not in {*map(_origin, allowed), *_own(origin, host)}:
        return "This page may not connect here: its address is not among the server's --allowed-origins."
    if not (settings.tokens or _is_known_host(host, settings)):
        return "The server is not known by this name: list it in --allowed-hosts, or require a token."
    return None


def offered_tokens(headers: Mapping[str, str], query: Mapping[str, str]) -> list[str]:
    """The tokens that a request brings, in its header or its URL."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    offered = [value.strip()] if scheme.lower() == "bearer" else []
    return offered + ([query["token"]] if query.get("token") else [])


def accepted_token(offered: list[str], tokens: tuple[str, ...]) -> str | None:
    """Which of the server's tokens was offered. Every pair is compared, so that time tells nothing."""
    found = None
    for token in tokens:
        for candidate in offered:
            if hmac.compare_digest(candidate.encode("utf-8", "replace"), token.encode()):
                found = token
    return found


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _origin(text: str) -> tuple[str, str, int | None]:
    """Scheme, name and port; a text that is none of a page's equals only itself."""
    try:
        parts = urlsplit(text.strip().lower())
        if parts.hostname and not (parts.path.strip("/") or parts.query or parts.fragment or parts.username):
            return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        pass
    return "", text, None


def _own(origin: str, host: str) -> set[tuple[str, str, int | None]]:
    """What the origin of the server's own page is, for whoever addresses it as `host`."""
    scheme = _origin(origin)[0]
    return {_origin(f"{scheme}://{host}")} if scheme in ("http", "https") else set()


def _is_known_host(host: str, settings: Settings) -> bool:
    name = _origin(f"http://{host}")[1]
    allowed = _listed(settings.allowed_hosts.lower())
    if "*" in allowed or name in {"localhost", settings.host.lower(), *allowed}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True  # an address cannot be pointed elsewhere
