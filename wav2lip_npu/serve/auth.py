"""Who may call: tokens, the page's cookie, and requests of foreign web pages."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from wav2lip_npu.serve.problems import Problem

COOKIE = "wav2lip_token"
BEARER = "bearer."
"""Prefix of a token among the protocols of a WebSocket."""
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
_LOCAL_NAMES = {"localhost", "127.0.0.1", "[::1]"}
_OPEN_PATHS = {"/healthz", "/readyz", "/openapi.json", "/v1/limits", "/v1/session"}
"""Paths that need no token: probes of an orchestrator, and what the page needs to ask for the token. Paths
outside of /v1, except /metrics, need none either: they are static."""


class Tokens:
    """The tokens of the service. Comparisons take the same time for every wrong token."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = [token.encode() for token in tokens]
        self._cookies = [_cookie_value(token) for token in self._tokens]

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def client_of(self, headers: Headers) -> str | None:
        """Return the name of the client whose token or cookie a request has; None for a wrong or no token."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if given:
            return _match(given, self._tokens, self._tokens)
        return _match(_cookie(headers), self._cookies, self._tokens)

    def client_of_protocols(self, protocols: Iterable[str]) -> str | None:
        """Return the name of the client whose token a WebSocket names as a protocol `bearer.TOKEN`, or None.

        Pages of browsers cannot send a header with a WebSocket.
        """
        given = next((name for name in protocols if name.startswith(BEARER)), None)
        return None if given is None else _match(given[len(BEARER) :], self._tokens, self._tokens)

    def cookie_for(self, token: str) -> str | None:
        """Return the value of the cookie for a token; None for a wrong token."""
        if _match(token, self._tokens, self._tokens) is None:
            return None
        return _cookie_value(token.encode()).decode()


class Guard:
    """ASGI middleware that refuses requests without a token, and those that a foreign web page has caused.

    A browser sends cookies with requests of foreign pages, and lets such pages send requests to this machine.
    So a request without a token in its headers must come from a page of this service if it changes anything.
    Without tokens, the host of the address must be this machine: a foreign page may point its own name to it.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens, host: str) -> None:
        self._app, self._tokens = app, tokens
        self._hosts = {*_LOCAL_NAMES, host, f"[{host}]"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            scope.setdefault("state", {})["client"] = self._client(HTTPConnection(scope))
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _client(self, request: HTTPConnection) -> str:
        """Return the name of the client of a request. Raises `Problem`."""
        headers, path = request.headers, request.url.path
        changes = request.scope["type"] == "websocket" or request.scope["method"] not in _SAFE_METHODS
        has_header = "authorization" in headers or "x-api-key" in headers
        protocol_client = self._tokens.client_of_protocols(request.scope.get("subprotocols", ()))
        if not self._tokens and _without_port(headers.get("host", "")) not in self._hosts:
            raise Problem(
                403,
                f"the host {headers.get('host', '')!r:.80} is not this machine. A service for other names "
                "needs a token: start it with --token_file.",
            )
        if changes and not has_header and protocol_client is None and not _same_origin(headers):
            raise Problem(
                403,
                "this request comes from another web page. Send the token as Authorization: Bearer TOKEN.",
            )
        if not self._tokens:
            return f"address {request.client.host if request.client else 'local'}"
        client = protocol_client or self._tokens.client_of(headers)
        if client is None and _needs_token(path):
            raise Problem(
                401,
                "the token is missing or wrong. Send it as Authorization: Bearer TOKEN.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return client or "anonymous"


def client_name(request: HTTPConnection) -> str:
    """Return the name of the client of a request, by its token or address."""
    return str(request.scope["state"]["client"])


def _needs_token(path: str) -> bool:
    return path not in _OPEN_PATHS and (path == "/metrics" or path == "/v1" or path.startswith("/v1/"))


def _match(given: str, secrets: Sequence[bytes], names: Sequence[bytes]) -> str | None:
    """Return the name of the client with a secret; all of them are compared."""
    text = given.encode("utf-8", "surrogateescape")
    matches = [hmac.compare_digest(text, secret) for secret in secrets]
    if not any(matches):
        return None
    return f"token {hashlib.sha256(names[matches.index(True)]).hexdigest()[:12]}"


def _cookie_value(token: bytes) -> bytes:
    return hmac.new(token, b"wav2lip-npu session", hashlib.sha256).hexdigest().encode()


def _cookie(headers: Headers) -> str:
    try:
        cookies = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    return cookies[COOKIE].value if COOKIE in cookies else ""


def _same_origin(headers: Headers) -> bool:
    """Return whether a request comes from a page of this service, or not from a browser."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site in ("same-origin", "none")
    return origin is None or origin.partition("://")[2] == headers.get("host")


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host
