"""`distft report run=DIR serve=true`: the page of a run that goes on, made anew at each load, on this machine alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import urlsplit

from distft.report import page
from distft.report.facts import gather
from distft.run import RunFolder

REFRESH_SECONDS = 5  # between loads of the page, while the run goes on
GOES_ON = ("pending", "running", "preempted")
HOSTS = ("localhost", "127.0.0.1")  # a page of another site may send requests here under its own name


def rendered(run: RunFolder) -> str:
    """Returns the page of the run as it is now; a browser loads it again until the run has ended."""
    refresh = REFRESH_SECONDS if run.read_status()["state"] in GOES_ON else None
    return page.render(gather(run), str(run.path), refresh)


@contextmanager
def serving(run: RunFolder, port: int) -> Iterator[str]:
    """Serves the page of a run at the address that it yields. port: 0 for any free one; OSError for one in use."""
    drawing = Lock()  # matplotlib draws in one thread at a time

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in HOSTS:
                self.send_error(403)
                return
            if self.path != "/":
                self.send_error(404)
                return
            with drawing:
                text = rendered(run).encode()
            self.send_response(200)
            headers = {"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store"}
            for name, value in (headers | {"Content-Length": str(len(text))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            """Prints no line for each request."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
