"""The web app of a study: personal links, votes, and a blind page for the administrator.

Every response has a strict content security policy, and a page's only script and style carry its nonce. A token is the
only credential: it is in the link, so no address leaves the site (Referrer-Policy) and no log holds a request.
"""

import json
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from distft.config.errors import Unavailable
from distft.human_eval.pages import Pages, votes_csv
from distft.human_eval.study import CHOICES, SCALE, Settings, Study
from distft.human_eval.votes import Ballot, Outcome, Votes
from distft.runtime.process import exits_on

MAX_BODY = 64 * 1024  # bytes
MAX_COMMENT = 2000  # characters
ANSWERS: Mapping[Outcome, tuple[int, str]] = {
    "not_yours": (403, "This page belongs to another link."),
    "other": (409, "Another vote is saved for this page. Undo it first."),
    "closed": (409, "The study is closed."),
    "no_consent": (403, "Read and accept the first page before you vote."),
    "not_last": (409, "Only the latest vote can be undone."),
}


class Refused(Exception):
    """A request gets this status and text, and nothing happens."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


@dataclass(frozen=True)
class App:
    """The handlers. origin: public address, behind a proxy; None: that of the request."""

    votes: Votes
    pages: Pages
    settings: Settings
    origin: str | None = None

    def starlette(self) -> Starlette:
        routes = [
            Route("/r/{token}", self.guarded(self.rater), methods=["GET"]),
            Route("/r/{token}/consent", self.guarded(self.consent), methods=["POST"]),
            Route("/r/{token}/vote", self.guarded(self.vote), methods=["POST"]),
            Route("/r/{token}/undo", self.guarded(self.undo), methods=["POST"]),
            Route("/admin/{token}", self.guarded(self.admin), methods=["GET"]),
            Route("/admin/{token}/votes.csv", self.guarded(self.csv), methods=["GET"]),
            Route("/{rest:path}", self.guarded(self.nothing), methods=["GET", "POST"]),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: self.wrong_method})

    def guarded(self, handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """Returns the handler behind the checks of every request, with the headers of every response."""

        async def handle(request: Request) -> Response:
            request.state.nonce = secrets.token_urlsafe(16)
            try:
                self.check_site(request)
                response = await handler(request)
            except Refused as refused:
                response = self.refusal(request, refused)
            response.headers.update(headers(request.state.nonce))
            return response

        return handle

    def check_site(self, request: Request) -> None:
        """Raises Refused for a request that another site's page made; following a link is allowed."""
        came_from = request.headers.get("sec-fetch-site", "")
        is_link = request.method == "GET" and request.headers.get("sec-fetch-mode", "navigate") == "navigate"
        if came_from in ("cross-site", "same-site") and not is_link:
            raise Refused(403, "This request came from another site.")
        origin = request.headers.get("origin")
        if origin is not None and request.method != "GET":
            known = urlsplit(self.origin).netloc if self.origin else request.headers.get("host", "")
            if urlsplit(origin).netloc != known:
                raise Refused(403, "This request came from another site.")

    def refusal(self, request: Request, refused: Refused) -> Response:
        if wants_json(request):
            return JSONResponse({"error": refused.text}, refused.status)
        return HTMLResponse(self.pages.message(refused.text, request.state.nonce), refused.status)

    def rater_of(self, request: Request) -> int:
        rater = self.votes.rater_of(request.path_params["token"])
        if rater is None:
            raise Refused(401, "This link is not valid. Check that it was copied whole.")
        return rater

    async def rater(self, request: Request) -> Response:
        rater = self.rater_of(request)
        before = self.votes.page(rater, request.query_params.get("after", ""))
        progress = self.votes.progress(rater)
        if request.headers.get("accept", "").startswith("application/json"):
            item = progress.current.slot if progress.current and progress.consented else None
            return JSONResponse({"item": item, "done": progress.done, "total": progress.total})
        base = f"/r/{request.path_params['token']}"
        return HTMLResponse(self.pages.rater(progress, base, request.state.nonce, before))

    async def consent(self, request: Request) -> Response:
        self.votes.consent(self.rater_of(request))
        return self.next_page(request)

    async def vote(self, request: Request) -> Response:
        rater = self.rater_of(request)
        ballot = ballot_of(await fields_of(request), self.settings)
        self.acknowledge(self.votes.vote(rater, ballot))
        page = self.votes.page(rater, ballot.slot)
        after = f"?after={quote(ballot.slot)}" if page and page.kind == "practice" else ""
        return self.next_page(request, after, item=ballot.slot, choice=ballot.choice)

    async def undo(self, request: Request) -> Response:
        rater = self.rater_of(request)
        slot = text_of(await fields_of(request), "item")
        self.acknowledge(self.votes.undo(rater, slot))
        return self.next_page(request, item=slot)

    def acknowledge(self, outcome: Outcome) -> None:
        if outcome in ANSWERS:
            raise Refused(*ANSWERS[outcome])

    def next_page(self, request: Request, query: str = "", **saved: str) -> Response:
        if wants_json(request):
            return JSONResponse({"saved": True} | saved)
        return RedirectResponse(f"/r/{request.path_params['token']}{query}", 303)

    async def wrong_method(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return PlainTextResponse("This is not possible here.", status, headers(""))

    def check_admin(self, request: Request) -> None:
        if not self.votes.is_admin(request.path_params["token"]):
            raise Refused(401, "This link is not valid. Check that it was copied whole.")

    async def admin(self, request: Request) -> Response:
        self.check_admin(request)
        base = f"/admin/{request.path_params['token']}"
        votes, closed = self.votes.all_votes(), self.votes.is_closed()
        return HTMLResponse(self.pages.admin(self.votes.raters(), votes, closed, base, request.state.nonce))

    async def csv(self, request: Request) -> Response:
        self.check_admin(request)
        return PlainTextResponse(votes_csv(self.votes.all_votes()), media_type="text/csv")

    async def nothing(self, request: Request) -> Response:
        raise Refused(401, "Open the personal link that you were sent.")


def headers(nonce: str) -> dict[str, str]:
    """Returns the headers of every response."""
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "same-origin",  # no-referrer would make the Origin of a form null
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }


def wants_json(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith("application/json")


async def fields_of(request: Request) -> Mapping[str, object]:
    """Returns the fields of a JSON or form body; Refused for another type, a large or a malformed one."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise Refused(413, "This is too long.")
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    try:
        if kind == "application/json":
            values = json.loads(body)
        elif kind == "application/x-www-form-urlencoded":
            values = form_fields(parse_qs(body.decode(), max_num_fields=100))
        else:
            raise Refused(415, "Send application/json or a form.")
    except (ValueError, RecursionError):
        raise Refused(400, "This body is malformed.") from None
    if not isinstance(values, dict):
        raise Refused(400, "Send an object.")
    return values


def form_fields(values: Mapping[str, list[str]]) -> dict[str, object]:
    """Returns a form's fields in the shape of the JSON body."""
    ratings = {name[7:]: int(given[-1]) for name, given in values.items() if name.startswith("rating:")}
    plain = {name: given[-1] for name, given in values.items() if not name.startswith("rating:")}
    return {**plain, "reasons": values.get("reason", []), "ratings": ratings}


def text_of(fields: Mapping[str, object], name: str, default: str | None = None) -> str:
    value = fields.get(name, default)
    if not isinstance(value, str):
        raise Refused(400, f"{name}: expected text.")
    return value


def ballot_of(fields: Mapping[str, object], settings: Settings) -> Ballot:
    """Returns the vote in a request; Refused with what is wrong."""
    slot, choice = text_of(fields, "item"), text_of(fields, "choice")
    allowed = CHOICES if settings.type == "pairwise" else ("rated", "skip")
    if choice not in allowed:
        raise Refused(400, f"choice: expected one of {', '.join(allowed)}.")
    ratings = fields.get("ratings") or {}
    if not isinstance(ratings, dict) or not all(type(value) is int and value in SCALE for value in ratings.values()):
        raise Refused(400, f"ratings: expected a number from {SCALE[0]} to {SCALE[-1]} for each criterion.")
    needed = set(settings.criteria) if choice == "rated" else set()
    if choice == "skip":
        ratings = {}
    if set(ratings) != needed:
        raise Refused(400, f"ratings: expected exactly these: {', '.join(sorted(needed)) or 'none'}.")
    reasons = fields.get("reasons") or []
    if not isinstance(reasons, list) or not set(map(str, reasons)) <= set(settings.reasons):
        raise Refused(400, f"reasons: expected some of {', '.join(settings.reasons)}.")
    comment = text_of(fields, "comment", "")[:MAX_COMMENT]
    return Ballot(slot, choice, ratings, tuple(map(str, reasons)), comment.encode("utf-8", "replace").decode())


def listen(host: str, port: int) -> socket.socket:
    """Returns a bound socket; Unavailable when the address is in use or not of this machine."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(2048)  # a request that comes before the server is up waits for it
        return bound
    except OSError as error:
        raise Unavailable(f"host={host} port={port}: {error.strerror}. Try: port=0, a free one") from error


def serve(study: Study, bound: socket.socket, origin: str | None) -> None:
    """Serves a study until Ctrl-C or SIGTERM."""
    settings = study.read_settings()
    pages = Pages(settings, {item.id: item for item in study.read_items()})
    votes = Votes(study.votes_file)
    app = App(votes, pages, settings, origin).starlette()
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="off")
    try:
        with exits_on(signal.SIGTERM):  # which uvicorn raises again after it has closed
            uvicorn.Server(config).run(sockets=[bound])
    except (KeyboardInterrupt, SystemExit):
        pass
    finally:
        votes.close()
