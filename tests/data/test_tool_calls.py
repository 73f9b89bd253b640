"""A tiny model trained on conversations with tools learns to call them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from distft.config import Config
from distft.data.batches import collate
from distft.data.shards import Rows
from distft.data.stage import prepare_data
from distft.data.tokenize import byte_tokenizer
from distft.losses.cross_entropy import CrossEntropy
from distft.models.heads import make_foldable
from tests.data.conftest import TEMPLATES

CITIES = ("Paris", "Rome", "Oslo")
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
TEMPLATE = TEMPLATES / "families" / "hermes.jinja"
SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def conversation(city: str) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": json.dumps({"city": city})}}
    turns = [
        {"role": "user", "content": f"Weather in {city}?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": f"{len(city)} C"},
        {"role": "assistant", "content": f"It is {len(city)}."},
    ]
    return {"tools": [TOOL], "messages": turns}


@pytest.mark.soak
def test_a_model_trained_on_tool_calls_emits_one_that_parses(
    config: Callable[..., Config], write_rows: Callable[..., Path]
):
    train = write_rows([conversation(city) for city in CITIES])
    rows = Rows(prepare_data(config(train, chat_template=str(TEMPLATE), max_length=1024)).folder, "train")
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=1024, **SIZES))
    make_foldable(model)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    loss = 1.0
    for _ in range(200):
        targets, total = rows.num_targets.sum(), 0.0
        for i in range(len(rows)):
            value, _ = CrossEntropy()(model, collate(rows, np.asarray([i])))
            (value / targets).backward()
            total += value.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss = total / targets
        if loss < 0.005:  # at 0.02 a city may still be another one
            break
    for city in CITIES:
        prompt = tokenizer.apply_chat_template(
            conversation(city)["messages"][:1],
            tools=[TOOL],
            chat_template=TEMPLATE.read_text(),
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        made = model.generate(**prompt, max_new_tokens=120, do_sample=False, eos_token_id=tokenizer.eos_token_id)
        text = tokenizer.decode(made[0, prompt["input_ids"].shape[1] :])
        found = re.fullmatch(r"<tool_call>\n(.*)\n</tool_call><\|im_end\|>", text, re.DOTALL)
        assert found, f"loss {loss:.4f}: {text!r}"
        assert json.loads(found[1]) == {"name": "weather", "arguments": {"city": city}}
