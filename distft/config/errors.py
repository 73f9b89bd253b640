"""What a wrong config raises: every error of the config at once, never the first alone."""

from collections.abc import Iterable


class ConfigError(Exception):
    """All that is wrong with a config; each message has the key, its value, the rule and the nearest valid choice."""

    def __init__(self, messages: Iterable[str]) -> None:
        self.messages = list(dict.fromkeys(messages))
        super().__init__("\n".join(self.messages))
