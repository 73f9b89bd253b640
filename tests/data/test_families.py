"""What is trained of a conversation is what the model generates, in the published formats of twelve families.

For each trained turn: the ids before it are those of `apply_chat_template(add_generation_prompt=True)`, and the trained
ids are those of the answer as the family writes it, with the token that ends generation. A family that cannot write a
conversation refuses it. The templates are written here after the published formats.
"""

import base64
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import mistral_common
import pytest
from mistral_common.protocol.instruct.messages import AssistantMessage, ToolMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.tool_calls import Function, FunctionCall, Tool, ToolCall
from mistral_common.protocol.instruct.validator import ValidationMode
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from distft.data.example import BadField, Example
from distft.data.formats import load_format
from distft.data.render import ChatRenderer, Rendered, Training
from distft.data.tokenize import RowTokenizer, byte_tokenizer
from distft.run import read_json
from tests.data.conftest import TEMPLATES

MESSAGES = load_format("messages", {})
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "It.", "parameters": SCHEMA}}


@dataclass(frozen=True)
class Family:
    template: str  # file
    begin: str | None
    end: str
    special: list[str]
    plain: list[str]  # added tokens that are not special


IM = ["<|im_start|>", "<|im_end|>"]
TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
DEEPSEEK = [f"<｜{name}｜>" for name in ("User", "Assistant")]
DEEPSEEK_TOOLS = [
    f"<｜{name}｜>"
    for kind in ("call", "output")
    for name in (f"tool▁{kind}s▁begin", f"tool▁{kind}s▁end", f"tool▁{kind}▁begin", f"tool▁{kind}▁end")
] + ["<｜tool▁sep｜>"]
SENTENCE = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
GLM = ["[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
HARMONY = ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>"]
KIMI = [f"<|im_{name}|>" for name in ("system", "user", "assistant", "middle")]
KIMI_TOOLS = [
    f"<|tool_call{name}|>" for name in ("s_section_begin", "s_section_end", "_begin", "_argument_begin", "_end")
]
MISTRAL = [f"[{slash}{name}]" for name in ("INST", "AVAILABLE_TOOLS", "TOOL_RESULTS") for slash in ("", "/")]
FAMILIES = {
    "chatml": Family("smollm2", "<|im_start|>", "<|im_end|>", [], []),
    "hermes": Family("families/hermes", None, "<|im_end|>", IM, TAGS[2:]),
    "qwen3": Family("families/qwen3", None, "<|im_end|>", ["<|im_start|>", "<|endoftext|>"], TAGS),
    "llama3_1": Family(
        *("families/llama3_1", "<|begin_of_text|>", "<|eot_id|>"),
        ["<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>"],
        [],
    ),
    "gemma3": Family("gemma3", "<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"], []),
    "mistral": Family("families/mistral", "<s>", "</s>", [*MISTRAL, "[TOOL_CALLS]"], []),
    "deepseek_v3": Family("families/deepseek_v3", *SENTENCE, [], DEEPSEEK + DEEPSEEK_TOOLS),
    "deepseek_v3_1": Family("families/deepseek_v3_1", *SENTENCE, [], DEEPSEEK + DEEPSEEK_TOOLS + TAGS[:2]),
    "glm4_5": Family("families/glm4_5", None, "<|endoftext|>", GLM, TAGS),
    "gpt_oss": Family("families/gpt_oss", "<|startoftext|>", "<|return|>", HARMONY, []),
    "kimi_k2": Family("families/kimi_k2", "[BOS]", "[EOS]", ["<|im_end|>", *KIMI], KIMI_TOOLS),
    "phi4": Family("phi4", "<|endoftext|>", "<|im_end|>", ["<|im_start|>", "<|im_sep|>"], []),
}


def tokenizer_of(family: Family) -> Any:
    """The byte tokenizer with the family's tokens and template."""
    tokenizer = byte_tokenizer()
    named = {"eos_token": family.end, "pad_token": family.end}
    named |= {"bos_token": family.begin} if family.begin else {}
    tokenizer.add_special_tokens({**named, "additional_special_tokens": family.special})
    tokenizer.add_tokens(family.plain)
    tokenizer.chat_template = (TEMPLATES / f"{family.template}.jinja").read_text()
    return tokenizer


TOKENIZERS = {name: tokenizer_of(family) for name, family in FAMILIES.items()}
RENDERERS = {name: ChatRenderer(tokenizer) for name, tokenizer in TOKENIZERS.items()}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def says(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


CALL_ID = "functions.weather:0"
CALL = {"id": CALL_ID, "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
CASES: dict[str, dict[str, Any]] = {
    "plain": {"messages": [user("What is 2 + 2?"), says("It is 4.")]},
    "multi-turn": {"messages": [user("What is 2 + 2?"), says("It is 4."), user("3 + 3?"), says("Six."), user("Bye")]},
    "tools": {
        "tools": [TOOL],
        "messages": [
            user("Weather in Paris?"),
            says(None, tool_calls=[CALL]),
            {"role": "tool", "tool_call_id": CALL_ID, "content": "18 C"},
            says("It is 18 degrees."),
        ],
    },
    "reasoning": {
        "messages": [
            user("What is 2 + 2?"),
            says("It is 4.", reasoning_content="Add them."),
            user("3 + 3?"),
            says("Six.", reasoning_content="Again."),
        ]
    },
    "consecutive": {"messages": [user("Hello."), user("What is 2 + 2?"), says("It is 4."), says("Six.")]},
}
PLAIN = ("It is 4.", "Six.", "It is 18 degrees.")


def answers(end: str, opening: str = "", call: str = "", reasoning: str = "") -> dict[str, list[str] | str]:
    """What a family generates in each case; text with {} in place of the reasoning, or a refusal."""
    four, six, degrees = (f"{opening}{text}{end}" for text in PLAIN)
    thoughts = [reasoning.format(thought) + text for thought, text in (("Add them.", "It is 4."), ("Again.", "Six."))]
    return {
        "plain": [four],
        "multi-turn": [four, six],
        "tools": [call, degrees] if call else "renders no tool calls",
        "reasoning": [f"{text}{end}" for text in thoughts] if reasoning else "does not read it",
        "consecutive": [four, six],
    }


ALTERNATE = {"consecutive": "must alternate"}
HERMES = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>'
END = SENTENCE[1]
CALLS_OF_DEEPSEEK = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>" + END
GENERATED: dict[str, dict[str, list[str] | str]] = {
    "chatml": answers("<|im_end|>"),
    "hermes": answers("<|im_end|>", call=HERMES),
    "qwen3": answers("<|im_end|>", call=HERMES, reasoning="<think>\n{}\n</think>\n\n")
    | {"consecutive": "writes this turn after another text than the one it gives for generation"},
    "llama3_1": answers("<|eot_id|>", call='{"name": "weather", "parameters": {"city": "Paris"}}<|eot_id|>'),
    "gemma3": answers("<end_of_turn>") | ALTERNATE,
    "mistral": answers(
        "</s>", call='[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Paris"}, "id": "kq7call00"}]</s>'
    )
    | ALTERNATE,
    "deepseek_v3": answers(END) | {"tools": "does not read it"},  # the schemas
    "deepseek_v3_1": answers(END, call=CALLS_OF_DEEPSEEK.format('weather<｜tool▁sep｜>{"city": "Paris"}')),
    "glm4_5": answers("<|user|>", "\n", reasoning="\n<think>{}</think>\n")
    | {
        "tools": [
            "\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call><|observation|>",
            "\nIt is 18 degrees.<|user|>",
        ],
    },
    "gpt_oss": answers(
        *("<|return|>", "<|channel|>final<|message|>"),
        call=' to=functions.weather<|channel|>commentary json<|message|>{"city": "Paris"}<|call|>',
        reasoning="<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    "kimi_k2": answers(
        "<|im_end|>",
        call="<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
        '{"city": "Paris"}<|tool_call_end|><|tool_calls_section_end|><|im_end|>',
    ),
    "phi4": answers("<|im_end|>"),
}


def example_of(case: str) -> Example:
    example, unread = MESSAGES.take(CASES[case])
    assert unread == []
    return example


def runs(trained: Any) -> list[tuple[int, int]]:
    """The (start, end) of each run of trained tokens."""
    borders = [0, *(i + 1 for i, (one, other) in enumerate(pairwise(trained)) if one != other), len(trained)]
    return [(start, end) for start, end in pairwise(borders) if trained[start]]


def rows_of(name: str, texts: list[Rendered]) -> list[Any]:
    return [made.row for made in RowTokenizer(TOKENIZERS[name], 9999)(texts)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FAMILIES)
def test_trained_ids_are_those_that_the_model_generates(name: str, case: str):
    tokenizer, renderer, wanted = TOKENIZERS[name], RENDERERS[name], GENERATED[name][case]
    example = example_of(case)
    if isinstance(wanted, str):
        unread = renderer.unread(example)
        if wanted == "does not read it":
            assert unread == [("", "tools") if case == "tools" else ("assistant", "reasoning_content")]
            return
        with pytest.raises(BadField, match=wanted):
            renderer.rows(example)
        return
    assert renderer.unread(example) == []
    messages, tools = renderer.messages(example)
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    found = []
    for row in rows_of(name, renderer.rows(example)):
        found += [
            (row.input_ids[:start].tolist(), row.input_ids[start:end].tolist()) for start, end in runs(row.trained)
        ]
    assert [tokenizer.decode(answer) for _, answer in found] == wanted
    for i, (before, answer), text in zip(turns, found, wanted, strict=True):
        prompts = [
            tokenizer.apply_chat_template(
                messages[:i], tools=tools or None, add_generation_prompt=True, return_dict=True, **mode
            )["input_ids"]
            for mode in ({}, {"enable_thinking": False}, {"thinking": False})
        ]
        assert before in prompts, f"turn {i}: {tokenizer.decode(before)!r}"
        assert answer == tokenizer.encode(text, add_special_tokens=False)


def test_no_cell_of_the_table_is_left_out():
    assert {name: list(cells) for name, cells in GENERATED.items()} == {name: list(CASES) for name in FAMILIES}


def tekken(file: Path, size: int = 2000) -> Any:
    """Writes Mistral's tokenizer with its first tokens alone to `file`; returns it as a tokenizer of transformers."""
    whole = read_json(Path(mistral_common.__file__).parent / "data" / "tekken_240718.json")
    config = whole["config"] | {"default_vocab_size": size + 1000, "default_num_special_tokens": 1000}
    file.write_text(json.dumps({"config": config, "vocab": whole["vocab"][:size]}))
    ranks = {base64.b64decode(each["token_bytes"]): rank for rank, each in enumerate(whole["vocab"][:size])}
    letters = bytes_to_unicode()
    text = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [
        (rank, text[token[:i]], text[token[i:]])
        for token, rank in ranks.items()
        for i in range(1, len(token))
        if token[:i] in ranks and token[i:] in ranks
    ]
    pieces = MistralTokenizer.from_file(str(file)).instruct_tokenizer.tokenizer
    special = {pieces.id_to_piece(i): i for i in range(1000)}
    vocab = special | {text[token]: 1000 + rank for token, rank in ranks.items()}
    backend = Tokenizer(models.BPE(vocab, [(left, right) for _, left, right in sorted(merges)], ignore_merges=True))
    cut = pre_tokenizers.Split(Regex(config["pattern"]), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = (TEMPLATES / "families" / "mistral.jinja").read_text()
    return tokenizer


@pytest.mark.slow
def test_mistrals_ids_are_those_of_mistral_common(tmp_path: Path):
    tokenizer = tekken(tmp_path / "tekken_240718.json")
    own = MistralTokenizer.from_file(str(tmp_path / "tekken_240718.json"), mode=ValidationMode.finetuning)
    call = FunctionCall(name="weather", arguments='{"city": "Paris"}')
    asked, answer = UserMessage(content="Weather in Paris?"), AssistantMessage(content="It is 18 degrees.")
    called = AssistantMessage(content=None, tool_calls=[ToolCall(id="kq7call00", function=call)])
    result = ToolMessage(tool_call_id="kq7call00", name="weather", content="18 C")
    with_tools = ChatCompletionRequest(
        tools=[Tool(function=Function(**TOOL["function"]))], messages=[asked, called, result, answer]
    )
    turns = [user("What is 2 + 2?"), says("It is 4."), user("3 + 3?"), says("Six.")]
    plain = [
        message(content=turn["content"])
        for message, turn in zip((UserMessage, AssistantMessage) * 2, turns, strict=True)
    ]
    renderer = ChatRenderer(tokenizer)
    for example, request in (
        (example_of("tools"), with_tools),
        (MESSAGES({"messages": turns}), ChatCompletionRequest(messages=plain)),
    ):
        (row,) = RowTokenizer(tokenizer, 9999)(renderer.rows(example))
        assert row.row.input_ids.tolist() == own.encode_chat_completion(request).tokens


def rows_in(name: str, row: dict[str, Any], training: Training | None = None) -> list[Rendered]:
    return ChatRenderer(TOKENIZERS[name], training=training or Training()).rows(MESSAGES(row))


def said(texts: list[Rendered]) -> list[str]:
    return [text.text[start:end] for text in texts for start, end in text.spans]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("qwen3", ["It is 4.<|im_end|>", "Six.<|im_end|>"]),
        ("glm4_5", ["It is 4.<|user|>", "Six.<|user|>"]),
        (
            "gpt_oss",
            [f"<|start|>assistant<|channel|>final<|message|>{text}<|return|>" for text in ("It is 4.", "Six.")],
        ),
    ],
)
def test_reasoning_can_be_read_and_not_trained(name: str, wanted: list[str]):
    texts = rows_in(name, CASES["reasoning"], Training(reasoning=False))
    assert said(texts) == wanted
    assert "Add them." in texts[0].text and "Again." in texts[1].text


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("name", ["qwen3", "glm4_5", "gpt_oss"])
def test_reasoning_is_read_under_each_of_its_names(name: str, key: str):
    row = {"messages": [user("What is 2 + 2?"), says("It is 4.", **{key: "Add them."})]}
    assert said(rows_in(name, row)) == GENERATED[name]["reasoning"][:1]


def test_only_the_last_answer_is_trained_if_requested():
    assert said(rows_in("qwen3", CASES["multi-turn"], Training("last"))) == ["Six.<|im_end|>"]
    assert said(rows_in("qwen3", CASES["tools"], Training("last"))) == ["It is 18 degrees.<|im_end|>"]


def test_all_of_a_conversation_is_trained_but_untrained_answers():
    turns = [user("a"), says("no", train=False), user("b"), says("yes")]
    (text,) = rows_in("chatml", {"messages": turns}, Training("all"))
    left_out = text.text
    for start, end in reversed(text.spans):
        left_out = left_out[:start] + left_out[end:]
    assert left_out == "no<|im_end|>"


def test_each_turn_and_row_has_its_weight():
    turns = [user("a"), says("no", weight=0), user("b"), says("yes", weight=0.5), user("c"), says("so")]
    (text,) = rows_in("chatml", {"messages": turns, "weight": 2})
    assert said([text]) == ["yes<|im_end|>", "so<|im_end|>"] and text.weights == (1.0, 2.0)


def test_a_first_answer_follows_the_templates_opening():
    row = {"messages": [says("Hello."), user("Hi"), says("Bye.")]}
    assert said(rows_in("hermes", row)) == ["Hello.<|im_end|>", "Bye.<|im_end|>"]
    assert rows_in("chatml", row)[0].text.startswith("<|im_start|>system\nYou are")


def test_a_developer_is_rendered_as_system_where_needed():
    row = {"messages": [{"role": "developer", "content": "Be brief."}, user("Hi"), says("Bye.")]}
    assert "<|im_start|>system\nBe brief.<|im_end|>" in rows_in("qwen3", row)[0].text
    assert "<|im_start|>developer\nBe brief." in rows_in("hermes", row)[0].text
    assert "# Instructions\n\nBe brief." in rows_in("gpt_oss", row)[0].text


def test_a_message_that_the_template_drops_is_refused():
    row = {"messages": [user("Hi"), {"role": "system", "content": "Be brief."}, user("Hm"), says("Bye.")]}
    with pytest.raises(BadField, match=r"messages\[1\]: the chat template drops this message of role 'system'"):
        rows_in("gpt_oss", row)


def test_content_next_to_a_call_is_trained_or_refused():
    row = {"messages": [user("Weather?"), says("I look.", tool_calls=[CALL])]}
    (text,) = rows_in("qwen3", row)
    assert said([text]) == ["I look.\n" + HERMES]
    with pytest.raises(BadField, match=r"messages\[1\].content: the chat template changes it beyond recognition"):
        rows_in("llama3_1", row)


def test_several_calls_are_trained_or_refused():
    both = [
        CALL,
        {**CALL, "id": "functions.weather:1", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}},
    ]
    row = {"messages": [user("Weather?"), says(None, tool_calls=both)]}
    (answer,) = said(rows_in("hermes", row))
    assert answer.count("<tool_call>") == 2 and "Rome" in answer
    with pytest.raises(BadField, match="single tool-calls"):
        rows_in("llama3_1", row)


SCHEMAS = "You may call functions.\n<tools>\n[]\n</tools>"


def test_hermes_rows_are_rendered_by_the_models_own_template():
    call = '<tool_call>\n{"arguments": {"city": "Paris"}, "name": "weather"}\n</tool_call>'
    result = {"role": "tool", "content": '<tool_response>\n{"t": 18}\n</tool_response>'}
    row = {"tools": [TOOL], "messages": [user("Weather?"), says(call), result, says("18.")]}
    assert said(rows_in("hermes", row)) == [HERMES, "18.<|im_end|>"]
    assert rows_in("hermes", row)[0].text.count("<tool_response>") == 1
    assert said(rows_in("llama3_1", row))[0] == GENERATED["llama3_1"]["tools"][0]
    assert said(rows_in("chatml", {**row, "tools": []}))[0] == call + "<|im_end|>"  # as it is written
    described = {**row, "messages": [{"role": "system", "content": SCHEMAS}, *row["messages"]]}
    assert said(rows_in("hermes", described))[0] == HERMES
    assert "weather" not in rows_in("hermes", described)[0].text.partition("<|im_end|>")[0]
    with pytest.raises(BadField, match="asks for calls in <tool_call> tags"):
        rows_in("llama3_1", described)


def test_a_key_read_in_some_roles_alone_is_not_dropped_in_others():
    template = byte_tokenizer().chat_template.replace(
        "message['content']",
        "(message.name + ': ' if message.role == 'user' and message.name else '') + message['content']",
    )
    renderer = ChatRenderer(byte_tokenizer(), template)
    row = {"messages": [user("Hi") | {"name": "Ann"}, says("Bye.", name="Bot")]}
    assert renderer.unread(MESSAGES(row)) == [("assistant", "name")]
    assert ("user", "name") in renderer.read


@pytest.mark.parametrize(
    "written",
    ["{{ call.function.arguments }}", "{{ call.function.arguments | tojson }}", "{{ '' ~ call.function.arguments }}"],
)
def test_arguments_are_json_however_a_template_writes_them(written: str):
    """As an object `{{ arguments }}` gives Python's quotes, as text `tojson` escapes the quotes."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for call in m.tool_calls or [] %}"
        "{{ call.function.name }} " + written + "{% endfor %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    (answer,) = said(
        ChatRenderer(byte_tokenizer(), template).rows(MESSAGES({"messages": CASES["tools"]["messages"][:2]}))
    )
    assert answer == 'weather {"city": "Paris"}<|im_end|>'
