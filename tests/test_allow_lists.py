"""Every allow-list is tested with its complement: listed entries are accepted, all others are refused.

The lists are written out once more, so that a line which is added to one of them, or lost from it, is seen.
"""

import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from distft.config import compose
from distft.config.freeze import _PLACES, Frozen, meanings, refusal
from distft.config.key import at, leaves
from distft.config.schema import KEYS
from distft.config.targets import check_trusted
from distft.launch.restarts import may_restart
from distft.launchers.contract import Outcome
from distft.rank import find_work
from distft.run import RunFolder
from distft.runtime import environment, errors, stop
from distft.runtime.environment import has_secret, looks_secret, passed_on, recorded, redact
from distft.tensors import integrity
from distft.train.oom_probe import _NO_MEMORY

# What a run may go on with another value of: where and how fast it trains, and what is seen of it.
MAY_CHANGE = """
name runs_dir cache_dir trust export.* strategy.* launcher.* tracker.* sweep.* checkpoint.* model.attention
model.kernels data.num_proc
data.packing data.max_bad_fraction data.max_truncated_fraction data.max_untrained_fraction train.micro_batch_size
train.micro_batch_tokens train.activation_checkpointing train.compile train.deterministic train.profile
train.on_non_finite train.max_non_finite train.check_replicas_every eval.micro_batch_size eval.samples
eval.train_rows eval.benchmarks eval.benchmarks_every_steps eval.benchmarks_limit eval.benchmarks_path
""".split()
# All other keys, which need checkpoint.allow_change. Written out, so that every key is on one list.
MUST_STAY = """
clean.* seed model.path model.revision model.task model.tokenizer model.trust_remote_code model.tiny model.architecture
model.tiny_architecture data.train data.eval data.split data.eval_split data.subset data.revision data.split_seed
data.overlap data.format data.fields data.ignore_fields data.train_on data.train_reasoning
data.truncate data.prompt_template
data.seed_date data.max_length data.chat_template data.shards optimizer.* schedule.* tuning.*
loss.* train.max_steps train.epochs train.global_batch_size train.global_batch_tokens train.max_grad_norm
train.precision eval.at_ends eval.every_steps eval.early_stopping.patience eval.early_stopping.min_delta
model.dropout train.neftune_alpha train.ema_decay eval.weights eval.metric eval.goal
""".split()


def in_list(key: str, listed: Sequence[str]) -> bool:
    return any(key == each or (each.endswith(".*") and key.startswith(each[:-1])) for each in listed)


def test_every_key_is_on_exactly_one_list():
    assert [key.path for key in KEYS if in_list(key.path, MAY_CHANGE) + in_list(key.path, MUST_STAY) != 1] == []


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 40)
    return compose(["model.tiny=true", f"data.train={tmp_path / 'rows.jsonl'}"]).values


def changed(values: dict[str, Any], key: str) -> dict[str, Any]:
    """Returns the values with another one at `key`, or with the key where there was none."""
    values = deepcopy(values)
    *groups, name = key.split(".")
    tree: Any = values
    for group in groups:
        tree = tree.setdefault(group, {})
    tree[name] = ["another"]
    return values


@pytest.mark.slow
def test_a_run_continues_only_with_changes_of_listed_keys(values: dict[str, Any]):
    keys = {*dict(leaves(values)), *(key.path for key in KEYS if not isinstance(at(values, key.path), dict))}
    keys |= {"optimizer._target_", "strategy._target_", "loss._target_", "data.yet_unknown", "yet.unknown"}
    keys -= {"checkpoint.allow_change"}  # which says itself what may change
    assert len(keys) > 130
    for key in keys:
        other = changed(values, key)
        listed = in_list(key, MAY_CHANGE)
        assert meanings(values, other) == ([] if listed else [key]), key
        assert (refusal(values, other, "a run") is None) is listed, key


def test_an_untyped_path_may_differ(values: dict[str, Any]):
    """A default that another version has is kept from the frozen run; a path is not a default."""
    places = {"name", "runs_dir", "cache_dir", "data.train", "model.path"}
    assert set(_PLACES) == places
    config = compose(["model.tiny=true", f"data.train={at(values, 'data.train')}"])
    for key in (
        "name",
        "cache_dir",
        "model.path",
        "optimizer.lr",
        "train.max_grad_norm",
        "data.format",
        "eval.at_ends",
    ):
        frozen = Frozen(changed(values, key), config.choices, frozenset())
        assert frozen.other_defaults(config) == ([] if key in places else [key])


TRUSTED = ("distft.losses.mse.Mse", "torch.optim.AdamW", "torch.optim.lr_scheduler.StepLR", "torch.nn.Linear")
NOT_TRUSTED = """
os.system subprocess.run builtins.eval torch.load torch.hub.load torch.optimal.X torch.nnx.Linear torch.optim torch.nn
distft distftx.Loss mydistft.Loss xtorch.optim.AdamW transformers.AutoModel TORCH.optim.AdamW hydra.utils.call
""".split()


@pytest.mark.parametrize("place", ["loss", "optimizer", "tracker", "deep", "first", "middle", "last"])
def test_targets_come_from_trusted_prefixes_only(place: str):
    def config(target: str) -> dict[str, Any]:
        named = {"_target_": target}
        right = {"_target_": TRUSTED[0]}
        lists = {"first": [named, right, right], "middle": [right, named, right], "last": [right, right, named]}
        if place in lists:
            return {"loss": {"parts": lists[place]}}
        return {"a": {"b": [{"c": named}]}} if place == "deep" else {place: named, "other": right}

    for target in TRUSTED:
        check_trusted(config(target))
    for target in NOT_TRUSTED:
        with pytest.raises(ValueError, match=re.escape(target)):
            check_trusted(config(target))
        if "." in target:
            check_trusted(config(target) | {"trust": [target.partition(".")[0]]})
    check_trusted(config("mylab.x.Y") | {"trust": ["a.", "mylab."]})
    with pytest.raises(ValueError, match="mylabs"):
        check_trusted(config("mylabs.x.Y") | {"trust": ["mylab"]})


def test_rank_functions_come_from_trusted_prefixes_only():
    assert callable(find_work("distft.paths.conf_dir", [])) and callable(find_work("os.path.join", ["os"]))
    for name in ("os.system", "distfty.x", "torch.load", "osx.path"):
        with pytest.raises(ValueError, match=re.escape(f"work={name}: code is run from ")):
            find_work(name, ["os.path"] if name == "osx.path" else [])


# What another start would only repeat; every other end is one that it may mend.
FINAL = {"NonFinite", "OutOfMemory", "Disagreement"}
MENDED = """
Hang SIGKILL SIGSEGV SIGABRT SIGBUS SIGTERM ValueError KeyError RuntimeError OSError ConnectionError DistBackendError
DistNetworkError SaveFailed Damaged FileNotFoundError MemoryError AssertionError KeyboardInterrupt OutOfMemoryError
""".split()


def test_a_failure_that_would_repeat_is_not_restarted(tmp_path: Path):
    run = RunFolder(tmp_path)
    run.write_status(state="failed", attempt=3)

    def begins(kind: str | None) -> bool:
        return may_restart(run, Outcome("failed", {"type": kind} if kind else None))

    assert set(errors.FINAL) == FINAL
    assert [kind for kind in FINAL if begins(kind)] == []
    assert [kind for kind in [*MENDED, "exit code 1", "exit code 3", None] if not begins(kind)] == []
    stop.request(run, 2, "of an attempt before")
    assert begins("SIGKILL")
    stop.request(run, 3, "by hand")
    assert not begins("SIGKILL")


def alternatives(pattern: str) -> list[str]:
    """Returns what a regex allows, one alternative each: those within groups are multiplied out, letters of a class
    too."""
    inner = re.fullmatch(r"(?:\(\?i\))?(.*)", pattern, re.DOTALL)
    assert inner is not None
    return [each for part in _parts(inner[1]) for each in _multiplied(part)]


def _parts(pattern: str) -> list[str]:
    depth, parts, escaped, in_class = 0, [""], False, False
    for letter in pattern:
        in_class = (letter == "[" or in_class) and not (letter == "]" and not escaped)
        depth += 0 if escaped or in_class else (letter == "(") - (letter == ")")
        if letter == "|" and not depth and not escaped and not in_class:
            parts.append("")
        else:
            parts[-1] += letter
        escaped = letter == "\\" and not escaped
    return parts


def _multiplied(part: str) -> Iterator[str]:
    """Yields the alternative with each choice of its first plain group `(a|b)` or class `[abc]` of up to 9 letters."""
    found = re.search(r"\((?![?])([^()]*\|[^()]*)\)(?![?*+{])|\[([a-z]{2,9})\](?![?*+{])", part)
    if found is None:
        yield part
        return
    for choice in found[1].split("|") if found[1] else found[2]:
        yield from _multiplied(part[: found.start()] + choice + part[found.end() :])


LONG = "0aB9" * 10
SHAPED = [f"hf_{LONG}", *(f"gh{letter}_{LONG}" for letter in "pousr"), f"github_pat_{LONG}", f"glpat-{LONG}"]
SHAPED += [f"AKIA{'0AB9' * 4}", f"ASIA{'0AB9' * 4}", f"sk-{LONG}", *(f"xox{letter}-{LONG}" for letter in "abeoprs")]
SHAPED += [f"AIza{LONG}", f"ya29.{LONG}", f"eyJ{LONG}.{LONG}.{LONG}"]
NAMES = "api_key apikey access_key accesskey secret password passwd token".split()
NAMED = [f"Bearer {LONG}", f"basic {LONG}", *(f"{name}={LONG}" for name in NAMES)]
NAMED += [f'"my-{name}": "{LONG}"' for name in NAMES] + [f"{name.upper()}: {LONG}" for name in NAMES]
TEXTS = [*SHAPED, *NAMED, f"https://me:{LONG}@example.org/x.git"]


def test_every_secret_pattern_has_an_example():
    for part in alternatives(environment._SHAPES.pattern):
        assert any(re.fullmatch(part, text) for text in SHAPED), f"no example of {part}"
    shapes = alternatives(environment._SHAPES.pattern)
    assert all(any(re.fullmatch(part, text) for part in shapes) for text in SHAPED)
    assert len(shapes) >= len(SHAPED) - 1


@pytest.mark.parametrize("place", ["first", "middle", "last", "alone"])
def test_every_secret_is_blanked_at_any_position(place: str):
    plain = ["a line", "step-00000012/rank-00000.safetensors", "tokens: 123456789012345"]
    for text in TEXTS:
        at_place = {"first": [text, *plain], "middle": [*plain[:1], text, *plain[1:]], "last": [*plain, text]}
        lines = at_place.get(place, [text])
        blanked = redact("\n".join(lines), {}).splitlines()
        assert LONG not in "\n".join(blanked) and "0AB9" not in "\n".join(blanked), text
        assert [line for line in blanked if line in plain] == [line for line in lines if line in plain], text
    both = redact(" ".join(TEXTS), {})
    assert LONG not in both, "several in one line"
    assert all(has_secret(text) for text in [*SHAPED, TEXTS[-1]])


SECRET_WORDS = "TOKEN KEY APIKEY SECRET PASSWORD PASSWD PASS CREDENTIAL CREDENTIALS AUTH COOKIE".split()


def test_a_variable_is_secret_by_a_whole_word_of_its_name():
    assert set(SECRET_WORDS) == environment._SECRET_WORDS
    for word in SECRET_WORDS:
        for name in (word, f"MY_{word}", f"{word}_OF_MINE", f"MY_{word}_X", word.lower(), f"my-{word.lower()}"):
            assert looks_secret(name), name
        for name in (f"{word}ING_X", f"X{word}", f"MY{word}X"):
            assert not looks_secret(name), name
        value = f"{word.lower()}-value-1"
        assert value not in redact(f"a {value} b", {f"MY_{word}": value})
        assert recorded({f"NCCL_{word}": value}) == {f"NCCL_{word}": "***"}


INHERITED = """
CUDA_X HIP_X ROCR_X NCCL_X RCCL_X GLOO_X TORCH_X PYTORCH_X TORCHINDUCTOR_X TRITON_X DS_X DEEPSPEED_X OMP_X MKL_X KMP_X
GOMP_X SLURM_CONF HF_X HUGGINGFACE_X TRANSFORMERS_X DATASETS_X TOKENIZERS_X WANDB_X FI_X UCX_X MALLOC_X THP_X
GLIBC_TUNABLES LD_LIBRARY_PATH LD_PRELOAD LANG LC_ALL PYTHONPATH PYTHONHASHSEED VIRTUAL_ENV CONDA_PREFIX PATH HOME USER
LOGNAME SHELL TERM TZ TMPDIR LC_X MODULEPATH MODULESHOME LMOD_X SSL_CERT_FILE SSL_CERT_DIR XDG_CACHE_HOME
""".split()
NOT_INHERITED = """
MY_OWN CUDA NCCL NCCLX_Y XNCCL_Y PATHX XPATH SSH_AUTH_SOCK DBUS_SESSION_BUS_ADDRESS DISPLAY EDITOR AWS_REGION
SLURM_JOB_ID SLURM_CONF_SERVER SLURM_PROCID CUDA_VISIBLE_DEVICES HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES MASTER_ADDR
MASTER_PORT TORCHELASTIC_RUN_ID TORCHELASTIC_X HF_TOKEN WANDB_API_KEY LMOD_SECRET SLURM_JWT_KEY NCCL_AUTH XDG_DATA_HOME
""".split()


def test_a_remote_job_inherits_only_listed_variables():
    for pattern in (environment._RECORDED.pattern, environment._OF_A_SHELL.pattern):
        for part in alternatives(pattern):
            assert any(re.fullmatch(part, name) for name in [*INHERITED, *NOT_INHERITED]), f"no example of {part}"
    names = [*NOT_INHERITED[:9], *INHERITED, *NOT_INHERITED[9:]]
    assert passed_on(dict.fromkeys(names, "value")) == INHERITED


NO_MEMORY = (
    """
CPUAllocator: can't allocate memory: you tried to allocate 9 bytes|CUDA out of memory|device out of device memory
no: out of host memory|UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY|ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY|OUT_OF_MEMORY
CUBLAS_STATUS_ALLOC_FAILED when calling
""".strip()
    .replace("\n", "|")
    .split("|")
)


def test_every_oom_error_is_distinguished_from_others():
    assert all(_NO_MEMORY.search(text) for text in NO_MEMORY)
    parts = ["can't allocate memory", "out of memory", "out of device memory", "out of host memory", "OUT_OF_MEMORY"]
    parts += ["OUT_OF_DEVICE_MEMORY", "OUT_OF_HOST_MEMORY", "_STATUS_ALLOC_FAILED"]
    assert len(_parts(_NO_MEMORY.pattern)) == 4 and all(any(part in text for text in NO_MEMORY) for part in parts)
    others = ["memory format option", "shared memory", "CUDA error: an illegal memory access", "run out of time"]
    assert not [text for text in others if _NO_MEMORY.search(text)]


LOST = (
    """
Connection closed by peer|connection was closed|Connection reset by peer|connection refused|Broken pipe|read error
read timeout|write error|write timeout|socket error|Socket Timeout|recvValue failed|timed out waiting
Timed out after 30 s|wait timeout|communicator was aborted|remote process exited|remote error|TCPStore
""".strip()
    .replace("\n", "|")
    .split("|")
)


def test_every_lost_peer_error_is_distinguished_from_others():
    def failure(kind: str, message: str) -> errors.Failure:
        return errors.Failure(0, "here", kind, message)

    kinds = {"RuntimeError", "DistError", "DistBackendError", "DistNetworkError", "DistStoreError"}
    assert kinds == errors._COLLECTIVE_ERRORS
    for message in LOST:
        assert all(failure(kind, message).peer_lost for kind in kinds), message
        assert not any(failure(kind, message).peer_lost for kind in ("ValueError", "OSError", "NonFinite"))
    for part in alternatives(errors._PEER_LOST.pattern.replace(r"( (was )?", " (was )?")):
        assert any(re.search(part, message, re.IGNORECASE) for message in LOST), f"no example of {part}"
    for message in ("the rows are cut", "a read of row 3", "shapes do not match", "process 3 has other weights"):
        assert not failure("RuntimeError", message).peer_lost, message


@pytest.mark.parametrize("number", range(5))
def test_a_changed_byte_in_any_block_of_a_file_is_found(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first, those in the middle, the last, which is shorter, and the header before them."""
    monkeypatch.setattr(integrity, "BLOCK", 64)
    header, data = (56).to_bytes(8, "little") + b"h" * 56, bytes(range(64 * 3 + 10))
    writer = integrity.ChecksumWriter()
    writer.add(memoryview(data))
    file = tmp_path / "rank-00000.safetensors"
    file.write_bytes(header + data)
    seal = integrity.Checksums(len(header + data), integrity.block_hash(header), writer.blocks())
    seal.check(file)
    assert len(seal.blocks) == 4
    for at_byte in (0, 5):
        spoilt = bytearray(header + data)
        spoilt[(64 * number) + at_byte + (8 if not number else 0)] ^= 1
        file.write_bytes(spoilt)
        with pytest.raises(integrity.Damaged, match="its header" if not number else f"block {number - 1} of its data"):
            seal.check(file)
    file.write_bytes((header + data)[:-1])
    with pytest.raises(integrity.Damaged, match="bytes, its manifest says"):
        seal.check(file)
