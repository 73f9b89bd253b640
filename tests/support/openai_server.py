"""A server on the loopback with OpenAI's documented API of files, fine-tuning jobs and chat completions.

A job advances one state per status request. Its events come in pages, newest first, as in the API. Each of `faults`
replaces one answer, to a request whose method and path begin as the fault says.
"""

import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-loopback-0123456789abcdef"
STATES = ("queued", "running", "running", "succeeded")  # of a job, after validating_files
ALLOWED = {"model", "training_file", "validation_file", "seed", "suffix", "metadata", "method"}
ENDED = ("succeeded", "failed", "cancelled")
_FILE = re.compile(rb'name="file"; filename="[^"]+"\r\n(?:[^\r\n]+\r\n)*\r\n(.*?)\r\n--', re.DOTALL)


@dataclass
class Fault:
    """of: the prefix of METHOD PATH. code 0: the connection is closed. after: the request is executed first."""

    of: str
    code: int
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False


class OpenAIServer:
    def __init__(self, states: tuple[str, ...] = STATES, steps: int = 5) -> None:
        self.states, self.steps = states, steps
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.files: dict[str, bytes] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.asked: list[dict[str, Any]] = []  # chat completions
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Asked", (_Asked,), {"of": self}))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def upload(self, body: bytes) -> dict[str, Any]:
        content = _FILE.search(body)
        assert content and b'name="purpose"\r\n\r\nfine-tune\r\n' in body
        for line in content[1].splitlines():
            assert json.loads(line)["messages"][-1]["role"] == "assistant"
        name = f"file-{len(self.files) + 1}"
        self.files[name] = content[1]
        return self.file(name)

    def file(self, name: str) -> dict[str, Any]:
        about = {"id": name, "object": "file", "bytes": len(self.files[name]), "created_at": 1700000000}
        return about | {"filename": "rows.jsonl", "purpose": "fine-tune", "status": "processed"}

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert set(asked) <= ALLOWED, set(asked) - ALLOWED
        assert asked["training_file"] in self.files and asked.get("validation_file", "file-1") in self.files
        name = f"ftjob-{len(self.jobs) + 1}"
        job: dict[str, Any] = {"id": name, "object": "fine_tuning.job", "created_at": 1700000000, "error": None}
        job |= {"fine_tuned_model": None, "finished_at": None, "organization_id": "org-1", "result_files": []}
        job |= {"status": "validating_files", "trained_tokens": None, "validation_file": None, "integrations": []}
        job |= {"hyperparameters": asked["method"]["supervised"]["hyperparameters"], **asked}
        self.jobs[name] = job
        return job

    def advance(self, job: dict[str, Any]) -> dict[str, Any]:
        """Moves a job to its next state."""
        seen = job.setdefault("_seen", 0)
        if job["status"] not in ENDED and seen < len(self.states):
            job["status"], job["_seen"] = self.states[seen], seen + 1
            if job["status"] == "succeeded":
                name = f"ft:{job['model']}:org:{job.get('suffix', '')}:1"
                job |= {"fine_tuned_model": name, "trained_tokens": 123456}
            if job["status"] == "failed":
                job["error"] = {"code": "invalid_training_file", "message": "line 3 is a duplicate", "param": None}
        return shown(job)

    def events(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns the events so far, newest first."""
        found = [self.event(0, "message", f"Created fine-tuning job: {job['id']}", None)]
        begun = job.get("_seen", 0) - self.states.index("running") if "running" in self.states else 0
        for step in range(1, 1 + (self.steps if job["status"] == "succeeded" else min(self.steps, 2 * max(0, begun)))):
            data = {"step": step, "train_loss": 2.0 / step, "train_mean_token_accuracy": 1 - 0.5 / step}
            data |= {"full_valid_loss": 2.5 / step, "full_valid_mean_token_accuracy": 0.5} if step % 2 == 0 else {}
            found.append(self.event(step, "metrics", f"Step {step}/{self.steps}", data | {"total_steps": self.steps}))
        return found[::-1]

    def event(self, number: int, kind: str, message: str, data: Any) -> dict[str, Any]:
        about = {"object": "fine_tuning.job.event", "id": f"ftevent-{number}", "created_at": 1700000000 + 3 * number}
        return about | {"level": "info", "message": message, "type": kind, "data": data}

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Answers "even" for an even number in the question, and "wrong" for an odd one."""
        self.asked.append(asked)
        number = int(re.findall(r"\d+", asked["messages"][-1]["content"])[-1])
        message = {"role": "assistant", "content": "even" if number % 2 == 0 else "wrong", "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000, "model": asked["model"]}
        return head | {"choices": [choice], "usage": usage}


def shown(job: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in job.items() if key[0] != "_"}


class _Asked(BaseHTTPRequestHandler):
    of: OpenAIServer

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def _handle(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.removeprefix("/v1").partition("?")
        asked = f"{method} {path}"
        with self.of.lock:
            self.of.requests.append(asked)
            fault = next((each for each in self.of.faults if asked.startswith(each.of)), None)
            if fault:
                self.of.faults.remove(fault)
            if self.headers["Authorization"] != f"Bearer {KEY}":
                said = {"message": "Incorrect API key provided", "code": "invalid_api_key"}
                return self._reply(401, {"error": said})
            if fault and fault.after:
                self._answer(asked, body, query)
            if fault and fault.code == 0:
                self.close_connection = True
                return None
            if fault:
                return self._reply(fault.code, {"error": {"message": "not now"}}, fault.headers)
            return self._reply(*self._answer(asked, body, query))

    def _answer(self, asked: str, body: bytes, query: str) -> tuple[int, Any]:
        of, parts = self.of, asked.split("/")
        options = dict(each.split("=") for each in query.split("&") if each)
        if asked == "POST /files":
            return 200, of.upload(body)
        if asked.startswith("GET /files/"):
            known = parts[2] in of.files
            return (200, of.file(parts[2])) if known else (404, {"error": {"message": "No such File object"}})
        if asked == "POST /fine_tuning/jobs":
            return 200, of.create(json.loads(body))
        if asked == "GET /fine_tuning/jobs":
            return 200, {"object": "list", "data": [shown(job) for job in of.jobs.values()][::-1], "has_more": False}
        if asked == "POST /chat/completions":
            return 200, of.answer(json.loads(body))
        job = of.jobs[parts[3]]
        if asked.endswith("/events"):
            events, size = of.events(job), min(2, int(options.get("limit", 20)))  # small pages
            start = next((i + 1 for i, each in enumerate(events) if each["id"] == options.get("after")), 0)
            return 200, {"object": "list", "data": events[start : start + size], "has_more": start + size < len(events)}
        if asked.endswith("/cancel"):
            job["status"] = "cancelled"
        return 200, of.advance(job)

    def _reply(self, code: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        try:
            self.send_response(code)
            for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # the client gave up
            self.close_connection = True
