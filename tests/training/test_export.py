"""Export to GGUF: others play the file as transformers plays the folder, and what cannot be written is refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
import pytest
import torch
from gguf import GGUFReader, dequantize
from jinja2 import Template
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, GPT2Config, GPT2LMHeadModel
from transformers.integrations.gguf.reader import read_gguf_metadata
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from collab_agents.models.smollm2 import GGUF, smollm2, wheel
from collab_agents.training import export_gguf, merge_adapter
from collab_agents.training.modelfile import ollama_template
from tests.support.commands import run
from tests.support.tiny import CHATML, adapter_of, tiny_chat_model, tiny_model

ASKED = [{"role": "user", "content": "I'VE 12345 things to write: <think>it's 3 o'clock,\n\n  élève 你好!!"}]
Said = tuple[list[int], list[int]]
"""The tokens of a prompt, and those of the greedy reply."""


def transformers_says(folder: str | Path, file: str | None = None, *, asked: Any = ASKED, length: int = 24) -> Said:
    """What a model of transformers says, from its folder or from a file in it."""
    stored = {} if file is None else {"gguf_file": file}
    dequantized = {} if file is None else {"quantization_config": GgufConfig(dequantize=True)}
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, **stored)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **stored, **dequantized)
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    options = {"max_new_tokens": length, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
    tokens = model.generate(**prompt, **options)[0].tolist()
    return tokens[:-length], tokens[-length:]


def openvino_says(file: Path, *, asked: Any = ASKED, length: int = 24) -> Said:
    """What OpenVINO GenAI says, which reads weights, tokenizer and chat template by code of its own."""
    pipeline: Any = openvino_genai.LLMPipeline(str(file), "CPU", INFERENCE_PRECISION_HINT="f32")
    tokenizer = pipeline.get_tokenizer()
    text = tokenizer.apply_chat_template(openvino_genai.ChatHistory(asked), add_generation_prompt=True)
    prompt = np.array(tokenizer.encode(text, add_special_tokens=False).input_ids.data)
    replies = pipeline.generate(openvino.Tensor(prompt), max_new_tokens=length, do_sample=False, ignore_eos=True)
    return prompt[0].tolist(), list(replies.tokens[0])


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_a_model_says_the_same_from_its_file(tmp_path: Path, kind: str) -> None:
    folder = tiny_chat_model(tmp_path / "model", kind)
    code, out, err = run("export", "--model", folder, "--gguf", tmp_path / "tiny.gguf")
    assert code == 0, err
    assert f"ollama create tiny -f {tmp_path / 'tiny.Modelfile'}" in out
    expected = transformers_says(folder)
    assert transformers_says(tmp_path, "tiny.gguf") == expected
    assert openvino_says(tmp_path / "tiny.gguf") == expected
    read: Any = AutoTokenizer.from_pretrained(tmp_path, gguf_file="tiny.gguf")
    own: Any = AutoTokenizer.from_pretrained(folder)
    assert read.chat_template == own.chat_template
    assert (read.bos_token, read.eos_token, read.pad_token) == (own.bos_token, own.eos_token, own.pad_token)
    assert read("think <think>").input_ids == own("think <think>").input_ids


def test_an_adapter_is_merged_into_its_file(tmp_path: Path) -> None:
    adapter = adapter_of(tiny_chat_model(tmp_path / "base"), tmp_path / "adapter", scale=0.3)
    export_gguf(adapter, tmp_path / "tiny.gguf")
    merge_adapter(adapter, tmp_path / "merged")
    expected = transformers_says(tmp_path / "merged")
    assert expected != transformers_says(tmp_path / "base")
    assert transformers_says(tmp_path, "tiny.gguf") == expected
    assert openvino_says(tmp_path / "tiny.gguf") == expected


def test_the_embedded_model_says_the_same_from_its_file(tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(smollm2(), num_hidden_layers=3)  # All 30 take longer.
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(smollm2()).save_pretrained(tmp_path / "model")
    modelfile = export_gguf(tmp_path / "model", tmp_path / "smollm2.gguf")
    assert openvino_says(tmp_path / "smollm2.gguf") == transformers_says(tmp_path / "model")
    assert 'SYSTEM """You are a helpful AI assistant named SmolLM' in modelfile.read_text()


def test_the_embedded_model_s_file_agrees_with_the_one_that_llama_cpp_s_converter_wrote(tmp_path: Path) -> None:
    theirs_at = wheel()
    assert theirs_at is not None
    export_gguf("smollm2", tmp_path / "smollm2.gguf")
    lists = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
    theirs, their_tensors = read_gguf_metadata(str(theirs_at / GGUF), lists)
    ours, our_tensors = read_gguf_metadata(str(tmp_path / "smollm2.gguf"), lists)
    assert sorted(our_tensors) == sorted(their_tensors)
    about = {key for key in theirs if key.startswith("general.")} - {"general.architecture", "general.type"}
    assert theirs.keys() - ours.keys() - about == {"tokenizer.ggml.add_space_prefix"}  # Which only SentencePiece has.
    assert {key: ours[key] for key in (theirs.keys() & ours.keys()) - about} == {
        key: theirs[key] for key in (theirs.keys() & ours.keys()) - about
    }


@pytest.mark.parametrize(("kind", "bits"), [("f32", 32), ("bf16", 16), ("q8_0", 8.5)])
def test_numbers_are_stored_as_asked_for(tmp_path: Path, kind: Any, bits: float) -> None:
    folder = tiny_chat_model(tmp_path / "model", hidden_size=80)  # 80 is no multiple of q8_0's blocks of 32.
    export_gguf(folder, tmp_path / "tiny.gguf", kind=kind)
    tensors = {one.name: one for one in GGUFReader(tmp_path / "tiny.gguf").tensors}
    down, up, norm = (tensors[f"blk.0.ffn_{name}.weight"] for name in ("down", "up", "norm"))
    assert down.n_bytes == down.n_elements * bits / 8
    assert up.tensor_type.name == ("F16" if kind == "q8_0" else kind.upper())
    assert norm.tensor_type.name == "F32"
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    own = model.model.layers[0].mlp.down_proj.weight.detach().numpy()
    assert abs(dequantize(down.data, down.tensor_type) - own).max() <= abs(own).max() / 250
    if kind != "q8_0":
        assert transformers_says(tmp_path, "tiny.gguf") == transformers_says(folder)


def test_llama_3_s_scaled_rotary_frequencies_are_in_the_file(tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0}
    scaling |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    folder = tiny_chat_model(tmp_path / "model", head_dim=32, rope_parameters=scaling)
    export_gguf(folder, tmp_path / "tiny.gguf")
    reader = GGUFReader(tmp_path / "tiny.gguf")
    divisors = next(one.data for one in reader.tensors if one.name == "rope_freqs.weight")
    plain = reader.fields["llama.rope.freq_base"].contents() ** -(np.arange(0, 32, 2) / 32)
    scaled = LlamaRotaryEmbedding(AutoConfig.from_pretrained(folder)).inv_freq.numpy()
    assert plain / divisors == pytest.approx(scaled, rel=1e-5)
    assert len({*divisors.round(3)}) > 2


def ollama(template: str, messages: list[dict[str, str]]) -> str:
    """The prompt that a template in Ollama's language makes, as far as it is used here, by Jinja's."""
    template = template.replace("{{ range .Messages }}", "{% for one in messages %}")
    template = re.sub('{{ if eq .Role ("[a-z]+") }}', r"{% if one.role == \1 %}", template)
    template = re.sub('{{ else if eq .Role ("[a-z]+") }}', r"{% elif one.role == \1 %}", template)
    template = template.replace("{{ end }}", "{% endif %}", 1).replace("{{ end }}", "{% endfor %}")
    template = template.replace("{{ .Content }}", "{{ one.content }}")
    return Template(template, keep_trailing_newline=True).render(messages=messages)


HEADERS = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
OWN_SYSTEM = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}" + CHATML


@pytest.mark.parametrize(
    ("kind", "template", "system"),
    [("llama", HEADERS, ""), ("qwen2", CHATML, ""), ("qwen2", OWN_SYSTEM, "Be brief."), ("qwen2", HEADERS[15:], "")],
)
def test_ollama_makes_the_same_prompts(tmp_path: Path, kind: str, template: str, system: str) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_chat_model(tmp_path / "model", kind))
    tokenizer.chat_template = template
    found = ollama_template(tokenizer)
    assert found is not None
    assert found[1] == system
    bos = tokenizer.bos_token if kind == "llama" else ""  # Ollama writes it itself.
    for roles in (["user"], ["system", "user"], ["user", "assistant", "user"]):
        messages = [{"role": role, "content": f"{role} says"} for role in roles]
        given = [{"role": "system", "content": system}, *messages] if system and roles[0] != "system" else messages
        expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert bos + ollama(found[0], given) == expected


def test_a_template_that_ollama_cannot_have_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    folder = Path(tiny_chat_model(tmp_path / "model", "qwen2"))
    (folder / "chat_template.jinja").write_text("{% if messages[1] %}Long: {% endif %}" + CHATML)
    code, out, _ = run("export", "--model", folder, "--gguf", tmp_path / "tiny.gguf")
    assert code == 0
    assert (tmp_path / "tiny.Modelfile").read_text() == "FROM ./tiny.gguf\n"
    assert "The chat template cannot be written for Ollama" in out


def test_what_cannot_be_exported_is_refused_in_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=8)).save_pretrained(tmp_path / "gpt2")
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "attention_factor": 2.0}
    tiny_chat_model(tmp_path / "yarn", rope_parameters={**yarn, "original_max_position_embeddings": 64})
    tiny_chat_model(tmp_path / "gelu", hidden_act="gelu")
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_chat_model(tmp_path / "large"))
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = 1e6
    model.save_pretrained(tmp_path / "large")
    core = json.loads((Path(tiny_chat_model(tmp_path / "split")) / "tokenizer.json").read_text())
    core["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": "\\s+"}
    (tmp_path / "split" / "tokenizer.json").write_text(json.dumps(core))
    tiny_model(tmp_path / "words")
    (tmp_path / "there.gguf").touch()
    there = sorted(tmp_path.iterdir())
    for name, said in (
        ("gpt2", "is a gpt2 model, and llama, qwen2, qwen3 can be exported: for others, use llama.cpp's convert_hf"),
        ("yarn", "'attention_factor': 2.0"),
        ("gelu", "has hidden_act 'gelu', which this export does not write"),
        ("large", "blk.1.ffn_up.weight has numbers that are too large for f16: use bf16"),
        ("split", "its tokenizer splits text by a rule of its own"),
        ("words", "only tokenizers of byte-level BPE can be exported"),
    ):
        code, _, err = run("export", "--model", tmp_path / name, "--gguf", tmp_path / "new.gguf")
        assert code == 1
        assert said in err
        assert sum(line.startswith("error: ") for line in err.splitlines()) == 1
    code, _, err = run("export", "--model", tmp_path / "large", "--gguf", tmp_path / "there.gguf")
    assert "there.gguf exists already: choose another file" in err
    assert sorted(tmp_path.iterdir()) == there
