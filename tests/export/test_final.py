"""final/ of a run matches its base model: the same stop tokens, and the template of the rows."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from distft.checkpoint.format import step_dir
from distft.checkpoint.probe import PROBE, read_probe
from distft.checkpoint.retention import point
from distft.config import read_config
from distft.data.tokenize import CHATML, byte_tokenizer
from distft.export.__main__ import main
from distft.launch.__main__ import finish
from distft.report.cited import CITATION
from distft.run import RunFolder, read_json, write_json
from tests.launch.test_launch import end, start

pytestmark = pytest.mark.slow

ROPE = {"rope_type": "linear", "factor": 2.0}
SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
OWN = CHATML.replace("message['role'] + '\n'", "message['role'] + ': '").replace("assistant\n", "assistant: ")
ANSWER = [65, 66, 257]  # of the base model, to anything: 257 ends a turn


def write_base(folder: Path) -> Path:
    """Writes a tiny model that says ANSWER again and again, its config in the names of transformers 4.

    config.json names another stop token than the end of turn, generation_config.json both, as instruct models do.
    """
    settings = {
        "model_type": "llama", "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 512, "eos_token_id": 5,
        "tie_word_embeddings": False, "torch_dtype": "float32", "transformers_version": "4.51.0",
    }  # fmt: skip
    folder.mkdir()
    byte_tokenizer().save_pretrained(folder)
    write_json(folder / "config.json", settings | {"rope_theta": 5000.0, "rope_scaling": ROPE})
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        directions = torch.eye(64)
        model.model.embed_tokens.weight.copy_(directions[0].expand(512, 64))
        for i, (token, following) in enumerate([(None, 65), (65, 66), (66, 257), (257, 65)]):
            if token is not None:
                model.model.embed_tokens.weight[token] = directions[i]
            model.lm_head.weight[following] += directions[i]
    model.save_pretrained(folder / "saved")
    shutil.move(folder / "saved" / "model.safetensors", folder / "model.safetensors")
    shutil.rmtree(folder / "saved")
    write_json(folder / "generation_config.json", {"eos_token_id": [257, 5], **SAMPLING})
    return folder


def answer_of(folder: Path) -> list[int]:
    """Returns what the model in a folder answers, with its own template and stop tokens, at most 60 tokens."""
    tokenizer, settings = AutoTokenizer.from_pretrained(folder), GenerationConfig.from_pretrained(folder)
    settings.update(do_sample=False, temperature=1.0, top_p=1.0, max_new_tokens=60)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    chat = [{"role": "user", "content": "hello"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    return model.generate(**ids, generation_config=settings)[0, ids["input_ids"].shape[1] :].tolist()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Path, str]:
    """A run of two steps on two processes, from a base model in its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("final")
    base = write_base(folder / "base")
    (folder / "own.jinja").write_text(OWN)
    rows = [{"prompt": f"{i}", "completion": chr(97 + i)} for i in range(16)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [
        "model=smollm2_135m",
        "model.tiny=false",
        f"model.path={base}",
        f"data.chat_template={folder}/own.jinja",
    ]
    settings += ["strategy=fsdp", "train.max_steps=2", "optimizer.lr=1e-5", "eval.every_steps=1", "checkpoint.keep=2"]
    code, said, output = end(start(folder, "run", *settings, "checkpoint.every_steps=1", processes=2))
    assert code == 0, output
    return RunFolder(folder / "runs" / "run"), base, said


def test_generation_stops_where_the_base_stops(run: tuple[RunFolder, Path, str]) -> None:
    folder, base, _ = run
    assert answer_of(base) == answer_of(folder.final) == ANSWER
    assert (folder.final / "generation_config.json").read_bytes() == (base / "generation_config.json").read_bytes()
    assert read_probe(step_dir(folder.checkpoints, 2)).answer.tolist() == (7 * ANSWER)[:20], "the live model goes on"


def test_the_export_has_the_chat_template_of_its_rows(run: tuple[RunFolder, Path, str]) -> None:
    folder, base, _ = run
    assert AutoTokenizer.from_pretrained(folder.final).chat_template == OWN
    assert (folder.final / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert (
        f"chat template: sha256 {hashlib.sha256(OWN.encode()).hexdigest()}" in (folder.final / "README.md").read_text()
    )


def test_its_config_equals_the_bases_in_both_versions(run: tuple[RunFolder, Path, str]) -> None:
    there = read_json(run[0].final / "config.json")
    assert (there["rope_theta"], there["rope_scaling"], there["eos_token_id"]) == (5000.0, ROPE, 5)
    assert there["rope_parameters"] == ROPE | {"rope_theta": 5000.0}


def test_the_best_is_exported_and_named_everywhere(
    run: tuple[RunFolder, Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each step was the best when it was saved, so each has what the live model said."""
    folder, _, said = run
    losses = {row["step"]: f"{row['loss']:.4f}" for row in folder.read_metrics("eval")}
    why = f"step 2: the best of 2 evaluations, held-out loss {losses[2]}"
    assert why in " ".join(said.replace("│", " ").split())
    assert f"final/ holds {why}." in (folder.path / "report.html").read_text()
    assert f"checkpoint: {why}" in (folder.final / "README.md").read_text()
    point(folder.checkpoints / "best", step_dir(folder.checkpoints, 1))
    try:
        assert main([f"run={folder.path}", f"out={tmp_path / 'out'}"]) == 0
    finally:
        point(folder.checkpoints / "best", step_dir(folder.checkpoints, 2))
    printed = capsys.readouterr().out
    assert "holds step-00000001 of run, verified\n" in printed
    assert f"step 1: the best of 2 evaluations, held-out loss {losses[1]}; at step 2, the last, {losses[2]}" in printed
    assert f"| loss | {losses[0]} | {losses[1]} |" in CITATION.sub("", (tmp_path / "out" / "README.md").read_text())


def test_an_export_that_fails_leaves_the_run_completed(
    run: tuple[RunFolder, Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says the cause and the command that repeats it in a line each."""
    copied = RunFolder(shutil.copytree(run[0].path, tmp_path / "run", symlinks=True))
    shutil.rmtree(copied.final)
    tokenizer = shutil.copytree(run[1], tmp_path / "base")
    (tokenizer / "tokenizer_config.json").write_text("{")
    write_json(copied.plan, read_json(copied.plan) | {"tokenizer_dir": str(tokenizer)})
    assert finish(copied, read_config(copied)) == 1
    stderr = capsys.readouterr().err
    assert (
        "run: export failed: " in stderr and "was not exported: JSONDecodeError" in stderr and "Traceback" not in stderr
    )
    again = stderr.partition("Try: python -m distft.export ")[2].split()
    assert again == [f"run={copied.path}", f"out={copied.final}", "at=best", "dtype=auto", "format=auto"]
    assert copied.read_status()["state"] == "completed" and not copied.final.exists()
    (tokenizer / "tokenizer_config.json").write_bytes((run[1] / "tokenizer_config.json").read_bytes())
    assert main(again) == 0 and copied.final.is_dir()


def test_a_run_that_was_stopped_exports(run: tuple[RunFolder, Path, str], tmp_path: Path, capsys: Any) -> None:
    """Also from a checkpoint that keeps nothing to compare with, which is said."""
    copied = RunFolder(shutil.copytree(run[0].path, tmp_path / "run", symlinks=True))
    copied.write_status(state="preempted")
    (step_dir(copied.checkpoints, 2) / PROBE).unlink()
    assert main([f"run={copied.path}", f"out={tmp_path / 'out'}", "at=latest", "dtype=bf16"]) == 0
    assert "weights verified; the run stored no logits to compare with" in capsys.readouterr().out
    assert read_json(tmp_path / "out" / "config.json")["dtype"] == "bfloat16"
