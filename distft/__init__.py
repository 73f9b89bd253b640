"""distft fine-tunes language models on one machine or a cluster, and proves what it claims.

Its Python API is `compose`, `fine_tune` and `open_run`, with `Config`, `Run` and what they raise; see distft.api.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distft.api import Config, ConfigError, Run, RunFailed, compose, fine_tune, open_run

__version__ = "0.1.0.dev0"
__all__ = ["Config", "ConfigError", "Run", "RunFailed", "compose", "fine_tune", "open_run"]


def __getattr__(name: str) -> Any:
    """Imports the API when it is used: a command starts without it."""
    if name not in __all__:
        raise AttributeError(f"module 'distft' has no attribute '{name}'")
    from distft import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
