"""What a wrong config raises: every error of the config at once, never the first alone; and what no config can help."""

from collections.abc import Iterable


class ConfigError(Exception):
    """All that is wrong with a config; each message has the key, its value, the rule and the nearest valid choice."""

    def __init__(self, messages: Iterable[str]) -> None:
        self.messages = list(dict.fromkeys(messages))
        super().__init__("\n".join(self.messages))


class Unavailable(RuntimeError):
    """Something outside that the config rightly names cannot be had now; one line, the same command may work later."""
