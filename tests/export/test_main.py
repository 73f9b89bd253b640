"""The command writes every format of a run, and refuses what a run does not have before it opens anything."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from distft.checkpoint.format import step_dir
from distft.checkpoint.probe import read_probe
from distft.config import ConfigError, compose
from distft.config.freeze import frozen_text
from distft.export.__main__ import main, wrong_format
from distft.plan import make_plan
from distft.run import RunFolder, write_json
from tests.support.reference import dense
from tests.support.trained import LORA, MAIN, Key

LORA_RUN, FULL_RUN = ("fsdp", f"{MAIN}+lora", 2, 2), ("fsdp", MAIN, 2, 2)
QLORA_RUN = ("zero3", f"{MAIN}+qlora", 2, 2)


def make_run(key: Key, trained: Any, folder: Path) -> RunFolder:
    """Returns the folder of a run that ended with the case's checkpoint."""
    (folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 40)
    word = key[1].removeprefix(MAIN).removeprefix("+")
    lora = [f"tuning={word}", *(f"tuning.{name}={value}" for name, value in LORA.items())] if word else []
    config = compose([f"model={MAIN}", "model.tiny=true", f"data.train={folder}/rows.jsonl", "name=run", *lora])
    run = RunFolder(folder / "run")
    write_json(run.plan, asdict(make_plan(config)))
    write_json(run.path / "effective.json", {"engine": {"compute_dtype": "torch.float32"}})
    run.config.write_text(frozen_text(config))
    run.checkpoints.symlink_to(trained[key]["case"]["save"])
    return run


@pytest.mark.slow
@pytest.mark.parametrize("word", [None, "merged"])
def test_a_run_of_adapters_exports(word: str | None, trained: Any, tmp_path: Path, capsys: Any) -> None:
    run, out = make_run(LORA_RUN, trained, tmp_path), tmp_path / "out"
    assert main([f"run={run.path}", f"out={out}", *([f"format={word}"] if word else [])]) == 0
    assert "holds step-00000005 of run, verified" in capsys.readouterr().out
    assert AutoTokenizer.from_pretrained(out).chat_template
    if word:
        AutoModelForCausalLM.from_pretrained(out)
    else:
        PeftModel.from_pretrained(dense(MAIN, 0), str(out))
        assert "An adapter of a random tiny model" in (out / "README.md").read_text()
        assert json.loads((out / "adapter_config.json").read_text())["r"] == LORA["rank"]


@pytest.mark.slow
def test_adapters_of_a_base_in_4_bits_name_its_settings(trained: Any, tmp_path: Path, capsys: Any) -> None:
    """Merged, they are added to the values that the 4 bits stand for."""
    run = make_run(QLORA_RUN, trained, tmp_path)
    for word in ("peft", "merged"):
        assert main([f"run={run.path}", f"out={tmp_path / word}", f"format={word}"]) == 0
        assert "holds step-00000005 of run, verified" in capsys.readouterr().out
    settings = BitsAndBytesConfig.from_dict(json.loads((tmp_path / "peft" / "quantization_config.json").read_text()))
    assert settings.load_in_4bit and settings.bnb_4bit_compute_dtype == torch.float32
    dense(MAIN, 0).save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", quantization_config=settings, dtype=torch.float32)
    adapted: Any = PeftModel.from_pretrained(base, str(tmp_path / "peft"))
    probe = read_probe(step_dir(run.checkpoints, 5))
    merged: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    for model, tolerance in ((adapted, 1e-6), (merged, 4e-6)):
        with torch.no_grad():
            logits = model.eval()(input_ids=probe.input_ids).logits
        assert (logits - probe.logits).abs().max() <= tolerance * probe.logits.abs().max()
    assert not (tmp_path / "merged" / "quantization_config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("word", ["huggingface", "dcp", "deepspeed_universal"])
def test_a_run_of_the_model_itself_exports(word: str, trained: Any, tmp_path: Path, capsys: Any) -> None:
    run, out = make_run(FULL_RUN, trained, tmp_path), tmp_path / "out"
    assert main([f"run={run.path}", f"out={out}", f"format={word}"]) == 0
    assert ("pickles" in capsys.readouterr().out) == (word != "huggingface")
    expected = {"huggingface": "config.json", "dcp": ".metadata", "deepspeed_universal": "latest_universal"}
    assert (out / expected[word]).is_file()


@pytest.mark.slow
def test_an_impossible_format_is_refused_with_all_other_errors(trained: Any, tmp_path: Path) -> None:
    run = make_run(LORA_RUN, trained, tmp_path)
    with pytest.raises(ConfigError) as caught:
        main([f"run={run.path}", f"out={run.path}", "format=dcp", "at=step-9"])
    exists, word, at = caught.value.messages
    assert "already exists" in exists
    assert word == "format=dcp: the run trained adapters. Allowed: peft, merged"
    assert at.startswith("at=step-9: no such checkpoint.")


@pytest.mark.parametrize(
    ("given", "formats", "message"),
    [
        (
            {"format": "peft"},
            ("huggingface", "dcp"),
            "format=peft: the run trained the model itself. Allowed: huggingface",
        ),
        (
            {"format": "dpc"},
            ("huggingface", "dcp"),
            "format=dpc: unknown format. Allowed: huggingface, dcp. Did you mean dcp?",
        ),
        ({"dtype": "fp8"}, ("huggingface", "dcp"), "dtype=fp8: unknown dtype. Allowed: fp32, bf16"),
        ({"format": "dcp", "dtype": "bf16"}, ("huggingface", "dcp"), "dtype=bf16 has no effect with format=dcp"),
    ],
)
def test_a_wrong_argument_is_named(given: dict[str, str], formats: tuple[str, ...], message: str) -> None:
    [error] = wrong_format(given, formats)
    assert error.startswith(message)
