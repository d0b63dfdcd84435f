"""A proxy between one operator and the API server, in which a test sees, counts, holds, changes and refuses requests.

    with Proxy(plane.server, plane.certificate) as proxy:
        proxy.fault(refuse(429, retry_after=2), where=creates("jobs"), times=1)
        operator = OperatorProcess(plane, account.kubeconfig(proxy.url))
        ...
        assert [call.status for call in proxy.calls if call.is_write]

It speaks plain HTTP to the operator and passes its Authorization header on, so that the API server sees who asks. A watch is
passed on event by event. A fault stands between a request and its execution: it decides whether, when and how often the request is
forwarded, and what is answered; so whatever may happen to a request on its way is one small function.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web

from tests.testbed import Object

NOT_PASSED_ON = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding", "upgrade", "accept-encoding"})
WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(slots=True)
class Call:
    """One request. `status` is what the operator was answered, 0 while it waits or when its connection was cut.

    `namespace`, `resource`, `name` and `subresource` are those of the path; `asked` and `answered` are times of one clock.
    """

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes
    asked: float
    namespace: str = ""
    resource: str = ""
    name: str = ""
    subresource: str = ""
    status: int = 0
    answered: float = 0.0
    executed: bool = False

    def __post_init__(self) -> None:
        parts = self.path.strip("/").split("/")
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        if parts[:1] == ["namespaces"] and len(parts) > 2:
            self.namespace, parts = parts[1], parts[2:]
        self.resource, self.name, self.subresource = (*parts, "", "", "")[:3]

    def __str__(self) -> str:
        return f"{self.method} {self.path}: {self.status or 'no answer'}"

    @property
    def is_watch(self) -> bool:
        """Whether it asks for a stream of events."""
        return self.query.get("watch") in ("true", "1")

    @property
    def is_write(self) -> bool:
        """Whether it asks for a change that is to stay."""
        return self.method in WRITES and "dryRun" not in self.query

    @property
    def is_list(self) -> bool:
        """Whether it asks for all objects of a kind."""
        return self.method == "GET" and bool(self.resource) and not self.name and not self.is_watch

    @property
    def object(self) -> Object:
        """What the request carries."""
        found: Object = json.loads(self.body)
        return found


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: the API server's, or one that a fault gives in its place."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


Where = Callable[[Call], bool]
Forward = Callable[[], Awaitable[Reply]]
Fault = Callable[[Call, Forward], Awaitable[Reply | None]]
"""Answers a call, having forwarded it or not; None cuts the connection. A watch can only be refused or cut."""


# Which requests


def any_call(call: Call) -> bool:
    """Every request but the streams of events."""
    return not call.is_watch


def writes(call: Call) -> bool:
    """What changes something of a Study; Events are a courtesy, written at leisure."""
    return call.is_write and call.resource != "events"


def creates(resource: str) -> Where:
    """Creations of one kind; dry runs are none."""
    return lambda call: call.method == "POST" and call.is_write and call.resource == resource


def watches(resource: str = "") -> Where:
    """Openings of watches, of one kind or of all."""
    return lambda call: call.is_watch and resource in ("", call.resource)


# What may happen to them


def refuse(status: int, *, retry_after: int | None = None, reason: str = "", executed: bool = False) -> Fault:
    """Answers with an error; with `executed` after the API server has done what was asked."""

    async def fault(call: Call, forward: Forward) -> Reply:
        if executed:
            await forward()
        headers = {"Content-Type": "application/json"}
        if retry_after is not None:
            headers["Retry-After"] = str(retry_after)
        return Reply(status, json.dumps(_status(status, reason)).encode(), headers)

    return fault


def cut(*, executed: bool = False) -> Fault:
    """Cuts the connection; with `executed` after the API server has done what was asked."""

    async def fault(call: Call, forward: Forward) -> None:
        if executed:
            await forward()

    return fault


def delay(seconds: float) -> Fault:
    """An API server that is slow: each request waits."""

    async def fault(call: Call, forward: Forward) -> Reply:
        await asyncio.sleep(seconds)
        return await forward()

    return fault


class Kill:
    """Kills who asks at its first write of a sort, or `skip` later: before the write is executed, or before it is answered.

    Nothing that was sent at the same time is executed, so that the write is the first that is missing, or the last that was done.
    """

    def __init__(self, kill: Callable[[], object], *, where: Where, skip: int = 0, executed: bool) -> None:
        self.call: Call | None = None
        self.done = threading.Event()
        self._kill, self._where, self._skip, self._executed = kill, where, skip, executed

    async def __call__(self, call: Call, forward: Forward) -> Reply | None:
        if self.call is not None:
            await asyncio.to_thread(self.done.wait)
            return None
        if not self._where(call) or self._skip:
            self._skip -= self._where(call)
            return await forward()
        self.call = call
        if self._executed:
            await forward()
        await asyncio.to_thread(self._kill)
        self.done.set()
        return None


class Hold:
    """Holds requests until `release`: before they are forwarded, or with `executed` before they are answered."""

    def __init__(self, *, executed: bool = False) -> None:
        self.held: list[Call] = []
        self.passed: list[Call] = []
        self._executed = executed
        self._released = threading.Event()

    async def __call__(self, call: Call, forward: Forward) -> Reply:
        reply = await forward() if self._executed else None
        self.held.append(call)
        await asyncio.to_thread(self._released.wait)
        reply = reply or await forward()
        self.passed.append(call)
        return reply

    def release(self) -> None:
        """Lets go of all that is held, and holds nothing any more."""
        self._released.set()

    async def overtake(self, call: Call, forward: Forward) -> Reply:
        """A fault: what is held is executed just before this request is."""
        self.release()
        while len(self.passed) < len(self.held):
            await asyncio.sleep(0.01)
        return await forward()


@dataclass(slots=True)
class _Rule:
    fault: Fault
    where: Where
    skip: int
    times: int | None

    def takes(self, call: Call) -> bool:
        if self.times == 0 or not self.where(call):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass(eq=False, slots=True)
class _Stream:
    """A watch that is being passed on."""

    call: Call
    request: web.Request
    response: web.StreamResponse
    upstream: aiohttp.ClientResponse
    expired: bool = False

    async def expire(self) -> None:
        self.expired = True
        await self.write(json.dumps({"type": "ERROR", "object": _status(410, "Expired")}).encode() + b"\n")
        self.upstream.close()

    def cut(self) -> None:
        if self.request.transport is not None:
            self.request.transport.abort()

    async def write(self, data: bytes) -> None:
        with suppress(OSError):  # the operator is gone
            await self.response.write(data)


class Proxy:
    """The proxy, in a thread of its own inside the `with` block. `calls` are all requests so far, in order."""

    def __init__(self, server: str, certificate: Path) -> None:
        self.calls: list[Call] = []
        self.url = ""
        self._server = server
        self._tls = ssl.create_default_context(cafile=str(certificate))
        self._rules: list[_Rule] = []
        self._lost: list[Callable[[str, Object], bool]] = []
        self._streams: set[_Stream] = set()
        self._working: set[asyncio.Future[Reply | None]] = set()
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._started: Future[None] = Future()

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.result(30)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(30)

    # What a test asks and breaks

    def fault(self, fault: Fault, *, where: Where = any_call, skip: int = 0, times: int | None = None) -> None:
        """From now on this happens to requests `where` says so: `times` times (always when left out), after `skip` others.

        The first fault that takes a request is the only one that happens to it.
        """
        self._rules.append(_Rule(fault, where, skip, times))

    def mend(self) -> None:
        """No more faults; watches lose no more events."""
        self._rules.clear()
        self._lost.clear()

    def lose(self, which: Callable[[str, Object], bool]) -> None:
        """Events of watches for which `which(type, object)` is true are not passed on."""
        self._lost.append(which)

    def count(self, where: Where) -> int:
        """How many requests there were of a sort."""
        return sum(map(where, list(self.calls)))

    @property
    def watching(self) -> set[str]:
        """The kinds of which a watch is open."""
        return {stream.call.resource for stream in list(self._streams)}

    def cut_watches(self) -> int:
        """Cuts the connections of all watches; gives how many there were."""
        return self._in_loop(self._end_watches(expired=False))

    def expire_watches(self) -> int:
        """Ends all watches as an API server does that has forgotten where they stood: 410 Expired."""
        return self._in_loop(self._end_watches(expired=True))

    def _in_loop(self, work: Any) -> int:
        done: int = asyncio.run_coroutine_threadsafe(work, self._loop).result(30)
        return done

    async def _end_watches(self, *, expired: bool) -> int:
        streams = list(self._streams)
        for stream in streams:
            if expired:
                await stream.expire()
            else:
                stream.cut()
        return len(streams)

    # How it works

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        application = web.Application(client_max_size=64 << 20)
        application.router.add_route("*", "/{path:.*}", self._handle)
        # A watch of a process that was killed ends with its connection; other requests are carried out all the same.
        runner = web.AppRunner(application, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        connector = aiohttp.TCPConnector(limit=0, ssl=self._tls)
        timeout = aiohttp.ClientTimeout(total=None)
        plain = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")  # as the operator asks, and never compressed
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, skip_auto_headers=plain) as self._session:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            self._started.set_result(None)
            await self._stopped.wait()
            for work in self._working:
                work.cancel()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        call = Call(request.method, request.path, dict(request.query), body, time.monotonic())
        self.calls.append(call)
        rule = next((rule for rule in self._rules if rule.takes(call)), None)
        if call.is_watch and rule is None:
            return await self._pass_stream_on(request, call)

        async def forward() -> Reply:
            async with self._sent(request, call) as response:
                reply = Reply(response.status, await response.read(), dict(response.headers))
            call.executed = True
            return reply

        work: asyncio.Future[Reply | None] = asyncio.ensure_future(rule.fault(call, forward) if rule else forward())
        self._working.add(work)
        work.add_done_callback(self._worked)
        try:
            reply = await asyncio.shield(work)
        except (aiohttp.ClientError, OSError):
            reply = None  # the API server is away
        call.answered = time.monotonic()
        if reply is None:
            return _aborted(request)
        call.status = reply.status
        return web.Response(status=reply.status, body=reply.body, headers=_passed_on(reply.headers))

    def _worked(self, work: asyncio.Future[Reply | None]) -> None:
        self._working.discard(work)
        if not work.cancelled():
            work.exception()  # the handler has seen it, unless the operator is gone

    async def _pass_stream_on(self, request: web.Request, call: Call) -> web.StreamResponse:
        """Each event as soon as it is whole."""
        try:
            async with self._sent(request, call) as upstream:
                call.executed, call.status, call.answered = True, upstream.status, time.monotonic()
                if upstream.status != 200:
                    return web.Response(status=upstream.status, body=await upstream.read(), headers=_passed_on(upstream.headers))
                response = web.StreamResponse(status=200, headers=_passed_on(upstream.headers))
                await response.prepare(request)
                stream = _Stream(call, request, response, upstream)
                self._streams.add(stream)
                try:
                    await self._pump(stream)
                except aiohttp.ClientError:
                    if not stream.expired:
                        raise
                finally:
                    self._streams.discard(stream)
                with suppress(OSError):
                    await response.write_eof()
                return response
        except (aiohttp.ClientError, OSError):
            return _aborted(request)

    async def _pump(self, stream: _Stream) -> None:
        rest = b""
        async for chunk in stream.upstream.content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            kept = b"".join(line + b"\n" for line in lines if not self._is_lost(line))
            if kept and not stream.expired:
                await stream.write(kept)

    def _is_lost(self, line: bytes) -> bool:
        if not self._lost or not line.strip():
            return False
        event = json.loads(line)
        return any(which(event["type"], event["object"]) for which in self._lost)

    def _sent(self, request: web.Request, call: Call) -> Any:
        return self._session.request(
            call.method, self._server + request.raw_path, data=call.body or None, headers=_passed_on(request.headers)
        )


def _status(code: int, reason: str) -> Object:
    """An error as the API server writes it."""
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": "by the test"}


def _passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in NOT_PASSED_ON}


def _aborted(request: web.Request) -> web.Response:
    """The connection is cut, whatever is answered."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=503)
