"""An OpenAI-compatible server on the loopback: chat completions as the documented API has them, and its faults."""

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_PART = re.compile(r"<(answer_A|answer_B|prompt)>\n(.*?)\n</\1>", re.DOTALL)


@dataclass
class Fault:
    """What the server does once instead of answering: a status with headers, a body, or silence for `hang` seconds."""

    code: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    hang: float = 0.0


class ChatServer:
    """Answers each request with `verdict(prompt, answer A, answer B)`; `faults` come first, in order."""

    def __init__(self, verdict: Callable[[str, str, str], str], key: str | None = None) -> None:
        self.verdict, self.key = verdict, key
        self.faults: list[Fault] = []
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
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


class _Asked(BaseHTTPRequestHandler):
    of: ChatServer

    def log_message(self, *_: Any) -> None: ...

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.of.lock:
            self.of.requests.append(asked)
            self.of.times.append(time.monotonic())
            fault = self.of.faults.pop(0) if self.of.faults else None
        if self.path != "/v1/chat/completions" or set(asked) - {"model", "messages", "temperature", "max_tokens"}:
            return self.reply(404, {"error": {"message": f"no {self.path}", "type": "invalid_request_error"}})
        if self.of.key is not None and self.headers["Authorization"] != f"Bearer {self.of.key}":
            said = f"Incorrect API key provided: {self.headers['Authorization'].removeprefix('Bearer ')}."
            return self.reply(401, {"error": {"message": said, "type": "invalid_request_error"}})
        if fault is not None:
            time.sleep(fault.hang)
            if fault.body is not None or fault.code != 200:
                content = {"error": {"message": "not now", "type": "server_error"}}
                return self.reply(fault.code, content, fault.body, fault.headers)
        parts = dict(_PART.findall(asked["messages"][0]["content"]))
        text = self.of.verdict(parts["prompt"], parts["answer_A"], parts["answer_B"])
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        usage = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000, "model": asked["model"]}
        return self.reply(200, head | {"choices": [choice], "usage": usage})

    def reply(self, code: int, content: Any, body: bytes | None = None, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode() if body is None else body
        try:
            self.send_response(code)
            for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # the client gave up
            self.close_connection = True
