"""Every key of the schema, and every keyword of a shipped `_target_`, has the intended effect.

A key that no test can show has the reason in its line.

A new key without a line here fails. Each line names a test that fails where the key is ignored:
`python -m tests.support.planted keys` forgets them one at a time, after all checks, and looks.
"""

import ast
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from distft.config import ConfigError, compose, read_config
from distft.config.check import known_keys
from distft.config.key import leaves
from distft.config.parts import TARGET_GROUPS
from distft.config.schema import KEYS
from distft.config.targets import check_trusted
from distft.data.key import tokenizer_dir
from distft.data.shards import Rows
from distft.data.sources import find_sources
from distft.data.stage import ensure_prepared
from distft.data.tokenize import byte_tokenizer
from distft.launch import __main__, restarts, stages
from distft.launch.stages import freeze, make_part, plan_run, with_name
from distft.launchers.contract import Outcome
from distft.launchers.slurm.launcher import script_of
from distft.launchers.watchdog import Limits
from distft.paths import conf_dir
from distft.plan import make_plan
from distft.run import read_json
from distft.trackers.contract import make_trackers
from distft.trackers.trackio import Trackio
from distft.trackers.wandb import Wandb
from tests.support.observed_cases import CASES, COMMON
from tests.support.planted import IN_A_RUN
from tests.support.stubs import only_path, stub

HERE = "tests/test_every_key.py::"


def _lines(test: str, keys: str) -> dict[str, str]:
    return dict.fromkeys(keys.split(), test)


SHOWN: dict[str, str] = {
    **{
        key: f"tests/test_worker.py::{IN_A_RUN[word]}"
        for word, keys in {
            "adamw": "optimizer.betas optimizer.eps optimizer.weight_decay loss.label_smoothing train.max_grad_norm "
            "schedule.final_fraction",
            "sgd": "optimizer.lr optimizer.momentum optimizer.nesterov schedule.decay_steps",
            "cosine": "schedule.warmup_steps train.max_steps",
            "clock": "checkpoint.every_minutes checkpoint.save_best",
            "epochs": "train.epochs train.global_batch_size train.micro_batch_size",
            "tokens": "train.global_batch_tokens train.micro_batch_tokens data.packing",
            "weights": "seed",
            "dropout": "tuning.dropout model.tiny_architecture",
            "alpha": "tuning.alpha tuning.rank",
            "due": "eval.at_ends eval.every_steps",
            "evaluation": "eval.micro_batch_size data.eval",
            "recomputing": "train.activation_checkpointing",
            "kept": "checkpoint.every_steps checkpoint.keep checkpoint.keep_every checkpoint.background",
            "looks": "train.check_replicas_every",
            "early": "eval.early_stopping.patience eval.early_stopping.min_delta",
            "metric": "eval.metric eval.goal",
            "watched": "eval.train_rows",
            "noise": "train.neftune_alpha model.dropout",
            "averaged": "train.ema_decay eval.weights",
            "anew": "checkpoint.resume checkpoint.allow_change",
            "finite": "train.on_non_finite train.max_non_finite",
            "in_force": "train.precision train.compile train.profile strategy.layout strategy.shard_size "
            "strategy.stage strategy.offload strategy.bucket_parameters strategy.persist_parameters "
            "strategy.overlap_communication model.attention optimizer.fused",
            "places": "name runs_dir cache_dir data.train data.max_length model.tiny launcher.stage launcher.stage_dir "
            "launcher.processes_per_node data.shards",
        }.items()
        for key in keys.split()
    },
    **_lines(
        "tests/losses/test_preference.py::test_losses_and_rewards_are_the_closed_forms",
        "loss.beta loss.gamma loss.length_normalized",
    ),
    **_lines(
        "tests/losses/test_preference.py::test_kto_has_the_papers_value_at_a_fixed_reference_point",
        "loss.desirable_weight loss.undesirable_weight loss.reference_point",
    ),
    **_lines("tests/losses/test_preference.py::test_rewards_are_compared_and_centred", "loss.center loss.margin"),
    "loss.reference": "tests/train/test_reference.py::test_any_reference_gives_the_same_training_on_any_strategy",
    **_lines("tests/generate/test_samples.py::test_each_evaluation_answers_the_same_prompts", "eval.samples"),
    **_lines(
        "tests/launch/test_benchmarks.py::test_what_is_due_follows_the_keys_of_the_run",
        "eval.benchmarks eval.benchmarks_every_steps eval.benchmarks_limit eval.benchmarks_path",
    ),
    **_lines(
        f"{HERE}test_slurm_options_are_in_the_script",
        "launcher.nodes launcher.partition launcher.account launcher.qos launcher.time launcher.memory "
        "launcher.cpus_per_process launcher.gpus_per_node launcher.constraint launcher.exclude launcher.flags "
        "launcher.warning_seconds launcher.environment launcher.modules launcher.container_image "
        "launcher.container_mounts launcher.fabric launcher.jobs_at_once",
    ),
    **_lines(
        f"{HERE}test_a_launch_waits_restarts_and_gives_up_as_configured",
        "launcher.wait launcher.grace_seconds launcher.restarts launcher.hang_seconds launcher.hang_seconds_outside "
        "launcher.program",
    ),
    **_lines(
        f"{HERE}test_rows_are_read_as_configured",
        "data.split data.eval_split data.split_seed data.overlap data.format data.fields data.ignore_fields "
        "data.chat_template data.seed_date",
    ),
    **_lines(f"{HERE}test_answers_are_trained_as_asked", "data.train_on data.train_reasoning"),
    **_lines(f"{HERE}test_long_rows_and_prompts_follow_their_keys", "data.truncate data.prompt_template"),
    **_lines(
        f"{HERE}test_unusable_rows_over_max_bad_rows_stop_a_run",
        "data.max_bad_fraction data.max_truncated_fraction data.max_untrained_fraction",
    ),
    "data.num_proc": "tests/data/test_workers.py::test_one_and_two_processes_write_the_same_bytes",
    "model.trust_remote_code": f"{HERE}test_model_code_runs_only_if_trusted",
    "trust": f"{HERE}test_user_code_runs_only_if_trusted",
    **_lines(
        f"{HERE}test_a_model_is_built_from_its_keys",
        "model.path model.tokenizer model.architecture tuning.target_modules",
    ),
    **_lines(f"{HERE}test_the_configured_hub_revision_is_requested", "data.revision data.subset"),
    "model.revision": "tests/test_hub.py::test_each_failure_is_one_line_with_a_fix",
    **{
        key.path: "tests/data/cleaning/test_options.py::test_an_option_changes_what_is_found"
        for key in KEYS
        if key.path.startswith("clean.")
    },
    **_lines(
        f"{HERE}test_a_tracker_gets_its_settings",
        "tracker.prometheus.folder tracker.prometheus.every_seconds tracker.wandb.project tracker.wandb.entity "
        "tracker.wandb.mode tracker.trackio.project",
    ),
    "train.deterministic": "tests/verify_resume/test_command.py::test_verify_resume_kills_resumes_and_proves_equality",
    **_lines(f"{HERE}test_a_finished_run_is_exported_as_configured", "export.at export.dtype export.format"),
    "export.enabled": "tests/launch/test_launch.py::test_without_waiting_the_run_ends_on_its_own",
    "launcher.rendezvous": "tests/launchers/test_together.py::test_the_same_command_on_two_machines_is_one_run",
    "launcher.profile": "tests/config/test_own_yaml.py::test_every_kind_of_value_arrives_as_it_was_written",
    "launcher.max_timeouts": "tests/launch/test_job.py::test_time_limits_are_counted_and_preemptions_are_not",
    **_lines(
        "tests/launchers/test_openai.py::test_a_run_trains_at_openai_also_through_faults",
        "launcher.model launcher.learning_rate_multiplier launcher.suffix launcher.price launcher.eval_rows",
    ),
    "launcher.poll_seconds": "tests/launchers/test_openai.py::test_a_job_is_asked_about_as_often_as_configured",
    "launcher.preflight": "tests/slurm/test_preflight.py::test_a_job_without_preflight_measures_nothing",
    "model.task": "tests/tasks/test_runs.py::test_a_task_of_labels_runs_and_its_export_opens",
    **_lines(
        "tests/losses/test_every_loss.py::test_a_loss_trains_like_its_class_on_one_process",
        "loss.z_loss loss.class_weights loss.delta loss.positive_weight loss.kl_weight loss.temperature",
    ),
    "loss.top_k": "tests/train/test_teacher.py::test_every_strategy_stores_what_the_teacher_gives",
    "loss.teacher": "tests/test_words.py::test_every_choice_trains_two_steps",
    "sweep.only_failed": "tests/sweep/test_sweeps.py::test_only_failed_reruns_only_the_failed_jobs",
    "sweep.fail_fast": "tests/sweep/test_sweeps.py::test_fail_fast_stops_the_other_jobs",
    "sweep.space": "tests/sweep/test_request.py::test_an_experiment_brings_what_it_sweeps",
    "export.average_last": "tests/launch/test_overfitting.py::test_the_mean_of_the_last_checkpoints_is_exported",
    "sweep.trials": "tests/sweep/test_sweeps.py::test_a_search_finds_a_better_rate_than_the_worst_of_a_grid",
}
NOT_SHOWN: dict[str, str] = {
    "model.kernels": "refused without an accelerator; what it does to layers: tests/models/test_build.py",
    "checkpoint.on_failure": "a disk that fails in a run: tests/test_full_disk_run.py, of make soak; the save alone: "
    "tests/checkpoint/test_lagging.py",
    "optimizer.decoupled_weight_decay": "of torch.optim.RAdam, held to its live defaults: tests/optim/test_groups.py",
    "sweep.seed": "a sweep's points by its seed: tests/sweep/test_search.py, without a command line",
}


def keys_there_are() -> set[str]:
    """Returns the schema's keys, and what any shipped word's `_target_` takes; of code of others, what YAML says."""
    found = {key.path for key in KEYS}
    for group in TARGET_GROUPS:
        for file in (conf_dir() / group).glob("*.yaml"):
            settings = yaml.safe_load(file.read_text()) or {}
            found |= {key for key, _ in leaves(settings, prefix=f"{group}.") if "._" not in key}
            if any("._target_" in f".{key}" and str(target).startswith("distft.") for key, target in leaves(settings)):
                keys = known_keys({group: settings}).keys
                found |= {key for key in keys if key.startswith(f"{group}.") and "._" not in key}
    return found


def test_the_table_has_exactly_one_line_per_key():
    assert keys_there_are() ^ {*SHOWN, *NOT_SHOWN} == set()
    assert not set(SHOWN) & set(NOT_SHOWN)


@pytest.mark.slow
def test_every_test_named_in_a_line_exists_and_names_the_key(checkout: Path):
    @cache
    def tests_of(file: str) -> dict[str, str]:
        tree = ast.parse((checkout / file).read_text())
        return {each.name: ast.unparse(each) for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)}

    used = {key for case in [COMMON, *CASES.values()] for key in case}
    used |= {"name", "runs_dir", "cache_dir", "data.train", "data.eval", "strategy.layout"}  # of all, and of a word
    for key, place in SHOWN.items():
        file, _, test = place.partition("::")
        assert test in tests_of(file), f"{key}: {place}"
        if file == "tests/test_worker.py":
            assert any(each == key or each.startswith(f"{key}.") for each in used), key
        elif place.startswith(HERE):
            assert key in Path(__file__).read_text().partition("def keys_there_are")[2], key


def write(file: Path, rows: list[dict[str, str]]) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def pairs(count: int, word: str = "q") -> list[dict[str, str]]:
    return [{"prompt": f"{word}{i}", "completion": f"a{i}"} for i in range(count)]


@pytest.fixture
def right(tmp_path: Path) -> list[str]:
    """Overrides of a whole config of 40 rows."""
    rows = write(tmp_path / "rows.jsonl", pairs(40))
    return ["model.tiny=true", f"data.train={rows}", f"cache_dir={tmp_path / 'cache'}", f"runs_dir={tmp_path / 'runs'}"]


def texts(overrides: list[str]) -> dict[str, list[str]]:
    """Returns what is prepared of training and held-out rows, as text; ConfigError where it may not be trained on."""
    prepared = ensure_prepared(compose(overrides))
    return {part: [byte_tokenizer().decode(row.input_ids) for row in Rows(prepared.folder, part)] for part in PARTS}


PARTS = ("train", "eval")


@pytest.mark.slow
def test_rows_are_read_as_configured(right: list[str], tmp_path: Path):
    splits = tmp_path / "splits"
    for name in ("train", "dev", "test"):
        write(splits / f"{name}.jsonl", pairs(3, name))
    folder = ["model.tiny=true", right[2], f"data.train={splits}"]
    assert "dev0" in texts([*folder, "data.split=validation", "data.eval=null"])["train"][0]
    assert "test0" in texts([*folder, f"data.eval={splits}", "data.eval_split=test"])["eval"][0]
    first, second = (texts([*right, "data.eval=0.5", f"data.split_seed={seed}"])["eval"] for seed in (0, 1))
    assert first != second and len(first) > 5

    own = [*right, f"data.eval={write(tmp_path / 'eval.jsonl', pairs(3))}"]
    assert len(texts([*own, "data.overlap=drop"])["train"]) == 37
    with pytest.raises(ConfigError, match="data.overlap=stop: 3 rows"):
        texts([*own, "data.overlap=stop"])

    plain = texts([*right, "data.chat_template=none", "data.eval=null"])["train"][0]
    assert plain.startswith("q0a0") and not texts([*right, "data.eval=null"])["train"][0].startswith("q0a0")
    with pytest.raises(ConfigError, match="text: is missing"):
        texts([*right, "data.format=text"])
    named = write(tmp_path / "named.jsonl", [{"question": "why", "completion": "so"}] * 4)
    asked = ["model.tiny=true", right[2], f"data.train={named}", "data.eval=null", "data.fields={prompt: question}"]
    assert "why" in texts(asked)["train"][0]
    more = write(tmp_path / "more.jsonl", [{"prompt": "why", "completion": "so", "origin": "here"}] * 4)
    asked = ["model.tiny=true", right[2], f"data.train={more}", "data.eval=null"]
    with pytest.raises(ConfigError, match="origin"):
        texts(asked)
    assert len(texts([*asked, "data.ignore_fields=[origin]"])["train"]) == 4
    template = tmp_path / "dated.jinja"
    template.write_text(
        "{{ strftime_now('%d %b %Y') }}{% for m in messages %}"
        "{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
    )
    dated = [*right, "data.eval=null", f"data.chat_template={template}", "data.seed_date=1987-06-05"]
    assert texts(dated)["train"][0].startswith("05 Jun 1987user: q0")


@pytest.mark.slow
def test_long_rows_and_prompts_follow_their_keys(right: list[str], tmp_path: Path):
    """data.truncate, data.prompt_template."""
    rows = write(tmp_path / "columns.jsonl", [{"a": "x" * 60, "completion": "y"}, {"a": "z", "completion": "y"}])
    asked = ["model.tiny=true", right[2], f"data.train={rows}", "data.eval=null", "data.max_length=64"]
    asked += ["data.prompt_template='Q {{ a }}'", "data.max_truncated_fraction=0.6"]
    assert [text.split("\n")[1][:3] for text in texts(asked)["train"]] == ["Q z"]  # cut before the answer
    assert len(texts([*asked, "data.truncate=split"])["train"]) == 2


@pytest.mark.slow
def test_answers_are_trained_as_asked(right: list[str], tmp_path: Path):
    """data.train_on, data.train_reasoning."""
    answers = ["<think>one</think>first", "<think>two</think>second"]
    turns = [
        {"role": role, "content": text} for answer in answers for role, text in (("user", "q"), ("assistant", answer))
    ]
    rows = write(tmp_path / "turns.jsonl", [{"messages": turns}])
    asked = ["model.tiny=true", right[2], f"data.train={rows}", "data.eval=null"]

    def trained(*overrides: str) -> str:
        (row,) = Rows(ensure_prepared(compose([*asked, *overrides])).folder, "train")
        return byte_tokenizer().decode(row.input_ids[row.trained])

    assert trained() == "".join(f"{answer}<|im_end|>" for answer in answers)
    assert trained("data.train_on=last") == f"{answers[1]}<|im_end|>"
    assert trained("data.train_on=all").startswith("<|im_start|>user\nq<|im_end|>")
    assert trained("data.train_reasoning=false") == "first<|im_end|>second<|im_end|>"


@pytest.mark.slow
def test_unusable_rows_over_max_bad_rows_stop_a_run(right: list[str], tmp_path: Path):
    """data.max_bad_fraction, data.max_truncated_fraction, data.max_untrained_fraction."""
    bad = write(tmp_path / "bad.jsonl", [*pairs(9), {"prompt": "x", "completion": None}])  # type: ignore[dict-item]  # is bad
    odd = ["model.tiny=true", right[2], f"data.train={bad}", "data.eval=null"]
    assert len(texts([*odd, "data.max_bad_fraction=0.2"])["train"]) == 9
    with pytest.raises(ConfigError, match="data.max_bad_fraction=0.05"):
        texts([*odd, "data.max_bad_fraction=0.05"])
    long = write(tmp_path / "long.jsonl", [*pairs(4), *({"prompt": "x" * 99, "completion": "y"} for _ in range(6))])
    cut = ["model.tiny=true", right[2], f"data.train={long}", "data.eval=null", "data.max_length=48"]
    assert len(texts([*cut, "data.max_truncated_fraction=0.7"])["train"]) == 4
    with pytest.raises(ConfigError, match="data.max_untrained_fraction=0.5: 6 of 10"):
        texts([*cut, "data.max_truncated_fraction=0.7", "data.max_untrained_fraction=0.5"])


def test_the_configured_hub_revision_is_requested(right: list[str]):
    asked = ["data.train=org/rows", "data.revision=v1", "data.subset=english", "data.split=test_sft"]
    data = compose(["model.tiny=true", *asked]).data
    [source] = find_sources("train", data, "cache")
    assert (source.hub_id, source.revision, source.subset, source.split) == ("org/rows", "v1", "english", "test_sft")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one layer with its weights and a byte tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model")
    sizes: Any = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=512, num_key_value_heads=2, **sizes)).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_model_is_built_from_its_keys(right: list[str], model_dir: Path, tmp_path: Path):
    own = [*right[1:], f"model.path={model_dir}"]
    plan = make_plan(compose(own))
    assert (plan.model_dir, plan.tokenizer_dir) == (str(model_dir), str(model_dir))
    other = tmp_path / "tokenizer"
    byte_tokenizer().save_pretrained(other)
    assert tokenizer_dir(compose([*own, f"model.tokenizer={other}"])) == other

    sizes = [make_plan(compose([*right, "model=gpt2", *each])).parameters for each in ([], [NARROWER])]
    assert sizes[0] - sizes[1] == 2 * (2 * 64 * 128 + 128), "two layers of 64 and 256, now 128"
    adapted = [*right, "model=gpt2", "tuning=lora", "tuning.rank=2", "tuning.target_modules=[c_fc]"]
    assert make_plan(compose(adapted)).adapters == 2 * 2 * (64 + 256), "2 layers, rank 2, 64 in and 256 out"


@pytest.mark.slow
def test_model_code_runs_only_if_trusted(
    right: list[str], model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """model.trust_remote_code: of a tokenizer."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "own"
    byte_tokenizer().save_pretrained(folder)
    reported = json.loads((folder / "tokenizer_config.json").read_text())
    named = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": [None, "mine.Mine"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(reported | named))
    (folder / "mine.py").write_text(
        "from transformers import PreTrainedTokenizerFast\nclass Mine(PreTrainedTokenizerFast): pass\n"
    )
    coded = [*right[1:], f"model.path={model_dir}", f"model.tokenizer={folder}", "data.eval=null"]
    with pytest.raises(ConfigError, match="has no tokenizer that can be loaded"):
        texts(coded)
    assert len(texts([*coded, "model.trust_remote_code=true"])["train"]) == 40


NARROWER = "model.architecture.n_inner=128"


def test_user_code_runs_only_if_trusted(right: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mylab_elsewhere.py").write_text("class Mine: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = [*right, "loss._target_=mylab_elsewhere.Mine", "~loss.label_smoothing", "trust=[mylab_elsewhere.]"]
    check_trusted(compose(own).values)
    with pytest.raises(ValueError, match="loss._target_=mylab_elsewhere.Mine: code is run from "):
        check_trusted(compose(own).values | {"trust": []})


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster of a partition `fast` with GPUs, which takes every job."""
    folder = tmp_path / "programs"
    only_path(folder, monkeypatch)
    stub(folder, "sinfo", 'case "$*" in *%P) echo "fast*";; *) echo "fast|infinite|gpu:a100:4|32|4|up|idle";; esac')
    stub(folder, "sbatch", f'cp "${{@: -1}}" {folder}/submitted; echo "Submitted batch job 12"')
    stub(folder, "srun", "")
    return folder


def submitted(right: list[str], *names: str, settings: list[str]) -> str:
    """Submits runs of a config to SLURM; returns the script of the first."""
    runs, config = [], compose(right)
    for name in names:
        overrides = [*right, "launcher=slurm", f"name={name}", "data.packing=true", *settings]
        config = compose(overrides, sweep=True)
        run, config = with_name(config)
        runs.append(run)
        freeze(runs[-1], config, plan_run(runs[-1], config), overrides)
    make_part(config, "launcher").submit([run.path for run in runs])
    return script_of(runs[0]).read_text()


@pytest.mark.slow
def test_slurm_options_are_in_the_script(right: list[str], programs: Path):
    asked = {
        "launcher.nodes=2-3": "--nodes=2-3",
        "launcher.partition=fast": "--partition=fast",
        "launcher.account=lab": "--account=lab",
        "launcher.qos=long": "--qos=long",
        "launcher.time=12:34:00": "--time=12:34:00",
        "launcher.memory=20G": "--mem=20G",
        "launcher.cpus_per_process=3": "--cpus-per-task=6",
        "launcher.gpus_per_node=a100:2": "--gpus-per-node=a100:2",
        "launcher.constraint=ib": "--constraint=ib",
        "launcher.exclude=[n1,n2]": "--exclude=n1,n2",
        "launcher.flags={reservation: course}": "--reservation=course",
        "launcher.warning_seconds=77": "--signal=USR1@77",
        "launcher.environment=module": "module load gcc/12",
        "launcher.modules=[gcc/12]": "module load gcc/12",
        "launcher.fabric=infiniband": "NCCL_IB_",
    }
    more = ["launcher.jobs_at_once=2"]
    text = submitted(right, "a", "b", "c", settings=[*asked, *more])
    assert {override: words for override, words in asked.items() if words not in text} == {}
    assert "--array=0-2%2" in (programs / "submitted").read_text()
    plan = read_json(Path(right[3].partition("=")[2]) / "a" / "plan.json")
    assert (plan["nodes"], plan["processes_per_node"]) == (3, 2), "as many processes as GPUs"

    boxed = {
        "launcher.environment=container": "--container-image",
        "launcher.container_image=/images/torch.sqsh": "--container-image=/images/torch.sqsh",
        "launcher.container_mounts=[/more:/there:ro]": "/more:/there:ro",
    }
    text = submitted(right, "boxed", settings=[*boxed])
    assert {override: words for override, words in boxed.items() if words not in text} == {}


class Handle:
    """A run on this machine whose every start fails."""

    name, is_part = "a run", False

    def __init__(self) -> None:
        self.starts = 0

    def state(self) -> str:
        return "failed"

    def wait(self, seconds: float) -> Outcome:
        return Outcome("failed", {"type": "SIGKILL", "message": "", "rank": 0, "host": "here"})

    def cancel(self) -> None: ...

    def start_again(self) -> None:
        self.starts += 1


@pytest.mark.slow
def test_a_launch_waits_restarts_and_gives_up_as_configured(right: list[str], monkeypatch: pytest.MonkeyPatch):
    settings = ["launcher.wait=false", "launcher.grace_seconds=7", "launcher.restarts=2", "launcher.hang_seconds=11"]
    settings += ["launcher.hang_seconds_outside=13", "launcher.program=tests.support.fake_worker", "name=r"]
    config = compose([*right, *settings])
    run, config = with_name(config)
    freeze(run, config, plan_run(run, config), settings)
    launcher = make_part(config, "launcher")
    assert not config.launcher.wait and launcher.config.program == "tests.support.fake_worker"
    assert Limits.of(read_config(run).launcher) == Limits(11, 13)

    given: list[Any] = []
    monkeypatch.setattr(__main__, "follow", lambda *arguments: given.append(arguments) or Outcome("completed"))
    __main__.supervise(run, Handle(), launcher, (), config.launcher.grace_seconds)  # type: ignore[arg-type]  # enough of one
    assert given[0][2] == 7

    handle = Handle()
    again = restarts.restarting(handle, run, config)  # type: ignore[arg-type]
    assert [again.wait(0) for _ in range(2)] == [None, None] and again.wait(0) == handle.wait(0)
    assert handle.starts == 2


@pytest.mark.slow
def test_a_finished_run_is_exported_as_configured(right: list[str], monkeypatch: pytest.MonkeyPatch):
    """By the command that the launch starts; tests/export tests the arguments of the command itself."""
    started: list[tuple[str, ...]] = []

    class Noted:
        log = None

        def __init__(self, *words: str, **_: Any) -> None:
            started.append(words)

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(stages, "Command", Noted)
    asked = ["tuning=lora", "export.at=latest", "export.dtype=bf16", "export.format=merged", "name=r"]
    config = compose([*right, *asked])
    run, config = with_name(config)
    freeze(run, config, plan_run(run, config), asked)
    stages.write_results(run, export=config.export)
    assert {"at=latest", "dtype=bf16", "format=merged"} <= set(started[0]) and started[0][0] == "export"
    started.clear()
    stages.write_results(run, export=compose([*right, "export=false"]).export)
    assert [words[0] for words in started] == ["report"]


@pytest.mark.slow
def test_a_tracker_gets_its_settings(right: list[str], tmp_path: Path):
    folder = tmp_path / "collected"
    settings = ["tracker=[wandb,trackio,prometheus]", f"tracker.prometheus.folder={folder}", "name=r"]
    settings += ["tracker.trackio.project=own"]
    settings += ["tracker.wandb.project=mine", "tracker.wandb.entity=lab", "tracker.wandb.mode=offline"]
    settings += ["tracker.prometheus.every_seconds=0"]
    config = compose([*right, *settings])
    run, config = with_name(config)
    freeze(run, config, plan_run(run, config), settings)
    wandb, trackio, tracker = make_trackers(config.tracker)
    assert isinstance(trackio, Trackio) and trackio._project == "own"
    assert isinstance(wandb, Wandb) and (wandb._project, wandb._entity, wandb._mode) == ("mine", "lab", "offline")
    tracker.start(run)
    row = {"split": "train", "loss": 1.0, "grad_norm": 1.0, "tokens_per_second": 1.0, "mfu": None, "phases": {}}
    for step in (1, 2):
        tracker.log(row | {"step": step, "seconds": 1.0, "time": 0.0, "tokens": 3})
    [line] = [each for each in (folder / "distft_r.prom").read_text().splitlines() if each.startswith("distft_step{")]
    assert line.endswith(" 2.0"), "written at once"
