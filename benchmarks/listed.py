"""Lists on a benchmark's command line."""


def listed(text: str) -> list[str]:
    """Returns the parts of `a,b` or `[a,b]`."""
    inside = text.strip().removeprefix("[").removesuffix("]")
    return [part.strip() for part in inside.split(",") if part.strip()]
