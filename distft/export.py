"""A run's checkpoint as a Hugging Face folder, verified against the live model."""

import hashlib
import sys
from pathlib import Path

from distft.config import ConfigError, command
from distft.config.keywords import find_run, keywords, usage
from distft.paths import absolute
from distft.report.card import model_card
from distft.report.facts import gather
from distft.run import read_json
from distft.runtime.quiet import silence

KEYS = {
    "run": "the run's folder",
    "out": "the folder to write; must not exist",
    "at": "latest (default), best or step-N",
    "dtype": "fp32 or bf16; default: what the run computed in",
}
CLAIM = "Writes weights, config, tokenizer and chat template; AutoModelForCausalLM.from_pretrained opens the folder."
DTYPES = ("fp32", "bf16")


def main(arguments: list[str]) -> int:
    """Writes the folder and returns 0; 1 when it does not say what the live model said."""
    given = keywords(arguments, KEYS, required=("run", "out"))
    run, out = find_run(given["run"]), absolute(given["out"])
    errors = [] if not out.exists() else [f"out={given['out']}: exists already. Nearest: {_free(out)}"]
    if given.get("dtype", "fp32") not in DTYPES:
        errors.append(f"dtype={given['dtype']}: must be one of {', '.join(DTYPES)}")
    from distft.checkpoint.choose import choose

    try:
        folder = choose(run.checkpoints, given.get("at", "latest"))
    except ValueError as error:
        raise ConfigError([*errors, str(error)]) from error
    if errors:
        raise ConfigError(errors)
    silence()
    import torch

    from distft.checkpoint.export import export
    from distft.checkpoint.read import Checkpoint
    from distft.data.tokenizers import load_tokenizer
    from distft.models.skeleton import architecture, skeleton

    config, plan = run.read_config()["model"], run.read_plan()
    model_dir = Path(plan.model_dir) if plan.model_dir else None
    model = skeleton(architecture(model_dir, config["architecture"] | config["tiny_architecture"]), config["attention"])
    ran_in = read_json(run.path / "effective.json")["engine"]["compute_dtype"].removeprefix("torch.")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(given.get("dtype", "")) or getattr(torch, ran_in)
    tokenizer = load_tokenizer(plan.tokenizer_dir)
    template = hashlib.sha256((tokenizer.chat_template or "").encode()).hexdigest()
    card = model_card(
        gather(run), plan.model_dir and config["path"], template, plan.data_dir and Path(plan.data_dir).name
    )
    try:
        export(Checkpoint(folder), model, tokenizer, card, dtype, out)
    except (RuntimeError, OSError) as error:
        print(f"{folder} was not exported: {error}", file=sys.stderr)
        return 1
    print(f"{out} holds {folder.name} of {run.path.name}, verified")
    return 0


def _free(out: Path) -> Path:
    return next(path for i in range(2, 1000) if not (path := out.with_name(f"{out.name}-{i}")).exists())


if __name__ == "__main__":
    command(main, help=usage("export", KEYS, CLAIM))
