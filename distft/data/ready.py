"""From a config to data that is ready to be trained on: fetched, prepared and within the thresholds, or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from distft.config import ConfigError
from distft.config.errors import Unavailable
from distft.data.hub import dataset_commit, fetch
from distft.data.key import own_eval
from distft.data.report import refused
from distft.data.sources import find_sources
from distft.data.stage import Prepared, Progress, prepare_data, silent
from distft.paths import why_not_writable, without_number


def make_ready(
    values: dict[str, Any], progress: Progress = silent, check_model: Callable[[], None] = lambda: None
) -> Prepared:
    """Returns data that may be trained on; ConfigError where rows, tokenizer or hub refuse, or a threshold does.

    Unavailable where the hub may answer later. check_model: called when the model is here and no row is read yet.
    """
    if why := why_not_writable(Path(values["cache_dir"])):
        raise ConfigError([f"cache_dir={values['cache_dir']}: {why}. Try: cache_dir= a folder of yours"])
    try:
        fetch_from_hub(values)
        check_model()
        prepared = prepare_data(values, progress)
    except Unavailable:  # by no fault of the config
        raise
    except OSError as error:
        raise ConfigError([without_number(error)]) from error
    except (ValueError, RuntimeError) as error:
        raise ConfigError([str(error)]) from error
    if reasons := refused(prepared.report, values["data"]):
        raise ConfigError([*reasons, *_bad_rows(prepared)])
    return prepared


def fetch_from_hub(values: dict[str, Any]) -> None:
    """Brings here, at a commit that is written down, what the config names on the hub; RuntimeError where it cannot."""
    model, data, cache_dir = values["model"], values["data"], values["cache_dir"]
    if not model["tiny"]:
        fetch(model["path"], model["revision"], cache_dir)
    if model["tokenizer"]:
        fetch(model["tokenizer"], None, cache_dir, weights=False)
    for key in ("train", "eval") if own_eval(data) else ("train",):
        for source in find_sources(f"data.{key}", data[key], data):
            if source.hub_id:
                dataset_commit(source.hub_id, source.revision, cache_dir, ask=True)


def _bad_rows(prepared: Prepared) -> list[str]:
    """Returns the first bad rows and where all are listed."""
    streams = prepared.report["streams"].values()
    first = [line for stream in streams for line in stream["first_bad"]]
    more = sum(stream["bad"] for stream in streams) - len(first)
    return first + ([f"and {more} more, all in {prepared.folder / 'bad_rows.txt'}"] if more else [])
