"""A run's checkpoint in a format that other programs open, verified against the live model."""

import sys
from pathlib import Path

from distft.config import ConfigError, command
from distft.config.command import find_run, keywords, usage
from distft.config.nearest import nearest
from distft.paths import absolute
from distft.runtime.logs import silence
from distft.runtime.process import uncollected

KEYS = {
    "run": "the run's folder",
    "out": "the folder to write; must not exist",
    "at": "best, latest or step-N; best: the latest where no checkpoint is better than step 0; default: export.at",
    "dtype": "fp32, bf16 or auto: what the run computed in; default: export.dtype",
    "format": "huggingface, dcp, deepspeed_universal; of adapters: peft, merged; default: export.format",
}
CLAIM = """Writes a folder that transformers (huggingface, merged) or peft opens, with tokenizer and model card.
dcp and deepspeed_universal hold optimizer state too, fp32, in pickles: for other programs, distft never reads them."""
DTYPES = ("fp32", "bf16", "auto")
OF_A_MODEL = ("huggingface", "dcp", "deepspeed_universal")
OF_ADAPTERS = ("peft", "merged")
OF_STATE = ("dcp", "deepspeed_universal")


def main(arguments: list[str]) -> int:
    """Writes the folder and returns 0; 1 when that cannot be done, or it does not say what the live model said."""
    given = keywords(arguments, KEYS, required=("run", "out"))
    run, out = find_run(given["run"]), absolute(given["out"])
    formats = OF_A_MODEL if run.read_plan().adapters is None else OF_ADAPTERS
    errors = [] if not out.exists() else [f"out={given['out']}: exists already. Try: {_free(out)}"]
    errors += wrong_format(given, formats)
    from distft.checkpoint.choose import to_export

    own = {"at": "best", "dtype": "auto", "format": "auto"} | run.read_config().get("export", {}) | given
    try:
        folder, why = to_export(run, own["at"])
    except ValueError as error:
        raise ConfigError([*errors, str(error)]) from error
    if errors:
        raise ConfigError(errors)
    silence()
    word = formats[0] if own["format"] == "auto" else own["format"]
    try:
        with uncollected():
            from distft.export.write import write

        about, warnings = write(run, folder, out, word, None if own["dtype"] == "auto" else own["dtype"], why)
    except (RuntimeError, OSError, ImportError, ValueError, LookupError, TypeError) as error:
        print(f"{folder} was not exported: {_cause(error)}", file=sys.stderr)
        return 1
    for warning in warnings:
        print(f"warning: {warning}")
    print(f"{out} holds {folder.name} of {run.path.name}, {about}")
    print(why)
    return 0


def _cause(error: Exception) -> str:
    """Returns an error in one line; of what only names a thing, such as a KeyError, with its kind."""
    said = " ".join(str(error).split())
    return said if isinstance(error, (RuntimeError, OSError)) and said else f"{type(error).__name__}: {said}"


def wrong_format(given: dict[str, str], formats: tuple[str, ...]) -> list[str]:
    """Returns what is wrong with `format` and `dtype` for a run that has these formats."""
    word, dtype = given.get("format", formats[0]), given.get("dtype", "fp32")
    errors = []
    if word not in (*OF_A_MODEL, *OF_ADAPTERS, "auto"):
        errors.append(
            f"format={word}: must be one of {', '.join(formats)}. Try: {nearest(word, formats) or formats[0]}"
        )
    elif word not in (*formats, "auto"):
        trained = "adapters" if formats == OF_ADAPTERS else "the model itself"
        errors.append(f"format={word}: the run trained {trained}. Try: {' or '.join(formats)}")
    if dtype not in DTYPES:
        errors.append(f"dtype={dtype}: must be one of {', '.join(DTYPES)}")
    elif "dtype" in given and word in OF_STATE:
        errors.append(f"dtype={dtype} has no effect with format={word}, which is fp32. Try: format=huggingface")
    return errors


def _free(out: Path) -> Path:
    return next(path for i in range(2, 1000) if not (path := out.with_name(f"{out.name}-{i}")).exists())


if __name__ == "__main__":
    command(main, help=usage("export", KEYS, CLAIM))
