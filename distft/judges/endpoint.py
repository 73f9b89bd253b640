"""An OpenAI-compatible endpoint as the judge, through the `openai` package: a hosted model, or a server of your own.

The key comes from a variable of the environment and is in no file, message or identity. The package waits and asks
again after 429 (as long as Retry-After says), 5xx, timeouts and lost connections.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.util import find_spec
from threading import Event
from typing import Any

from distft.judges import Question, Reply
from distft.judges.pairs import CRITERIA, text_of
from distft.runtime.environment import redact

_HOSTED = "https://api.openai.com/v1"
_NO_KEY = "none"  # for a server of one's own, which asks for none


@dataclass(frozen=True)
class Judge:
    """model: as the endpoint calls it. key_variable: of the environment. criteria: what makes an answer better.

    prices: dollars for a million tokens, [input, output]. parallel: requests at once. timeout: seconds of one. retries:
    of one. temperature, max_tokens: null: not sent, for endpoints that refuse them.
    """

    model: str = ""
    url: str = _HOSTED
    key_variable: str = "OPENAI_API_KEY"
    criteria: str = CRITERIA
    prices: Sequence[float] | None = None
    parallel: int = 4
    timeout: float = 60.0
    retries: int = 5
    temperature: float | None = 0.0
    max_tokens: int | None = 512
    is_remote = True

    def __post_init__(self) -> None:
        if find_spec("openai") is None:
            raise ImportError("openai is not installed. Try: pip install 'distft[openai]'")
        if not self.model:
            raise ValueError("needs a model. Try: endpoint.model=NAME, and endpoint.url=URL for a server of your own")
        prices = self.prices
        if prices is not None and (not isinstance(prices, list) or len(prices) != 2 or not all(map(_is_price, prices))):
            raise ValueError(f"endpoint.prices={prices}: are two numbers. Try: 'endpoint.prices=[0.5,1.5]'")
        numbers = {"parallel": self.parallel, "timeout": self.timeout, "retries": self.retries}
        numbers |= {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        for name, value in numbers.items():
            least = {"timeout": 0.001, "retries": 0}.get(name, 1)
            if not _is_price(value) or value < least:
                raise ValueError(f"endpoint.{name}={value}: is a number of at least {least}")
        if not self.key and self.url == _HOSTED:
            missing = f"${self.key_variable} is not set, and {self.url} needs a key"
            raise ValueError(f"{missing}. Try: export {self.key_variable}=...")

    @property
    def key(self) -> str:
        return os.environ.get(self.key_variable, "")

    @property
    def identity(self) -> dict[str, str]:
        sent = f"temperature {self.temperature}, max_tokens {self.max_tokens}"
        return {
            "judge": "endpoint",
            "model": self.model,
            "url": redact(self.url),
            "criteria": self.criteria,
            "sent": sent,
        }

    def __call__(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply]]:
        from openai import APIError, OpenAI

        key, gave_up = self.key or _NO_KEY, Event()

        def reply_to(question: Question) -> Reply | None:
            """Returns the reply; None where the endpoint has given up before, so that nothing more is sent."""
            try:
                return None if gave_up.is_set() else self.ask(client, question)
            except APIError:
                gave_up.set()
                raise

        with (
            OpenAI(api_key=key, base_url=self.url, timeout=self.timeout, max_retries=self.retries) as client,
            ThreadPoolExecutor(self.parallel) as pool,
        ):
            waiting = {pool.submit(reply_to, each): number for number, each in enumerate(questions)}
            failed: APIError | None = None
            for done in as_completed(waiting):  # also after a failure: replies under way are paid for
                try:
                    if (reply := done.result()) is not None:
                        yield waiting[done], reply
                except APIError as error:
                    failed = failed or error
        if failed is not None:
            raise RuntimeError(self.why(failed)) from failed

    def ask(self, client: Any, question: Question) -> Reply:
        """Returns the endpoint's reply to one question; an empty text where its answer has none."""
        sent = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        try:
            answer = client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": text_of(question, self.criteria)}],
                **{name: value for name, value in sent.items() if value is not None},
            )
        except ValueError:  # a body that is not JSON
            return Reply("")
        choices = getattr(answer, "choices", None) or []
        message = getattr(choices[0], "message", None) if choices else None
        usage = getattr(answer, "usage", None)
        counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
        text = getattr(message, "content", None)
        return Reply(text if isinstance(text, str) else "", *(each if isinstance(each, int) else 0 for each in counts))

    def why(self, error: Exception) -> str:
        """Returns why the endpoint gave no reply, in one line without the key."""
        said = " ".join(str(error).split())[:300]
        said = said.replace(self.key, "***") if self.key else said
        return (
            f"judge=endpoint: {self.url} gave no reply for {self.model}: {type(error).__name__}: {redact(said)}. "
            "What it has judged is cached. Try: the same command again"
        )


def _is_price(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
