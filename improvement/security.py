"""Who may call what: API keys by role, and a limit on request bodies."""

import hmac
import json
from collections.abc import Iterable
from typing import Any

from fastapi import HTTPException, Request
from pydantic import SecretStr
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ApiKeys:
    """Keys of the two roles; an operator may do all that a client may.

    Without any key the service is open, which `Settings` allows on loopback only.
    """

    def __init__(self, client: Iterable[SecretStr], operator: Iterable[SecretStr]) -> None:
        self._client = [key.get_secret_value().encode() for key in client]
        self._operator = [key.get_secret_value().encode() for key in operator]

    def client(self, request: Request) -> None:
        """Let clients and operators pass; raises 401."""
        self._check(request, self._client + self._operator)

    def operator(self, request: Request) -> None:
        """Let operators pass; raises 401, or 403 for a client's key."""
        try:
            self._check(request, self._operator)
        except HTTPException:
            self.client(request)
            raise HTTPException(403, "this path needs an operator key") from None

    def _check(self, request: Request, allowed: list[bytes]) -> None:
        if not self._client and not self._operator:
            return
        given = _given(request).encode("utf-8", "surrogateescape")
        # Every key is compared, each in constant time: neither the match nor its place shows in the timing.
        if not sum(hmac.compare_digest(given, key) for key in allowed):
            raise HTTPException(
                401,
                "expected an API key: 'X-API-Key: ...' or 'Authorization: Bearer ...'",
                {"WWW-Authenticate": "Bearer"},
            )


def _given(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return request.headers.get("x-api-key") or (token if scheme.lower() == "bearer" else "")


class BodyLimit:
    """ASGI middleware: a body over ``max_bytes`` is answered 413, declared or not."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting what it sends."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max:
            await self._refuse(send)
            return
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if len(body) > self._max:
                await self._refuse(send)
                return
            if not message.get("more_body", False):
                break
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, replay, send)

    async def _refuse(self, send: Send) -> None:
        detail = f"the request body is larger than {self._max} bytes"
        content: Any = json.dumps({"detail": detail}).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": content})
