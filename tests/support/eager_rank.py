"""A rank that writes status.json at every step, as with steps of over a second."""

from distft import rank
from distft.rank import prepare  # noqa: F401  # as the real rank's
from distft.train.progress import StepReport


def main() -> None:
    StepReport.SECONDS = 0.0
    rank.main()


if __name__ == "__main__":
    main()
