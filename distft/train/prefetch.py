"""The next step's micro-batches, made beside the step in progress; which ones they are depends on the step alone."""

from concurrent.futures import Future, ThreadPoolExecutor

from distft.data.batches import Batch
from distft.train.feed import Feed


class Prefetch:
    """Gives each step's micro-batches, as the feed does, and begins with the next ones in a thread of its own."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self._pool = ThreadPoolExecutor(1, "prefetch")
        self._ahead: tuple[int, Future[list[Batch]]] | None = None

    def batches(self, step: int) -> list[Batch]:
        """Returns this process's micro-batches of step `step`; what went wrong in making them is raised here."""
        ahead, self._ahead = self._ahead, None
        batches = ahead[1].result() if ahead and ahead[0] == step else self.feed.batches(step)
        if step < self.feed.steps:
            self._ahead = step + 1, self._pool.submit(self.feed.batches, step + 1)
        return batches

    def close(self) -> None:
        """Ends the thread; what it has made is dropped."""
        self._pool.shutdown(cancel_futures=True)
