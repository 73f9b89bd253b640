"""What a sweep's command line asks for: what all jobs share, what is swept, and what is about the sweep itself."""

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

Point = tuple[str, ...]  # a job's own overrides: key=value for each key that is swept

_OF_THE_SWEEP = ("name", "runs_dir", "sweep", "launcher.jobs_at_once")
_OF_ALL_JOBS = {
    "name": "it is the sweep's folder",
    "runs_dir": "it is where the sweep's folder is",
    "launcher": "all jobs are submitted together",
    "sweep": "it is what sweeps",
    "export": "it is done once, after the last job",
}


@dataclass(frozen=True)
class Request:
    """The overrides of a command line, sorted by what they are about."""

    shared: tuple[str, ...]
    own: tuple[str, ...]
    swept: tuple[str, ...]  # in Hydra's grammar

    @property
    def keys(self) -> list[str]:
        """Returns the keys that are swept, without Hydra's prefixes."""
        return [text.partition("=")[0].lstrip("+") for text in self.swept]

    @property
    def says_export(self) -> bool:
        """Tells whether the user decides what is exported, which else is the best job alone."""
        return any(split(text).key in ("export", "export.enabled") for text in self.shared)

    def of_job(self, point: Sequence[str]) -> tuple[str, ...]:
        """Returns the overrides of the ordinary run that stands at a point."""
        return (*self.shared, *point, *([] if self.says_export else ["export=false"]))


def read_request(overrides: Iterable[str]) -> Request:
    """Returns a command line's request; ConfigError when nothing, or something that all jobs share, is swept."""
    shared: list[str] = []
    own: list[str] = []
    swept: dict[str, str] = {}
    errors: list[str] = []
    for text in overrides:
        try:
            override = split(text)
            sweep = sweep_of(override)
        except WrongOverride as error:
            errors.append(str(error))
            continue
        key = override.key.lstrip("/")
        swept.pop(key, None)  # of the same key given twice the last counts
        if sweep is not None:
            errors += _refusals(override)
            swept[key] = sweep
        elif covers(_OF_THE_SWEEP, key):
            own.append(text)
        else:
            shared.append(text)
    if not swept and not errors:
        errors.append("-m: no key has more than one value. Try: -m seed=0,1,2")
    if errors:
        raise ConfigError(errors)
    return Request(tuple(shared), tuple(own), tuple(swept.values()))


def sweep_of(override: Override) -> str | None:
    """Returns an override of several values in Hydra's grammar; None for one of one value, or of none."""
    sweep = None if override.value is None else swept_value(override.key, override.value)
    return None if sweep is None else f"{override.prefix}{override.key}={sweep}"


def _refusals(override: Override) -> list[str]:
    """Returns why a key cannot be swept, if it cannot."""
    found = (why for key, why in _OF_ALL_JOBS.items() if covers([key], override.key.lstrip("/")))
    return [f"{override.text}: cannot be swept: {why}. Try: one value" for why in found]


def config_loader() -> ConfigLoader:
    """Returns Hydra's loader of conf/, which Hydra's grammar asks for the words of a group: optimizer=glob(*)."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return GlobalHydra.instance().config_loader()


def parse(swept: Sequence[str]) -> list[Swept]:
    """Returns what Hydra makes of each sweep; ConfigError for one that has another order each time."""
    try:
        parsed = OverridesParser.create(config_loader=config_loader()).parse_overrides(list(swept))
    except HydraException as error:
        raise ConfigError([str(error).splitlines()[0]]) from error
    shuffled = [each.input_line for each in parsed if getattr(each.value(), "shuffle", False)]
    if shuffled:
        rule = "another order each time, so the same command would not continue the sweep"
        raise ConfigError(f"{text}: {rule}. Try: without shuffle" for text in shuffled)
    return parsed


def corners(parsed: Sequence[Swept], most: int) -> list[Point]:
    """Returns every combination of choices and ends of ranges; with more than `most` each of them once, at least."""
    values = [list(_ends(each)) for each in parsed]
    size = 1
    for each in values:
        size *= len(each)
    if size <= most:
        return list(islice(product(*values), most))
    longest = max(map(len, values))
    return [tuple(each[min(i, len(each) - 1)] for each in values) for i in range(longest)]


def _ends(swept: Swept) -> Iterator[str]:
    """Yields key=value of each choice, or of the ends of a range or interval."""
    key, value = swept.get_key_element(), swept.value()
    if isinstance(value, IntervalSweep):
        texts = [Transformer.str(value.start), Transformer.str(value.end)]
    else:
        texts = list(swept.sweep_string_iterator())
    if isinstance(value, RangeSweep):
        texts = [texts[0], texts[-1]] if texts else []
    yield from (f"{key}={text}" for text in dict.fromkeys(texts))
