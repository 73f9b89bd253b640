"""Third-party noise, filtered in this one place; each line says what it silences."""

import logging
import os
import warnings

_VARIABLES = {
    "TOKENIZERS_PARALLELISM": "false",  # "The current process just got forked, after parallelism has already been used"
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # c10d's warnings about hostnames and reused ports
}
_LOGGERS = {
    "DeepSpeed": logging.ERROR,  # lines for each engine, and one for each step that is not taken, which distft tells
    "torch.distributed.elastic": logging.ERROR,
    "torch.distributed.run": logging.ERROR,
    "filelock": logging.ERROR,
    "httpx": logging.ERROR,
}
_WARNINGS = (
    (r"`torch\.distributed\.\w+` is deprecated", FutureWarning),  # DeepSpeed's calls, a line for each
)


def silence() -> None:
    """Hides messages of libraries that tell the user nothing; call it before they are imported.

    Trap: DeepSpeed sets its logger's level while it is imported, so call it again after that.
    """
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    for name, level in _LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    for pattern, category in _WARNINGS:
        warnings.filterwarnings("ignore", message=pattern, category=category)
