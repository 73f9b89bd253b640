"""A local model as the judge: a run, or an exported folder, answers the comparison greedily on this machine."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from distft.config import ConfigError
from distft.generate.job import freeze, read_answers
from distft.generate.prompts import chat, text_prompt
from distft.generate.settings import Settings
from distft.generate.source import Source, find_text_source
from distft.judges import Question, Reply
from distft.judges.pairs import CRITERIA, text_of
from distft.launchers.local import Local, LocalConfig

_SECONDS_BETWEEN_LOOKS = 0.2


class Judge:
    prices = None
    is_remote = False

    def __init__(
        self, run: str = "", at: str | None = None, criteria: str = CRITERIA, max_new_tokens: int = 64
    ) -> None:
        """run, at: the model, as of `distft generate`. criteria: what makes an answer better."""
        if not run:
            raise ValueError("needs a model. Try: model.run=DIR, a run or an exported folder")
        try:
            self.source: Source = find_text_source(str(run), at, {})
        except ConfigError as error:
            raise ValueError("; ".join(error.messages).replace("run=", "model.run=", 1)) from error
        self.criteria, self.max_new_tokens = criteria, int(max_new_tokens)
        model = self.source.plan.model_hash or self.source.name
        checkpoint = str(self.source.checkpoint) if self.source.checkpoint else ""
        self.identity = {"judge": "model", "model": model, "name": self.source.name, "checkpoint": checkpoint}
        self.identity |= {"criteria": criteria, "max_new_tokens": str(self.max_new_tokens)}

    def __call__(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply]]:
        from distft.checkpoint.retention import reading  # imports torch

        source = self.source
        has_template = source.render.renderer.chat_template is not None and not source.render.is_plain
        texts = [text_of(each, self.criteria) for each in questions]
        prompts = [
            source.render(chat([{"role": "user", "content": text}]) if has_template else text_prompt(text))
            for text in texts
        ]
        if long := [each for each in prompts if source.positions is not None and len(each) >= source.positions]:
            most = max(map(len, long))
            raise RuntimeError(
                f"judge=model: a comparison has {most:,} tokens, the model {source.positions:,} positions"
            )
        folder = Path(tempfile.mkdtemp(prefix="distft-judge-"))
        try:
            job = freeze(folder / "job", source, prompts, Settings(max_new_tokens=self.max_new_tokens))
            with reading(source.checkpoint) if source.checkpoint else nullcontext():
                [handle] = Local(LocalConfig()).submit([job.path])
                while (outcome := handle.wait(_SECONDS_BETWEEN_LOOKS)) is None:
                    pass
            if outcome.error:
                raise RuntimeError(f"judge=model: {outcome.error['type']}: {outcome.error['message']}")
            for answer in read_answers(job):
                text = source.render.decode(answer.token_ids)
                yield answer.index, Reply(text, len(prompts[answer.index]), len(answer.token_ids))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
