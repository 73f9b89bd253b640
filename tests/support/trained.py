"""All parity cases, trained once for the whole test session: one group of processes for each world."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from distft.checkpoint.format import step_dir
from distft.paths import conf_dir
from tests.support.ranks import run_ranks
from tests.support.rows import write_rows

STRATEGIES = sorted(path.stem for path in (conf_dir() / "strategy").glob("*.yaml"))
MODELS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
CUTS = ("ddp", "fsdp", "zero2", "zero3")  # the ways to cut a parameter: not at all, by rows, by flat ranges (two)
MAIN, TIED = "llama3_8b", "smollm2_135m"
SPLITS = {1: (8, 1), 2: (2, 1)}  # world -> micro-batch sizes; accumulation = 8 / (world x micro)
EVAL_MICRO = [(2, None), (7, None), (None, 96)]  # rows or tokens per forward

PACKED = 32  # tokens per forward; no row has more than 23

Key = tuple[str, str, int, int]  # strategy, model, world, rows per forward, or tokens where the model is "+packed"
KEYS: list[Key] = [
    *[(s, MAIN, world, micro) for s in STRATEGIES for world in SPLITS for micro in SPLITS[world]],
    *[(s, TIED, 2, 2) for s in CUTS],
    *[(s, m, 2, 2) for m in MODELS if m not in (MAIN, TIED) for s in ("fsdp", "zero2")],
    *[(s, TIED, 3, 2) for s in CUTS],  # uneven shards of a tied vocabulary, empty micro-batches
    *[(s, f"{MAIN}+packed", 2, PACKED) for s in STRATEGIES],
    ("ddp", f"{MAIN}+packed", 1, PACKED),
    ("fsdp", "gemma3_4b+packed", 2, PACKED),  # windows narrower than a document
    *[(s, f"{MAIN}+offload", 2, 1) for s in ("zero1", "zero2")],  # a setting of theirs, and no YAML of its own
    ("hsdp", MAIN, 4, 2),
    ("hsdp", MAIN, 4, 1),  # accumulates: sums stay in the shards until the last micro-batch
]
# Two models meet every way to cut, the other families one that cuts rows and one that cuts flat; the rest are soak.
MORE_KEYS: list[Key] = [(s, m, 2, 2) for m in MODELS if m not in (MAIN, TIED) for s in ("ddp", "zero3")]
# Compiling takes 10 to 25 s of each rank; tests/models/test_build.py compiles on one process.
COMPILED: list[Key] = [("fsdp", f"{MAIN}+packed+compiled", 2, PACKED), ("zero2", "mistral_7b+compiled", 2, 2)]
MORE_KEYS += COMPILED
LORA: dict[str, Any] = {"rank": 4, "alpha": 8.0}
FAINT_ADAMW = {"eps": 1e-6}  # where gradients nearly cancel, see test_lora.py
# One weight in 32,768 of an embedding: without AVX-512 Gemma 3's was 4.7e-5 off, and a norm 8.4e-6; Mistral's 3.0e-5.
FAINT = {"gemma3_4b", "mistral_7b"}
LORA_KEYS: list[Key] = [*[(s, f"{MAIN}+lora", 2, 2) for s in STRATEGIES], ("fsdp", "gpt2+lora", 2, 2)]
QLORA_KEYS: list[Key] = [*[(s, f"{MAIN}+qlora", 2, 2) for s in CUTS], ("fsdp", "gpt2+qlora", 2, 2)]
# activations computed again give the same numbers
RECOMPUTED: dict[Key, str] = {
    **{(s, "qwen3_8b", 2, 2): "full" for s in CUTS},
    **{(s, "smollm2_135m", 2, 2): "selective" for s in CUTS},
    **{(s, f"{MAIN}+packed", 2, PACKED): "selective" for s in ("fsdp", "zero3")},
    ("fsdp", f"{MAIN}+packed+compiled", 2, PACKED): "selective",
    ("zero3", f"{MAIN}+lora", 2, 2): "full",
    ("zero2", f"{MAIN}+lora", 2, 2): "selective",
    ("fsdp", f"{MAIN}+qlora", 2, 2): "selective",
}


def make_case(key: Key, rows: Path, folder: Path) -> dict[str, Any]:
    strategy, model, world, micro = key
    model, *kinds = model.split("+")
    case: dict[str, Any] = {"strategy": strategy, "model": model, "micro": micro, "rows": str(rows)}
    if "packed" in kinds:
        case |= {"micro": None, "micro_tokens": micro}
    case["save"] = str(folder / "-".join(map(str, key)))
    case["probe"] = world > 1 and micro == 2  # what `make test` exports
    if adapters := {"lora", "qlora"} & set(kinds):
        case |= {"lora": LORA, "tuning": adapters.pop()}
    if "lora" in case or model in FAINT:
        case["adamw"] = FAINT_ADAMW
    if strategy == "hsdp":
        case["settings"] = {"shard_size": min(world, 2)}
    if strategy.startswith("zero") and micro == 1:
        case["settings"] = {"bucket_parameters": 20_000}  # several buckets, and stage 3 drops what it has gathered
    if "offload" in kinds:
        case["settings"] = {"offload": True}
    if model == MAIN and world <= 2 and not kinds and micro == SPLITS[world][0]:  # rows of a step change no evaluation
        case["eval_micro"] = EVAL_MICRO
    if key in RECOMPUTED:
        case["recomputed"] = RECOMPUTED[key]
    if "compiled" in kinds and which("g++"):
        case["compiled"] = True
    return case


def run_cases(world: int, cases: dict[Any, dict[str, Any]], folder: Path) -> dict[Any, dict[str, Any]]:
    """Trains the cases on one group of `world` processes; returns the results by the cases' keys.

    Cases of one process are distributed over two processes, so a case that resumes another one must be in a later call.
    """

    def train(number: int, part: list[dict[str, Any]]) -> list[dict[str, Any]]:
        spec = folder / f"cases-{world}-{number}.json"
        spec.write_text(json.dumps(part))
        return run_ranks(world, "tests.support.train_cases", str(spec)) if part else []

    listed, groups = list(cases.values()), 2 if world == 1 else 1
    with ThreadPoolExecutor(groups) as pool:
        parts = list(pool.map(train, range(groups), [listed[i::groups] for i in range(groups)]))
    return {key: parts[i % groups][i // groups] for i, key in enumerate(cases)}


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 training and 31 held-out rows."""
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="session")
def trained(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Key, dict[str, Any]]:
    """The result of every case by its key; its checkpoint of step 5 is in result["case"]["save"]."""
    return _train([*KEYS, *LORA_KEYS, *QLORA_KEYS], rows, tmp_path_factory.mktemp("parity"))


@pytest.fixture(scope="session")
def trained_more(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Key, dict[str, Any]]:
    """The same for MORE_KEYS."""
    return _train(MORE_KEYS, rows, tmp_path_factory.mktemp("parity"))


@pytest.fixture(scope="session")
def trained_to_export(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Key, dict[str, Any]]:
    """The same for all KEYS on several processes, each with the probe that an export is verified against."""
    keys = [key for key in KEYS if key[2] > 1]
    return _train(keys, rows, tmp_path_factory.mktemp("parity"), probe=True)


def _train(keys: list[Key], rows: Path, folder: Path, **more: Any) -> dict[Key, dict[str, Any]]:
    answers: dict[Key, dict[str, Any]] = {}
    for world in sorted({key[2] for key in keys}):
        cases = {key: make_case(key, rows, folder) | more for key in keys if key[2] == world}
        answers |= run_cases(world, cases, folder)
    return answers


@pytest.fixture(scope="session")
def references(rows: Path) -> dict[str, dict[str, Any]]:
    """Losses, norms and final weights of the plain loop, by model."""
    from tests.support.reference import train_reference  # imports torch, which most tests need not wait for

    return {model: train_reference(model, rows, **(FAINT_ADAMW if model in FAINT else {})) for model in MODELS}


def checkpoint_of(answer: dict[str, Any]) -> Path:
    return step_dir(Path(answer["case"]["save"]), 5)
