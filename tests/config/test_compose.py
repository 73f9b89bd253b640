"""A command line becomes one complete config, or a list of all its errors."""

import os
import shutil
from pathlib import Path

import pytest

from distft.config import ConfigError, compose
from distft.config.check import known_keys
from distft.config.compose import Groups
from distft.config.key import at, leaves
from distft.paths import conf_dir


def errors_of(overrides: list[str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    return caught.value.messages


def settable_keys(overrides: list[str]) -> list[str]:
    values = compose(overrides).values
    return [key for key, _ in leaves(values) if not key.startswith("model.architecture")]


@pytest.mark.slow
def test_a_typo_in_any_key_gets_the_key_suggested(right: list[str]):
    """R-22: at any depth, every key; all of them in one command line, so all errors at once too."""
    known = set(settable_keys(right))
    asked = {}
    for key in known:
        group, _, last = key.rpartition(".")
        middle = len(last) // 2
        for wrong in (last[:middle] + last[middle + 1 :], last[:middle] + last[middle] + last[middle:]):
            path = f"{group}.{wrong}".strip(".")
            if wrong and path not in known:
                asked[f"{path}=1"] = key
    errors = errors_of([*right, *asked])
    for text, key in asked.items():
        [error] = [error for error in errors if error.startswith(f"{text}:")]
        assert error.endswith(f"Did you mean {key}?"), error
    assert len(asked) > 100


@pytest.mark.slow
def test_a_typo_in_any_group_name_gets_it_suggested(right: list[str]):
    groups = sorted(Groups(conf_dir()).words)
    asked = {f"{wrong}=x": name for name in groups for wrong in (name[:-1], name[0] + name)}
    errors = errors_of([*right, *asked])
    for text, name in asked.items():
        [error] = [error for error in errors if error.startswith(text)]
        assert error.partition("Did you mean ")[2].strip("=?").partition(".")[0] == name, error


def test_a_keyword_known_only_from_code_can_be_set(right: list[str]):
    assert at(compose([*right, "optimizer.amsgrad=true"]).values, "optimizer.amsgrad") is True


def test_a_keyword_keeps_its_type(right: list[str]):
    [error] = errors_of([*right, "optimizer.amsgrad=perhaps"])
    assert error.startswith("optimizer.amsgrad=perhaps is not true or false")


@pytest.mark.parametrize("name", ["données é.jsonl", "a(1).jsonl", "my rows.jsonl", "it's.jsonl", "x=1,y.jsonl"])
def test_any_file_name_can_be_typed_plainly(name: str, right: list[str], rows: Path):
    file = rows / name
    file.write_text("{}\n")
    assert compose([*right, f"data.train={name}"]).values["data"]["train"] == str(file)


def test_paths_mean_the_same_from_any_folder(right: list[str], rows: Path):
    values = compose([*right, "cache_dir=~/x", "data.eval=[rows.jsonl]"]).values
    assert values["data"]["train"] == str(rows / "rows.jsonl")
    assert values["data"]["eval"] == [str(rows / "rows.jsonl")]
    assert values["runs_dir"] == str(rows / "runs")
    assert values["cache_dir"] == os.path.expanduser("~/x")


def test_a_hub_id_stays_as_it_is(right: list[str]):
    assert compose([*right, "data.train=HuggingFaceH4/no_robots"]).values["data"]["train"] == "HuggingFaceH4/no_robots"


def test_text_keys_take_numbers_as_text(right: list[str]):
    assert compose([*right, "name=2024"]).values["name"] == "2024"


def test_the_last_of_two_values_wins(right: list[str]):
    assert compose([*right, "seed=1", "seed=2"]).values["seed"] == 2


@pytest.mark.slow
def test_the_command_line_wins_over_an_experiment(right: list[str]):
    config = compose([*right, "experiment=one_node_8gpu", "strategy=zero3", "train.epochs=3"])
    assert config.choices["strategy"] == "zero3" and config.choices["model"] == "llama3_8b"
    assert config.values["train"]["epochs"] == 3 and config.values["launcher"]["processes_per_node"] == 8


def test_field_names_of_rows_are_free(right: list[str]):
    values = compose([*right, "data.fields.prompt=question", "data.fields={completion: answer}"]).values
    assert values["data"]["fields"] == {"prompt": "question", "completion": "answer"}


def test_trusted_user_code_is_accepted_with_its_keywords(right, rows: Path, monkeypatch):
    (rows / "mylab_losses.py").write_text("class Mine:\n    def __init__(self, weight: float = 1.0): ...\n")
    monkeypatch.syspath_prepend(rows)
    own = [*right, "loss._target_=mylab_losses.Mine"]
    assert "trust=[mylab_losses.]" in errors_of(own)[0]
    own.append("trust=[mylab_losses.]")
    assert compose([*own, "loss.weight=2"]).values["loss"]["weight"] == 2
    assert errors_of([*own, "loss.wieght=2"]) == ["loss.wieght=2: loss.wieght is not a key. Did you mean loss.weight?"]


@pytest.mark.slow
def test_a_new_target_gets_only_the_typed_keywords(right, rows: Path, monkeypatch):
    (rows / "mylab_optim.py").write_text(
        "class Mine:\n    def __init__(self, params, lr=1e-3, betas=(0.9, 0.9, 0.9)): ...\n"
    )
    monkeypatch.syspath_prepend(rows)
    own = [*right, "trust=[mylab_optim.]", "optimizer._target_=mylab_optim.Mine"]
    keywords = {"_target_": "mylab_optim.Mine", "_partial_": True}
    assert compose(own).values["optimizer"] == keywords | {"lr": 2e-5}
    typed = compose([*own, "optimizer.lr=0.1", "optimizer.betas=[0.5,0.6,0.7]"]).values["optimizer"]
    assert typed == keywords | {"lr": 0.1, "betas": [0.5, 0.6, 0.7]}
    [error] = errors_of([*own, "optimizer.eps=1e-6"])
    assert error.startswith("optimizer.eps=1e-6: optimizer.eps is not a key")
    again = compose([*right, "optimizer._target_=torch.optim.AdamW", "optimizer.eps=1e-6"]).values["optimizer"]
    assert again == compose(right).values["optimizer"] | {"eps": 1e-6}, "the word's own target keeps its keywords"


@pytest.mark.slow
def test_a_typo_in_a_users_yaml_is_refused(right: list[str], tmp_path: Path):
    folder = Path(shutil.copytree(conf_dir(), tmp_path / "conf"))
    (folder / "experiment" / "mine.yaml").write_text("# @package _global_\ntrain:\n  max_stepss: 3\n")
    with pytest.raises(ConfigError) as caught:
        compose([*right, "experiment=mine"], config_dir=folder)
    assert caught.value.messages == ["train.max_stepss=3: train.max_stepss is not a key. Did you mean train.max_steps?"]


@pytest.mark.slow
@pytest.mark.parametrize("value", [True, False])
def test_export_true_or_false_sets_export_enabled(value: bool, right: list[str], tmp_path: Path):
    """Typed, in a YAML, or one over the other: the rest of the section keeps its values."""
    word = str(value).lower()
    section = {"enabled": value, "at": "best", "average_last": 2, "dtype": "auto", "format": "auto"}
    typed = compose([*right, f"export={word}"])
    assert typed.values["export"] == section and typed.given >= {"export.enabled"}
    folder = Path(shutil.copytree(conf_dir(), tmp_path / "conf"))
    (folder / "experiment" / "mine.yaml").write_text(f"# @package _global_\nexport: {word}\n")
    assert compose([*right, "experiment=mine"], config_dir=folder).values["export"] == section
    over = compose([*right, "experiment=mine", "export=true", "export.at=latest"], config_dir=folder).values["export"]
    assert over == section | {"enabled": True, "at": "latest"}


def test_errors_in_export_keys_are_reported(right: list[str]):
    asked = [*right, "export=perhaps", "export.at=bset", "export.dtype=fp16", "export.format=gguf"]
    enabled, at, dtype, form = errors_of(asked)
    assert enabled.startswith("export.enabled=perhaps is not true or false")
    assert at.endswith("Did you mean best?") and dtype.startswith("export.dtype=fp16 is not ")
    assert "auto, huggingface, peft or merged" in form
    compose([*right, "tuning=lora", "export.format=merged", "export.at=latest", "export.dtype=bf16"])
    [error] = errors_of([*right, "tuning=lora", "export.format=huggingface"])
    assert error.endswith("Try: export.format=merged, or peft")


def test_a_tree_with_every_target_known_has_no_open_group(right: list[str]):
    known = known_keys(compose(right).values)
    assert known.open_groups == () and known.errors == ()


def test_a_key_without_a_near_match_points_to_the_docs(right: list[str]):
    assert errors_of([*right, "colour=red"]) == ["colour=red: colour is not a key. --help lists them"]


def test_key_names_of_other_trainers_get_ours_suggested(right: list[str]):
    for theirs, ours in (("per_device_train_batch_size", "train.micro_batch_size"), ("train.bf16", "train.precision")):
        assert errors_of([*right, f"{theirs}=1"])[0].endswith(f"Did you mean {ours}?")


@pytest.mark.parametrize(
    ("typed", "rest"),
    [
        ("tuning.rank=8", "tuning.rank has no effect without tuning=lora or qlora. Try: tuning=lora"),
        ("tuning.rnk=8", "tuning.rnk is not a key. Did you mean tuning=lora tuning.rank?"),
        ("lora_r=8", "lora_r is not a key. Did you mean tuning=lora tuning.rank?"),
        ("partition=gpu", "partition is not a key. Did you mean launcher=slurm launcher.partition?"),
        ("loss.gamma=1", "loss.gamma has no effect without loss=simpo. Try: loss=simpo"),
        ("optimizer.beta=1", "optimizer.beta is not a key. Did you mean optimizer.betas?"),  # not loss.beta
        ("optimizer.nesterov=true", "optimizer.nesterov has no effect without optimizer=sgd. Try: optimizer=sgd"),
        (
            "strategy.bucket_parameters=9",  # which no YAML sets
            "strategy.bucket_parameters has no effect without strategy=zero1 or zero2 or zero3 or zero3_offload. "
            "Try: strategy=zero1",
        ),
        ("sweep.trials=3", "sweep.trials has no effect without sweep=optuna. Try: sweep=optuna"),
        ("launcher.ranks=3", "launcher.ranks is not a key. --help lists them"),  # not data.train
    ],
)
def test_a_key_of_another_word_is_offered_with_the_word(typed: str, rest: str, right: list[str]):
    assert errors_of([*right, typed]) == [f"{typed}: {rest}"]


def test_a_target_of_ones_own_is_offered_no_other_word(right: list[str]):
    [error] = errors_of([*right, "optimizer._target_=torch.optim.Adagrad", "optimizer.momentum=0.9"])
    assert error.startswith("optimizer.momentum=0.9: optimizer.momentum is not a key")


def test_the_typed_word_of_another_trainers_key_is_kept(right: list[str]):
    asked = {"report_to=tensorboard": "tracker=tensorboard", "lr_scheduler_type=linear": "schedule=linear"}
    asked |= {"report_to=neptune": "tracker=wandb", "micro_batch_size=4": "train.micro_batch_size"}
    for typed, offered in asked.items():
        [error] = errors_of([*right, typed])
        assert error.endswith(f"is not a key. Did you mean {offered}?")


def test_a_number_in_quotes_is_offered_without_them(right: list[str]):
    [error] = errors_of([*right, "optimizer.lr='1e-5'"])
    assert error.endswith("In quotes it is text. Try: optimizer.lr=1e-05")
