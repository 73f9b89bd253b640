"""A rule: the answer with the higher score against the expected one wins. It costs nothing and needs no model."""

from collections.abc import Iterator, Sequence

from distft.evaluate.scores import make_scores
from distft.judges import Question, Reply


class Judge:
    prices = None
    is_remote = False

    def __init__(self, score: str = "f1", margin: float = 0.0) -> None:
        """score: a score of answers, its first metric by item. margin: a difference up to it is a tie."""
        made, errors = make_scores([str(score)], {})
        if errors:
            raise ValueError("; ".join(errors).replace("scores", "rule.score", 1))
        if margin < 0:
            raise ValueError(f"rule.margin={margin}: is a number of at least 0")
        [self.score] = made.values()
        self.name, self.value = next(iter(self.score.metrics.items()))
        self.margin = margin
        self.identity = {"judge": "rule", "score": str(score), "margin": str(margin)}

    def __call__(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply]]:
        import numpy as np

        for number, each in enumerate(questions):
            if each.expected is None:
                raise RuntimeError("judge=rule compares with the expected answers, and these prompts have none")
            first, second = (
                float(self.value(np.array(self.score(text, each.expected)[self.name], dtype=np.float64)))
                for text in (each.first, each.second)
            )
            letter = "C" if abs(first - second) <= self.margin else "A" if first > second else "B"
            yield number, Reply(f"[[{letter}]]")
