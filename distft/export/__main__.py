"""`distft export`: writes a run's checkpoint in a format of other programs, verified against the live model."""

import sys

from distft.config import ConfigError, command, read_config
from distft.config.command import find_run, keywords, usage
from distft.config.errors import did_you_mean, nearest
from distft.paths import absolute, unused
from distft.runtime.logs import silence
from distft.runtime.process import uncollected

KEYS = {
    "run": "the run's folder",
    "out": "the folder to write; must not exist",
    "at": "best, latest, step-N, or average: the mean of the last export.average_last checkpoints; best: the latest "
    "where no checkpoint is better than step 0; default: export.at",
    "dtype": "fp32, bf16 or auto: the dtype that the run computed in; default: export.dtype",
    "format": "huggingface, dcp, deepspeed_universal; of adapters: peft, merged; default: export.format",
}
CLAIM = """Writes a folder that transformers (huggingface, merged) or peft opens, with tokenizer and model card.
dcp and deepspeed_universal also hold optimizer state, in fp32. Their files are pickles, which distft never reads."""
DTYPES = ("fp32", "bf16", "auto")
OF_A_MODEL = ("huggingface", "dcp", "deepspeed_universal")
OF_ADAPTERS = ("peft", "merged")
OF_STATE = ("dcp", "deepspeed_universal")


def main(arguments: list[str]) -> int:
    """Writes the folder and returns 0; 1 when that fails, or the result does not match the live model."""
    given = keywords(arguments, KEYS, required=("run", "out"))
    run, out = find_run(given["run"]), absolute(given["out"])
    formats = OF_A_MODEL if run.read_plan().adapters is None else OF_ADAPTERS
    errors = [] if not out.exists() else [f"out={given['out']}: already exists. Try: {unused(out)}"]
    errors += wrong_format(given, formats)
    from distft.checkpoint.choose import choose_for_export

    config = read_config(run)
    export = config.export
    at, dtype = given.get("at", export.at), given.get("dtype", export.dtype)
    try:
        folders, why = choose_for_export(run, at, config.eval.selection, export.average_last)
    except ValueError as error:
        raise ConfigError([*errors, str(error)]) from error
    if errors:
        raise ConfigError(errors)
    silence()
    format = given.get("format", export.format)
    format = formats[0] if format == "auto" else format
    if at == "average" and format in OF_STATE:
        raise ConfigError([f"at=average: format={format} holds the state of one checkpoint. Try: at=latest"])
    folder = folders[-1]
    try:
        with uncollected():
            from distft.export.write import write

        about, warnings = write(run, folders, out, format, None if dtype == "auto" else dtype, why)
    except (RuntimeError, OSError, ImportError, ValueError, LookupError, TypeError) as error:
        print(f"{folder} was not exported: {_cause(error)}", file=sys.stderr)
        return 1
    for warning in warnings:
        print(f"warning: {warning}")
    print(f"{out} holds {folder.name} of {run.path.name}, {about}")
    print(why)
    return 0


def _cause(error: Exception) -> str:
    """Returns an error in one line; with its type where the text alone says little, such as that of a KeyError."""
    text = " ".join(str(error).split())
    return text if isinstance(error, (RuntimeError, OSError)) and text else f"{type(error).__name__}: {text}"


def wrong_format(given: dict[str, str], formats: tuple[str, ...]) -> list[str]:
    """Returns what is wrong with `format` and `dtype`; formats: those that the run can be exported to."""
    format, dtype = given.get("format", formats[0]), given.get("dtype", "fp32")
    errors = []
    if format not in (*OF_A_MODEL, *OF_ADAPTERS, "auto"):
        errors.append(
            f"format={format}: unknown format. Allowed: {', '.join(formats)}.{did_you_mean(nearest(format, formats))}"
        )
    elif format not in (*formats, "auto"):
        trained = "adapters" if formats == OF_ADAPTERS else "the model itself"
        errors.append(f"format={format}: the run trained {trained}. Allowed: {', '.join(formats)}")
    if dtype not in DTYPES:
        errors.append(f"dtype={dtype}: unknown dtype. Allowed: {', '.join(DTYPES)}")
    elif "dtype" in given and format in OF_STATE:
        errors.append(f"dtype={dtype} has no effect with format={format}, which is fp32. Try: format=huggingface")
    return errors


if __name__ == "__main__":
    command(main, help=usage("export", KEYS, CLAIM))
