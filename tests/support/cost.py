"""What a program costs, told so that it does not depend on what runs beside it."""

import resource


def seconds_of_children() -> float:
    """Returns the processor time of all programs that this process has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
