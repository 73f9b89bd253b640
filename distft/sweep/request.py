"""Parses the command line of a sweep: overrides of all jobs, swept keys, and keys of the sweep itself."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, RangeSweep, Transformer
from hydra.core.override_parser.types import Override as Swept
from hydra.errors import HydraException

from distft.config.errors import ConfigError
from distft.config.key import covers
from distft.config.overrides import Override, WrongOverride, split, swept_value
from distft.paths import conf_dir
from distft.run import read_yaml

Point = tuple[str, ...]  # key=value of each swept key, for one job

_SWEEP_KEYS = ("name", "runs_dir", "sweep", "launcher.jobs_at_once")
_SHARED_KEYS = {
    "name": "it names the sweep folder",
    "runs_dir": "it contains the sweep folder",
    "launcher": "all jobs are submitted together",
    "sweep": "it configures the sweep itself",
    "export": "it runs once, after the last job",
}


@dataclass(frozen=True)
class Request:
    """The overrides of a command line by purpose."""

    shared: tuple[str, ...]  # of all jobs
    own: tuple[str, ...]  # of the sweep
    swept: tuple[str, ...]  # in Hydra's grammar

    @property
    def keys(self) -> list[str]:
        """The swept keys without Hydra's prefixes."""
        return [text.partition("=")[0].lstrip("+") for text in self.swept]

    @property
    def sets_export(self) -> bool:
        """Whether the user sets what is exported; the default is only the best job."""
        return any(split(text).key in ("export", "export.enabled") for text in self.shared)

    def of_job(self, point: Sequence[str]) -> tuple[str, ...]:
        """Returns the overrides of the run at a point."""
        return (*self.shared, *point, *([] if self.sets_export else ["export=false"]))


def read_request(overrides: Iterable[str]) -> Request:
    """Parses a command line; ConfigError when no key is swept, or one that all jobs share."""
    shared: list[str] = []
    own: list[str] = []
    swept: dict[str, str] = {}
    errors: list[str] = []
    typed = list(overrides)
    for text in [*typed, *space_of_experiment(typed)]:
        try:
            override = split(text)
            sweep = sweep_of(override)
        except WrongOverride as error:
            errors.append(str(error))
            continue
        key = override.key.lstrip("/")
        swept.pop(key, None)  # the last override of a key wins
        if sweep is not None:
            errors += _refusals(override)
            swept[key] = sweep
        elif covers(_SWEEP_KEYS, key):
            own.append(text)
        else:
            shared.append(text)
    if not swept and not errors:
        errors.append("-m: no key has more than one value. Try: -m seed=0,1,2")
    if errors:
        raise ConfigError(errors)
    return Request(tuple(shared), tuple(own), tuple(swept.values()))


def space_of_experiment(overrides: Sequence[str]) -> list[str]:
    """Returns the overrides that the chosen experiment sweeps (`sweep.space`); none where a typed one has several
    values."""
    words = [text.partition("=")[2] for text in overrides if text.lstrip("+").startswith("experiment=")]
    file = conf_dir() / "experiment" / f"{words[-1]}.yaml" if words else None
    if file is None or not file.is_file() or any(map(_is_swept, overrides)):
        return []
    space = ((read_yaml(file) or {}).get("sweep") or {}).get("space")
    return [str(text) for text in space or []]


def _is_swept(text: str) -> bool:
    try:
        return sweep_of(split(text)) is not None
    except WrongOverride:
        return False


def sweep_of(override: Override) -> str | None:
    """Returns an override with several values in Hydra's grammar; None for a single value or none."""
    sweep = None if override.value is None else swept_value(override.key, override.value)
    return None if sweep is None else f"{override.prefix}{override.key}={sweep}"


def _refusals(override: Override) -> list[str]:
    """Returns an error where a key cannot be swept."""
    found = (why for key, why in _SHARED_KEYS.items() if covers([key], override.key.lstrip("/")))
    return [f"{override.text}: cannot be swept: {why}. Try: one value" for why in found]


def config_loader() -> ConfigLoader:
    """Returns Hydra's loader of conf/, with which its grammar resolves optimizer=glob(*)."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return GlobalHydra.instance().config_loader()


def parse(swept: Sequence[str]) -> list[Swept]:
    """Parses the swept overrides with Hydra; ConfigError for shuffled ones, whose order is random."""
    try:
        parsed = OverridesParser.create(config_loader=config_loader()).parse_overrides(list(swept))
    except HydraException as error:
        raise ConfigError([str(error).splitlines()[0]]) from error
    shuffled = [each.input_line for each in parsed if getattr(each.value(), "shuffle", False)]
    if shuffled:
        rule = "shuffle changes the order, so the same command could not continue the sweep"
        raise ConfigError(f"{text}: {rule}. Try: without shuffle" for text in shuffled)
    return parsed


def corners(parsed: Sequence[Swept], most: int) -> list[Point]:
    """Returns all combinations of choices and range ends; where they exceed `most`, points that have each once."""
    values = [list(_ends(each)) for each in parsed]
    size = 1
    for each in values:
        size *= len(each)
    if size <= most:
        return list(islice(product(*values), most))
    longest = max(map(len, values))
    return [tuple(each[min(i, len(each) - 1)] for each in values) for i in range(longest)]


def _ends(swept: Swept) -> Iterator[str]:
    """Yields key=value of each choice, or of both ends of a range or interval."""
    key, value = swept.get_key_element(), swept.value()
    if isinstance(value, IntervalSweep):
        texts = [Transformer.str(value.start), Transformer.str(value.end)]
    else:
        texts = list(swept.sweep_string_iterator())
    if isinstance(value, RangeSweep):
        texts = [texts[0], texts[-1]] if texts else []
    yield from (f"{key}={text}" for text in dict.fromkeys(texts))
