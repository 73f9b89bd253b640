"""lm-evaluation-harness, an optional package: its LM interface over functions of distft, and one call that runs tasks.

Texts are tokenized as its Hugging Face back end does. Trap: a context that fills the model loses one token more than
there, since the last token of a continuation is fed too.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

SEEN = "lm-eval 0.4.13"
MAX_NEW_TOKENS = 256  # where a task has no max_gen_toks, as in its Hugging Face back end
BOOTSTRAPS = 1000  # for metrics without a score of each question
Pair = tuple[list[int], list[int]]  # tokens of a context, and of its continuation


@dataclass(frozen=True)
class Continuation:
    """One text to generate: tokens of the prompt, how many at most, what ends it, and the temperature."""

    token_ids: list[int]
    max_new_tokens: int
    stop: tuple[str, ...]
    temperature: float = 0.0


@dataclass(frozen=True)
class Backend:
    """What a model does for lm-eval: log-likelihood and whether it is the greedy choice, and generated texts."""

    tokenizer: Any
    max_length: int
    score: Callable[[Sequence[Pair]], list[tuple[float, bool]]]
    generate: Callable[[Sequence[Continuation]], list[str]]


@dataclass(frozen=True)
class Request:
    """The tasks to run. paths: folders with YAML files; no others are loaded unless with_defaults."""

    tasks: Sequence[str]
    paths: Sequence[str]
    with_defaults: bool
    num_fewshot: int | None
    limit: int | None
    chat: bool


class EngineLM(TemplateLM):
    """A model of distft behind lm-eval's interface."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self.backend_of = backend
        self.tokenizer: Any = backend.tokenizer

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if bos is None else bos

    @property
    def max_length(self) -> int:
        return self.backend_of.max_length

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        if add_special_tokens is not None:
            return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        if string.startswith(self.tokenizer.decode(self.prefix_token_id)):  # such as a chat template's text
            return self.tokenizer.encode(string, add_special_tokens=False)
        return self.tokenizer.encode(string)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        return self.backend_of.score([(context, continuation) for _, context, continuation in requests])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        windows: list[tuple[int, Pair]] = []
        for number, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            found = get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length - 1, 1)
            windows += [(number, make_disjoint_window(window)) for window in found]
        totals = [0.0] * len(requests)
        scored = self.backend_of.score([pair for _, pair in windows])
        for (number, _), (value, _) in zip(windows, scored, strict=True):
            totals[number] += value
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return self.backend_of.generate([self._continuation(*request.args) for request in requests])

    def _continuation(self, context: str, options: Mapping[str, Any]) -> Continuation:
        until = options.get("until") or []
        stop = [until] if isinstance(until, str) else list(until)
        eos = self.tokenizer.decode(self.eot_token_id)
        room = int(options.get("max_gen_toks") or options.get("max_new_tokens") or MAX_NEW_TOKENS)
        temperature = float(options.get("temperature") or 0.0) if options.get("do_sample") else 0.0
        token_ids = self.tok_encode(context)[-max(1, self.max_length - room) :]
        return Continuation(token_ids, room, tuple(text for text in stop if text and text != eos), temperature)


def run_tasks(request: Request, backend: Backend) -> Mapping[str, Any]:
    """Runs tasks; returns lm-eval's results as JSON values: results, configs, versions, n-shot, samples.

    Errors are lm-eval's own: KeyError or ValueError for an unknown task, others for data that cannot be read.
    """
    os.environ.setdefault("HF_DATASETS_OFFLINE", os.environ.get("HF_HUB_OFFLINE", "0"))
    manager = TaskManager(include_path=list(request.paths) or None, include_defaults=request.with_defaults)
    found: Any = simple_evaluate(
        EngineLM(backend),
        tasks=list(request.tasks),
        task_manager=manager,
        num_fewshot=request.num_fewshot,
        limit=request.limit,
        apply_chat_template=request.chat,
        log_samples=True,
        bootstrap_iters=BOOTSTRAPS,
        verbosity="ERROR",
    )
    keys = ("results", "configs", "versions", "n-shot", "higher_is_better", "samples")
    return {key: found.get(key, {}) for key in keys}
