"""The vLLM engine, on machines with a GPU and vLLM; elsewhere, what is said instead."""

import asyncio
import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
from langchain_core.messages import HumanMessage

from collab_agents import load_chat_model
from collab_agents.errors import ConfigError
from collab_agents.models.engines.base import Job
from collab_agents.models.engines.objects import complete_object
from collab_agents.models.local import LocalChatModel
from collab_agents.models.smollm2 import smollm2
from tests.support.tiny import adapter_of

os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # So that vLLM may fork.
_READY = torch.cuda.is_available() and importlib.util.find_spec("vllm") is not None
needs_a_gpu = pytest.mark.skipif(not _READY, reason="needs a GPU and the extra vllm")
HELLO = [HumanMessage("Name three colours.")]


@pytest.fixture(scope="module")
def model() -> LocalChatModel:
    model = load_chat_model("local:smollm2", engine="vllm", max_tokens=32, temperature=0.9, cache_gb=4)
    assert isinstance(model, LocalChatModel)
    return model


@pytest.mark.skipif(_READY, reason="vLLM is installed")
def test_a_machine_without_vllm_says_so() -> None:
    with pytest.raises(ConfigError, match="cannot run on vllm: vllm is not installed"):
        load_chat_model("local:smollm2", engine="vllm")


@needs_a_gpu
async def test_a_seed_decides_a_sample_alone_and_in_a_batch(model: LocalChatModel) -> None:
    prompts = [f"Tell me about the number {number}." for number in range(16)]
    alone = [(await model.ainvoke(prompt, seed=seed)).content for seed, prompt in enumerate(prompts)]
    together = await asyncio.gather(*(model.ainvoke(prompt, seed=seed) for seed, prompt in enumerate(prompts)))
    assert [reply.content for reply in together] == alone


@needs_a_gpu
async def test_calls_keep_their_length_and_stop_and_stream(model: LocalChatModel) -> None:
    whole = await model.ainvoke(HELLO, temperature=0.0)
    short = await model.ainvoke(HELLO, temperature=0.0, max_tokens=3)
    stopped = await model.ainvoke(HELLO, temperature=0.0, stop=[","])
    chunks = [str(chunk.content) async for chunk in model.astream(HELLO, temperature=0.0)]
    assert short.usage_metadata is not None
    assert short.usage_metadata["output_tokens"] == 3
    assert str(whole.content).partition(",")[0].strip() == stopped.content
    assert "".join(chunks) == whole.content
    assert len(chunks) > 3


@needs_a_gpu
async def test_objects_keep_to_their_schema(model: LocalChatModel) -> None:
    schema = {"properties": {"why": {"type": "string"}, "score": {"type": "number", "minimum": 0, "maximum": 1}}}
    prompt = model.engine.encode([{"role": "user", "content": "Rate the word tea, as JSON."}])
    jobs = [Job(prompt, max_tokens=60, temperature=1.0, top_p=1.0, seed=seed) for seed in range(8)]
    for made in await asyncio.gather(*(complete_object(model.engine, job, schema) for job in jobs)):
        values = json.loads(made.text)
        assert values.keys() == {"why", "score"}
        assert 0 <= values["score"] <= 1


@needs_a_gpu
async def test_a_cancelled_call_leaves_the_engine_free(model: LocalChatModel) -> None:
    long = asyncio.create_task(model.ainvoke("Write a very long story.", max_tokens=4000))
    await asyncio.sleep(0.5)
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    assert (await model.ainvoke(HELLO, max_tokens=4)).content


@needs_a_gpu
async def test_an_adapter_is_served_beside_its_model(tmp_path: Path) -> None:
    plain = load_chat_model("local:smollm2", engine="transformers", device="cpu")
    folder = adapter_of(smollm2(), tmp_path / "adapter", scale=0.02)
    merged = load_chat_model(f"local:{folder}", engine="transformers", device="cpu")
    served = load_chat_model(f"local:{folder}", engine="vllm", cache_gb=4)
    prompts = [f"Name {number} animals." for number in range(2, 10)]
    answers = [
        [(await model.ainvoke(prompt, temperature=0.0, max_tokens=8)).content for prompt in prompts]
        for model in (plain, merged, served)
    ]
    same = sum(one == other for one, other in zip(answers[1], answers[2], strict=True))
    assert same >= 6, answers  # vLLM computes in bfloat16.
    assert answers[0] != answers[2]


@needs_a_gpu
def test_reproducible_or_not_holds_for_the_whole_process(model: LocalChatModel) -> None:
    with pytest.raises(ConfigError, match="reproducible must be true in this process"):
        load_chat_model("local:smollm2", engine="vllm", reproducible=False)
