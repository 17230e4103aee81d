"""`wsdino explore`: the report's explorer over a whole screen, served to this machine's browser.

On the loopback address the page answers to requests that name that address, and that don't come
from another site's page: a name that an attacker points at 127.0.0.1 (DNS rebinding) is another
host. Bound to any other address it asks for a token, which is in the address that is printed.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import secrets
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.web import Application, RequestHandler

from wsdino.errors import InputError
from wsdino.report.viewing import Look

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsdino.report.viewing import Screen

HOST, PORT = "127.0.0.1", 8357
_COOKIE, _TOKEN = "wsdino_explore", "token"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data: blob:; connect-src 'self';"
    " style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, max-age=3600",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Guard:
    """Who may ask.

    Attributes
    ----------
    hosts
        Values of the Host header that are answered; empty: any, with the token.
    token
        Asked for where the page is bound to more than the loopback address; else empty.
    """

    hosts: frozenset[str]
    token: str = ""


def guard_of(host: str, port: int) -> Guard:
    """Decide who may ask, from the address that the page is bound to.

    Parameters
    ----------
    host, port
        The address.

    Returns
    -------
    Guard
    """
    if is_loopback(host):
        names = ("127.0.0.1", "localhost", "[::1]")
        return Guard(frozenset(f"{name}:{port}" for name in names))
    return Guard(frozenset(), secrets.token_urlsafe(24))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Handler(RequestHandler):
    def initialize(self, screen: Screen, page: str, guard: Guard) -> None:
        self.screen, self.page, self.guard = screen, page, guard

    def set_default_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.set_header(name, value)
        self.clear_header("Server")

    def prepare(self) -> None:
        headers, guard = self.request.headers, self.guard
        host = headers.get("Host", "")
        if guard.hosts and host not in guard.hosts:
            self._refuse(f"host {host!r} is not this page's")
            return
        origin = headers.get("Origin")
        if origin is not None and origin != f"{self.request.protocol}://{host}":
            self._refuse(f"origin {origin!r} is not this page")
            return
        # Another site may link to the page, but not read from it or put its pictures into its own.
        is_visit = self.request.path == "/" and headers.get("Sec-Fetch-Dest") == "document"
        if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and not is_visit:
            self._refuse("the request comes from another site")
            return
        if not guard.token:
            return
        given = self.get_query_argument(_TOKEN, "")
        if given and hmac.compare_digest(given, guard.token):
            self.set_cookie(_COOKIE, given, httponly=True, samesite="Strict")
            # The token leaves the address, and with it the browser's history.
            self.redirect("/")
        elif not hmac.compare_digest(self.get_cookie(_COOKIE) or "", guard.token):
            self._refuse("the address lacks the token that wsdino explore printed")

    def _refuse(self, why: str) -> None:
        self.set_status(403)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{why}\n")

    async def answer(self, work: Callable[[], bytes], kind: str) -> None:
        try:
            content = await IOLoop.current().run_in_executor(None, work)
        except (InputError, ValueError) as error:
            self.set_status(400)
            content, kind = f"{error}\n".encode(), "text/plain; charset=utf-8"
        self.set_header("Content-Type", kind)
        self.finish(content)

    async def answer_json(self, work: Callable[[], Any]) -> None:
        await self.answer(lambda: json.dumps(work()).encode(), "application/json")

    def argument(self, name: str, default: str) -> str:
        return str(self.get_query_argument(name, default))


class _Page(_Handler):
    def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.finish(self.page)


class _Field(_Handler):
    async def get(self, site: str) -> None:
        every = ",".join(map(str, range(len(self.screen.store.channels))))
        px, is_middle = self.argument("px", ""), self.argument("middle", "")
        values = {name: self.argument(name, "") for name in ("low", "high")}

        def work() -> bytes:
            chosen = self.argument("channels", every)
            look = Look(
                channels=tuple(int(part) for part in chosen.split(",") if part),
                contrast=self.argument("contrast", "plate"),
                max_px=max(16, int(px)) if px else None,
                is_middle=bool(is_middle),
                **{name: float(value) for name, value in values.items() if value},
            )
            return self.screen.draw(int(site), look)

        await self.answer(work, "image/jpeg")


class _Site(_Handler):
    async def get(self, site: str) -> None:
        await self.answer_json(lambda: self.screen.describe(int(site)))


class _Neighbours(_Handler):
    async def get(self, site: str) -> None:
        num = self.argument("num", "10")
        await self.answer_json(
            lambda: self.screen.neighbours(
                int(site),
                num=min(1000, max(1, int(num))),
                apart=self.argument("apart", "none"),
            )
        )


class _Map(_Handler):
    async def get(self, name: str) -> None:
        await self.answer_json(lambda: self.screen.map_of(name))


class _Find(_Handler):
    async def get(self) -> None:
        await self.answer_json(lambda: self.screen.find(self.argument("text", "")))


def application(screen: Screen, page: str, guard: Guard) -> Application:
    """Make the application.

    Parameters
    ----------
    screen
        What is asked about.
    page
        The page, HTML.
    guard
        Who may ask.

    Returns
    -------
    tornado.web.Application
        `/`; `/field/SITE` (channels, contrast, low, high, px), a JPEG; `/site/SITE`,
        `/neighbours/SITE` (num, apart), `/map/NAME` and `/find` (text), JSON.
    """
    shared = {"screen": screen, "page": page, "guard": guard}
    routes: list[Any] = [
        (r"/", _Page, shared),
        (r"/field/(\d+)", _Field, shared),
        (r"/site/(\d+)", _Site, shared),
        (r"/neighbours/(\d+)", _Neighbours, shared),
        (r"/map/(\w+)", _Map, shared),
        (r"/find", _Find, shared),
    ]
    return Application(routes, default_handler_class=_Nothing, default_handler_args=shared,
                       log_function=lambda _: None)  # fmt: skip


class _Nothing(_Handler):
    def get(self) -> None:
        self.set_status(404)
        self.finish("no such page\n")


def serve(
    screen: Screen,
    page: str,
    *,
    host: str = HOST,
    port: int = PORT,
    ready: Callable[[str], None],
) -> None:
    """Serve until a signal ends the process.

    Parameters
    ----------
    screen, page
        See :func:`application`.
    host, port
        Address to bind to; port 0: any free one.
    ready
        Called with the address to open once requests are answered.

    Raises
    ------
    InputError
        If the address can't be bound to.
    """
    from tornado.netutil import bind_sockets

    try:
        sockets = bind_sockets(port, host)
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(
            f"--host {host} --port {port}: can't be bound to: {error}; give another --port"
        ) from error
    bound = int(sockets[0].getsockname()[1])
    guard = guard_of(host, bound)

    async def forever() -> None:
        server = HTTPServer(application(screen, page, guard))
        server.add_sockets(sockets)
        name = f"[{host}]" if ":" in host else host
        ready(f"http://{name}:{bound}/" + (f"?{_TOKEN}={guard.token}" if guard.token else ""))
        # What a signal raises inside of a request would be lost there.
        stopped, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        await stopped.wait()

    asyncio.run(forever())
