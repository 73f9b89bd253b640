"""What the comparison of two runs says of one kind of number."""

from dataclasses import dataclass

EQUAL = "bit-equal"


@dataclass(frozen=True)
class Finding:
    """`what`, in words how much of it was `compared`, and the verdict."""

    what: str
    compared: str
    verdict: str
    holds: bool

    @property
    def equal(self) -> bool:
        return self.verdict == EQUAL


def relative(first: float, second: float) -> float:
    """Returns how far apart two numbers are, as a part of the larger; 0 for the same, infinite for one NaN."""
    if first == second or (first != first and second != second):
        return 0.0
    distance = abs(first - second) / max(abs(first), abs(second))
    return distance if distance == distance else float("inf")
