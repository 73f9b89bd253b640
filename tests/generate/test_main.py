"""`distft generate` answers with checkpoints, the base model and exported folders, and refuses bad input."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distft.config import ConfigError
from distft.export.__main__ import main as export
from distft.generate.__main__ import main
from distft.generate.settings import parse
from distft.generate.source import find_source
from distft.run import RunFolder
from tests.support.answered import answers, make_run, read_lines, write_lines

PROMPTS = [
    {"prompt": "3 and 3 is"},
    {"messages": [{"role": "system", "content": "Add."}, {"role": "user", "content": "20 and 20 is"}], "id": "b"},
    {"prompt": "1 and 1 is, and this one is longer than the others", "id": 7},
    {"prompt": "9"},
]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_lines(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", PROMPTS))


@pytest.mark.slow
def test_the_command_writes_one_line_for_each_prompt(
    tuned_run: RunFolder, prompts: str, warm: None, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "new" / "out.jsonl"
    words = [f"run={tuned_run.path}", f"prompts={prompts}", f"out={out}", "max_new_tokens=8", "batch_size=2"]
    assert main([*words, "launcher.processes_per_node=2"]) == 0
    assert "run at step-00000003: 4 answers" in capsys.readouterr().out
    rows = read_lines(out)
    assert [row.get("id") for row in rows] == [None, "b", 7, None]
    assert [row["prompt"] for row in rows][::2] == [PROMPTS[0]["prompt"], PROMPTS[2]["prompt"]]
    assert rows[1]["messages"] == PROMPTS[1]["messages"] and "<|im_start|>system\nAdd." in rows[1]["prompt"]
    assert {row["stopped"] for row in rows} <= {"eos", "length"}
    assert all(0 < row["tokens"] <= 8 and isinstance(row["completion"], str) for row in rows)
    assert rows == answers(tmp_path / "job", tuned_run.path, prompts, max_new_tokens="8")


@pytest.mark.slow
def test_an_adapter_answers_otherwise_than_the_base(tuned_run: RunFolder, prompts: str, tmp_path: Path) -> None:
    base = tuned_run.path.parents[1] / "base"
    tuned = answers(tmp_path / "tuned", tuned_run.path, prompts, max_new_tokens="8")
    before = answers(tmp_path / "before", tuned_run.path, prompts, at="base", max_new_tokens="8")
    earlier = answers(tmp_path / "earlier", tuned_run.path, prompts, at="step-2", max_new_tokens="8")
    assert before == answers(tmp_path / "base", base, prompts, max_new_tokens="8", precision="fp32")
    assert tuned != before and earlier != before and tuned != earlier


@pytest.mark.slow
@pytest.mark.parametrize("format", ["peft", pytest.param("merged", marks=pytest.mark.soak)])
def test_an_exported_folder_answers_like_its_run(
    format: str, tuned_run: RunFolder, prompts: str, tmp_path: Path
) -> None:
    assert export([f"run={tuned_run.path}", f"out={tmp_path / 'out'}", "at=latest", f"format={format}"]) == 0
    found = answers(tmp_path / "exported", tmp_path / "out", prompts, max_new_tokens="8", precision="fp32")
    assert found == answers(tmp_path / "run", tuned_run.path, prompts, max_new_tokens="8")


@pytest.mark.slow
def test_adapters_of_a_base_in_4_bits_answer_like_their_run(prompts: str, tmp_path: Path) -> None:
    run, out = make_run(tmp_path, "tuning=qlora", "tuning.rank=4"), tmp_path / "out"
    assert export([f"run={run.path}", f"out={out}", "at=latest"]) == 0
    given = {"max_new_tokens": "16", "temperature": "1.0", "seed": "1"}
    found = answers(tmp_path / "exported", out, prompts, precision="fp32", **given)
    assert found == answers(tmp_path / "live", run.path, prompts, **given)
    assert find_source(str(out), None, {}).config.tuning.is_quantized
    (out / "quantization_config.json").rename(tmp_path / "moved.json")
    assert not find_source(str(out), None, {}).config.tuning.is_quantized
    (out / "quantization_config.json").write_text('{"load_in_8bit": true}')
    with pytest.raises(ConfigError, match="quantization_config.json is not NF4 with double quantization"):
        find_source(str(out), None, {})


@pytest.mark.slow
def test_answers_are_those_of_transformers_from_the_export(tuned_run: RunFolder, prompts: str, tmp_path: Path) -> None:
    assert export([f"run={tuned_run.path}", f"out={tmp_path / 'out'}", "at=latest", "format=merged", "dtype=fp32"]) == 0
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "out")
    for asked, row in zip(PROMPTS, answers(tmp_path / "run", tuned_run.path, prompts, max_new_tokens="8"), strict=True):
        messages = asked.get("messages") or [{"role": "user", "content": asked["prompt"]}]
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(**inputs, do_sample=False, max_new_tokens=8, pad_token_id=0)
        tokens = out[0, inputs["input_ids"].shape[1] :]
        assert (tokenizer.decode(tokens, skip_special_tokens=True), len(tokens)) == (row["completion"], row["tokens"])


@pytest.mark.slow
def test_held_out_rows_are_prompts_with_expected_answers(tuned_run: RunFolder, tmp_path: Path) -> None:
    rows = answers(tmp_path / "job", tuned_run.path, "eval", max_new_tokens="4", batch_size="3")
    assert len(rows) == tuned_run.read_plan().eval_rows
    for row in rows:
        number = int(row["prompt"].split(" and ")[0].rpartition("\n")[2])
        assert row["expected"] == str(2 * number)
    file = write_lines(
        tmp_path / "same.jsonl",
        [{"prompt": f"{int(r['expected']) // 2} and {int(r['expected']) // 2} is"} for r in rows],
    )
    again = answers(tmp_path / "again", tuned_run.path, str(file), max_new_tokens="4")
    assert [row["completion"] for row in again] == [row["completion"] for row in rows]


@pytest.mark.slow
def test_sampling_depends_on_the_seed_and_not_on_the_batch(tuned_run: RunFolder, prompts: str, tmp_path: Path) -> None:
    def sampled(name: str, **given: str) -> list[dict[str, Any]]:
        return answers(tmp_path / name, tuned_run.path, prompts, max_new_tokens="8", temperature="1.0", **given)

    assert sampled("a", seed="1", batch_size="1") == sampled("b", seed="1", batch_size="4") != sampled("c", seed="2")


@pytest.mark.slow
def test_a_stop_text_is_left_out(tuned_run: RunFolder, prompts: str, tmp_path: Path) -> None:
    plain = answers(tmp_path / "plain", tuned_run.path, prompts, max_new_tokens="8")
    text = next(row["completion"] for row in plain if len(row["completion"]) >= 4)
    stopped = answers(tmp_path / "stopped", tuned_run.path, prompts, max_new_tokens="8", stop=json.dumps([text[2:4]]))
    for before, after in zip(plain, stopped, strict=True):
        head, found, _ = before["completion"].partition(text[2:4])
        assert after["completion"] == head and (after["stopped"] == "stop") == bool(found)
        assert after["tokens"] < before["tokens"] or not found


@pytest.mark.slow
def test_bad_input_is_refused_before_a_process_starts(tuned_run: RunFolder, prompts: str, tmp_path: Path) -> None:
    def refused(*words: str) -> list[str]:
        given = {key: value for key, _, value in (word.partition("=") for word in words)}
        whole = {"run": str(tuned_run.path), "prompts": prompts, "out": str(tmp_path / "out.jsonl")} | given
        with pytest.raises(ConfigError) as caught:
            main([f"{key}={value}" for key, value in whole.items()])
        assert not (tmp_path / "out.jsonl").exists()
        return caught.value.messages

    [message] = refused(f"run={tuned_run.path.parent}/rum")
    assert (
        message
        == f"run={tuned_run.path.parent}/rum: holds no run (config.yaml and plan.json). Did you mean {tuned_run.path}?"
    )
    [message] = refused("at=step-9")
    assert message == "at=step-9: no such checkpoint. Allowed: latest, step-00000002, step-00000003, base"
    assert refused("temprature=1") == ["temprature=1: there is no such key. Did you mean temperature?"]
    assert refused("top_k=5", "max_new_tokens=0") == [
        "max_new_tokens=0: is a whole number of at least 1",
        "top_k=5: has no effect with temperature=0. Try: temperature=1",
    ]
    assert refused("strategy=fsdpp") == [
        "strategy=fsdpp: Allowed: ddp, fsdp, hsdp, zero1, zero2, zero3, zero3_offload. Did you mean fsdp?"
    ]
    file = write_lines(tmp_path / "long.jsonl", [{"prompt": "a"}, {"prompt": "a" * 3000}])
    assert refused(f"prompts={file}") == [
        f"{file}:2: the prompt has 3,019 tokens, and the model 2,048 positions for prompt and answer. "
        "Try: a shorter prompt"
    ]
    assert refused(f"prompts={tmp_path}/none.jsonl")[0].startswith(f"prompts={tmp_path}/none.jsonl: No such file")
    assert refused(f"out={tmp_path}")[0].startswith(f"out={tmp_path}: {tmp_path} is a folder")
    base = tuned_run.path.parents[1] / "base"
    assert refused(f"run={base}", "at=best")[0].startswith(f"at=best: {base} is an exported folder")
    assert refused(f"run={base}", "prompts=eval")[0].startswith("prompts=eval: ")


def test_every_number_on_the_command_line_is_checked() -> None:
    given = {"max_new_tokens": "x", "temperature": "-1", "top_p": "0", "top_k": "-1", "seed": "1.5"}
    given["batch_size"] = "0"
    assert len(parse(given)[1]) == len(given)
    assert parse({"stop": '["a", ""]'})[1] == [
        'stop=["a", ""]: is a text, or a JSON list of texts such as ["###", "Q:"]'
    ]
    settings, errors = parse({"stop": '["a", "b"]', "temperature": "0.5", "top_p": "0.9", "seed": "3"})
    assert not errors and (settings.stop, settings.temperature, settings.top_p) == (("a", "b"), 0.5, 0.9)
    assert parse({"stop": "###"})[0].stop == ("###",)
