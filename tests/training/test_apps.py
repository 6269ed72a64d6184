"""Training an app as it is: every call of its model learns, on the tokens that were sampled."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.process import ROOT
from collab_agents import GraphAssistant, Lookahead, load_chat_model
from collab_agents.errors import ConfigError, ModelError
from collab_agents.judges import Conversation, as_judge
from collab_agents.messages import text_of
from collab_agents.rewards import MultiturnReward
from collab_agents.tasks import Task
from collab_agents.training import PolicyConfig, read_samples, train_grpo
from collab_agents.training.calls import Call
from collab_agents.training.rewards import Scored
from collab_agents.training.turns import PlayedTurn
from tests.support.commands import exit_code as run
from tests.support.taught import ASK, HELLO, LOOKED, lesson, taught_model
from tests.support.tiny import tiny_model
from tests.support.trees import PROMPTS, REPLIES, Leaves, WatchedModel, prompts
from tests.support.trees import QUICK as TREES

FUTURES, LONGEST = 2, 8
QUICK: dict[str, Any] = {**TREES, "max_completion_length": LONGEST}


def drafting(**options: Any) -> Any:
    """An app that drafts until a draft has a certain length, and then answers: the policy decides the calls."""
    model = load_chat_model("policy", **options)

    async def draft(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke([*state["messages"], HumanMessage("draft")])]}

    def answer(state: MessagesState) -> Any:  # Not async, on a thread.
        return {"messages": [model.invoke(state["messages"])]}

    def again(state: MessagesState) -> str:
        return "draft" if len(text_of(state["messages"][-1])) % 3 == 1 else "answer"

    graph = StateGraph(MessagesState)
    graph.add_node("draft", draft)
    graph.add_node("answer", answer)
    graph.add_edge(START, "draft")
    graph.add_conditional_edges("draft", again, ["draft", "answer"])
    graph.add_edge("answer", END)
    return graph.compile(name="drafting")


def variety(conversation: Conversation, task: Task) -> float:
    said = "".join(text_of(message) for message in conversation.messages if message.type == "ai")
    return len(set(said)) / 10 - len(said) / 40


class Watched(WatchedModel):
    """A reward function that also keeps the turns that it was given."""

    def __init__(self, user: Any = None, judge: Any = variety, **options: Any) -> None:
        options.setdefault("lookahead", Lookahead(futures=FUTURES, window=1))
        super().__init__(user or Leaves(), MultiturnReward({"judge": as_judge(judge)}), **options)
        self.seen: list[tuple[list[PlayedTurn], list[float | None], list[Scored]]] = []

    async def __call__(self, *args: Any, **kwargs: Any) -> list[float | None]:
        rewards = await super().__call__(*args, **kwargs)
        self.seen.append((kwargs["turn"], rewards, self.last))
        return rewards


def train(tiny: str, out: Path, reward: Any, app: Any = None, **trainer: Any) -> dict[str, float]:
    policy = PolicyConfig(name=tiny, dtype="float32", lora=None)
    app = GraphAssistant(drafting()) if app is None else app
    logs: dict[str, float] = train_grpo(policy, prompts(), reward, out, trainer={**QUICK, **trainer}, app=app)
    return logs


def calls_of(reward: Watched) -> list[Call]:
    """Every call of the turns and of their futures."""
    in_turns = [call for turns, _, _ in reward.seen for turn in turns for call in turn.calls]
    return in_turns + [call for _, _, scored in reward.seen for one in scored for calls in one.calls for call in calls]


def test_the_tokens_that_learn_are_those_that_the_calls_of_the_app_sampled(tiny: str, tmp_path: Path) -> None:
    reward = Watched(max_tokens=LONGEST)
    logs = train(tiny, tmp_path / "out", reward, max_steps=3, learning_rate=1e-3, learn="tree")
    calls = calls_of(reward)
    rows = sorted([*call.prompt, *call.completion] for call in calls)
    assert sorted(reward.learnt) == rows
    sampled = ["".join(f"{token}," for token in row) for row in reward.generated]
    assert all(any("".join(f"{token}," for token in row) in one for one in sampled) for row in rows)
    turns = [turn for batch, _, _ in reward.seen for turn in batch]
    assert {len(turn.calls) for turn in turns} > {2, 3}
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny)
    spoken = [tokenizer.decode(call.completion, skip_special_tokens=True) for call in calls]
    again = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in spoken]
    assert again != [[token for token in call.completion if token != tokenizer.eos_token_id] for call in calls]
    for turn in turns:
        said = [text_of(message) for message in turn.messages]
        assert said == [tokenizer.decode(call.completion, skip_special_tokens=True).strip() for call in turn.calls]
    (batch, _, scored) = reward.seen[-1]
    last = [*(call for turn in batch for call in turn.calls), *(c for one in scored for f in one.calls for c in f)]
    assert logs["tree/turns"] == logs["tree/calls"] == len(last)
    assert logs["tree/tokens"] == sum(len(call.completion) for call in last)
    assert logs["app/calls"] == sum(len(turn.calls) for turn in batch) / len(batch)
    assert logs["app/failed"] == 0


def test_an_app_whose_calls_openvino_samples_is_trained_by_their_tokens(tmp_path: Path) -> None:
    reward = Watched(max_tokens=LONGEST)
    uneven = tiny_model(tmp_path / "uneven", uneven=True)
    logs = train(uneven, tmp_path / "out", reward, max_steps=2, learning_rate=1e-2, learn="tree", use_openvino=True)
    assert [{one.policy_step for one in scored} for _, _, scored in reward.seen] == [{0}, {1}]
    tokenizer: Any = AutoTokenizer.from_pretrained(uneven)
    for batch, _, _ in reward.seen:
        for turn in batch:
            said = [text_of(message) for message in turn.messages]
            assert said == [tokenizer.decode(call.completion, skip_special_tokens=True).strip() for call in turn.calls]
    (batch, _, scored) = reward.seen[-1]
    last = [*(call for turn in batch for call in turn.calls), *(c for one in scored for f in one.calls for c in f)]
    assert logs["tree/calls"] == len(last) > len(batch)
    assert logs["tree/tokens"] == sum(len(call.completion) for call in last)


def test_the_log_probabilities_are_those_of_the_model_that_sampled(tiny: str, tmp_path: Path) -> None:
    reward = Watched(max_tokens=LONGEST, temperature=0.7)
    app = GraphAssistant(drafting(temperature=0.1, top_p=0.5, max_tokens=100, stop="e"))
    train(tiny, tmp_path / "out", reward, app, max_steps=1, learning_rate=1e-3, temperature=0.7)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny)
    ends = set()
    for call in calls_of(reward):
        direct = logps(model, call, temperature=0.7).tolist()
        assert call.logprobs == pytest.approx(direct, abs=1e-4)
        ends.add("length" if len(call.completion) == LONGEST else tokenizer.decode(call.completion[-1:]))
    assert ends == {
        "length",
        "e",
        "<|im_end|>",
    }  # What follows a stop text or an end was not sampled, and is not there.


def logps(model: Any, call: Call, temperature: float = 1.0) -> torch.Tensor:
    logits = model(torch.tensor([call.prompt + call.completion])).logits[0, len(call.prompt) - 1 : -1].float()
    return torch.log_softmax(logits / temperature, -1)[torch.arange(len(call.completion)), call.completion]


Weighted = tuple[Call, float, float]
"""A call, its weight and its advantage."""


def weighted(reward: Watched, tree: bool) -> list[list[Weighted]]:
    """The calls of each batch, with the advantages of GRPO: a reward minus the mean of its siblings'."""
    batches = []
    for turns, rewards, scored in reward.seen:
        batch: list[Weighted] = []
        for i, (turn, one) in enumerate(zip(turns, scored, strict=True)):
            own = [j for j in range(len(turns)) if j // REPLIES == i // REPLIES]
            advantage = beside(rewards, i, own)
            batch += [(call, 1.0, advantage) for call in turn.calls]
            ends = [future["reward"] for future in one.result["futures"]]
            for f, calls in enumerate(one.calls if tree else []):
                batch += [(call, 1 / FUTURES, beside(ends, f, range(FUTURES))) for call in calls]
        batches.append(batch)
    return batches


def beside(values: Sequence[float | None], index: int, among: Sequence[int]) -> float:
    others = [values[i] or 0.0 for i in among if i != index]
    return (values[index] or 0.0) - sum(others) / len(others)


def directly(tiny: str, batches: list[list[Weighted]], *, rate: float, beta: float, iterations: int) -> Any:
    """Train in plain torch, a call at a time, on what was sampled before."""
    model: Any = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    reference: Any = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    for batch in batches:
        with torch.no_grad():
            before = [(logps(model, call), logps(reference, call)) for call, _, _ in batch]
        for _ in range(iterations):
            loss = torch.zeros(())
            for (call, weight, advantage), (old, ref) in zip(batch, before, strict=True):
                now = logps(model, call)
                ratio = torch.exp(now - old)
                gain = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
                divergence = torch.exp(ref - now) - (ref - now) - 1
                loss = loss + weight * (beta * ratio * divergence - gain).sum()  # use_bias_correction_kl
            (loss / (REPLIES * PROMPTS * LONGEST)).backward()
            with torch.no_grad():
                for weights in model.parameters():
                    weights -= rate * weights.grad
                    weights.grad = None
    return model


@pytest.mark.parametrize(
    ("learn", "beta", "iterations"), [("reply", 0.0, 1), ("reply", 0.2, 2), ("tree", 0.0, 1), ("tree", 0.2, 2)]
)
def test_training_on_an_app_is_that_of_a_direct_implementation(
    tiny: str, tmp_path: Path, learn: str, beta: float, iterations: int
) -> None:
    reward = Watched(max_tokens=LONGEST)
    options: dict[str, Any] = {"max_steps": 2 * iterations, "beta": beta, "num_iterations": iterations, "learn": learn}
    train(tiny, tmp_path / "out", reward, learning_rate=0.1, **options)
    batches = weighted(reward, learn == "tree")
    assert len(batches) == 2
    assert all(len(batch) > REPLIES * PROMPTS for batch in batches)
    start: Any = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    direct = directly(tiny, batches, rate=0.1, beta=beta, iterations=iterations)
    trained: Any = AutoModelForCausalLM.from_pretrained(str(tmp_path / "out"), dtype=torch.float32)
    moved = 0.0
    for before, mine, theirs in zip(start.parameters(), direct.parameters(), trained.parameters(), strict=True):
        moved = max(moved, (before - mine).abs().max().item())
        assert torch.allclose(mine, theirs, atol=1e-5, rtol=0)
    assert moved > 1e-2


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that asks which order is meant in half of the cases, and cancels the first in the others."""
    return taught_model(tmp_path_factory.mktemp("taught"))


def chance_of_asking(folder: str | Path) -> float:
    """The probability that the model asks which order is meant, in [0, 1]."""
    model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    with torch.no_grad():
        return float(logps(model, Call(*lesson(tokenizer, [HELLO, *LOOKED], ASK))).sum().exp())


EXAMPLE = ROOT / "examples" / "train_app"


def example(folder: Path, tiny: str, **sections: Any) -> Path:
    """The example's file, for a tiny model."""
    raw = yaml.safe_load((EXAMPLE / "grpo.yaml").read_text(encoding="utf-8"))
    raw["model"] = {"name": tiny, "dtype": "float32", "lora": None}
    raw["data"]["tasks"]["source"] = str(EXAMPLE / "tasks.jsonl")
    quick = {name: QUICK[name] for name in ("report_to", "save_strategy", "gradient_checkpointing", "disable_tqdm")}
    raw["trainer"] |= {
        **quick,
        "bf16": False,
        "max_steps": 8,
        "learning_rate": 1e-4,
        "max_completion_length": 96,
        "per_device_train_batch_size": 16,
    }
    for section, values in sections.items():
        raw[section] = {**raw.get(section, {}), **values} if isinstance(values, dict) else values
    file = folder / "grpo.yaml"
    file.write_text(yaml.safe_dump(raw))
    return file


def test_the_agent_of_the_example_learns_to_ask_first(taught: str, tmp_path: Path) -> None:
    before = chance_of_asking(taught)
    assert 0.2 < before < 0.8
    file = example(tmp_path, taught)
    assert run("train", "grpo", "--config", str(file), "--out", str(tmp_path / "out")) == 0
    assert chance_of_asking(tmp_path / "out") > 0.8
    log = json.loads((tmp_path / "out" / "training_log.json").read_text())
    rewards = [entry["reward"] for entry in log if "reward" in entry]
    assert rewards[-1] > rewards[0] + 0.3
    first, *_ = read_samples(tmp_path / "out")
    said = [message for reply in first.replies for message in reply.messages]
    assert {message["role"] for message in said} == {"assistant", "tool"}
    assert any(message.get("tool_calls") for message in said)
    kept = json.loads((tmp_path / "out" / "training.json").read_text())
    assert kept["assistant"] == {"app": "examples.existing_agent:create_assistant", "options": {"model": "policy"}}


def test_held_out_conversations_are_played_by_the_app_that_is_trained(taught: str, tmp_path: Path) -> None:
    raw = yaml.safe_load((EXAMPLE / "grpo.yaml").read_text(encoding="utf-8"))
    played = {
        **{name: raw["reward"][name] for name in ("user", "judges")},
        "tasks": {"source": str(EXAMPLE / "tasks.jsonl"), "limit": 2},
        "lookahead": {"max_exchanges": 2},
    }
    evaluation = {"config": played, "every": 1, "load_best": False}
    file = example(tmp_path, taught, model={"lora": {"r": 4}}, evaluation=evaluation, trainer={"max_steps": 1})
    assert run("train", "grpo", "--config", str(file), "--out", str(tmp_path / "out")) == 0
    lines = (tmp_path / "out").glob("evaluations/step-1/**/trajectories.jsonl")
    trajectories = [json.loads(line) for file in lines for line in file.read_text().splitlines()]
    assert len(trajectories) == 2
    assert any(message["role"] == "tool" for one in trajectories for message in one["messages"])


def test_turns_in_which_the_app_fails_are_told_and_move_nothing(
    tiny: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_chat_model("policy")

    async def answer(state: MessagesState) -> Any:
        await model.ainvoke(state["messages"])
        raise RuntimeError("the till is closed")

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    reward = Watched(max_tokens=LONGEST)
    app = GraphAssistant(graph.compile(name="till"))
    logs = train(tiny, tmp_path / "out", reward, app, max_steps=2, learning_rate=0.5)
    assert "8 of 8 turns of the app failed, the first: app 'till', node 'answer': RuntimeError: the till" in caplog.text
    assert {value for _, rewards, _ in reward.seen for value in rewards} == {None}
    assert (logs["app/failed"], logs["app/calls"], logs["tree/turns"]) == (1, 1, 0)
    before: Any = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    after: Any = AutoModelForCausalLM.from_pretrained(str(tmp_path / "out"), dtype=torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(before.parameters(), after.parameters(), strict=True))


def without_model() -> Any:
    def answer(state: MessagesState) -> Any:
        return {"messages": [AIMessage("Hello.")]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    return GraphAssistant(graph.compile(name="rules"))


def test_any_reward_function_of_trl_is_given_the_turns(tiny: str, tmp_path: Path) -> None:
    given: list[PlayedTurn] = []

    def calls(completions: Any, turn: list[PlayedTurn], **_: Any) -> list[float]:
        given.extend(turn)
        return [float(len(one.calls)) for one in turn]

    logs = train(tiny, tmp_path / "out", calls, max_steps=2, off_policy_mask_threshold=0.5)
    assert logs["reward"] == logs["app/calls"] > 2
    assert len(given) == 2 * REPLIES * PROMPTS


def on_its_own_thread() -> Any:
    model = load_chat_model("policy")

    async def answer(state: MessagesState) -> Any:
        with ThreadPoolExecutor(1) as pool:
            return {"messages": [pool.submit(model.invoke, state["messages"]).result()]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    return GraphAssistant(graph.compile(name="threads"))


@pytest.mark.parametrize(
    ("app", "trainer", "said_so"),
    [
        (
            on_its_own_thread,
            {},
            "training: app 'threads', node 'answer': .*on a thread of the app's own use contextvars",
        ),
        (without_model, {}, r"no turn of the app called the model in training: load its chat model by load_chat_mo"),
        (
            lambda: GraphAssistant(drafting()),
            {"loss_type": "dapo"},
            "loss_type must be 'dr_grpo' with an app, got 'dap",
        ),
        (lambda: GraphAssistant(drafting()), {"use_vllm": True}, "use_vllm must be False with an app, got True"),
        (lambda: GraphAssistant(drafting()), {"optim": "lomo"}, "an app does not run with trainer.optim: lomo"),
    ],
)
def test_an_app_that_cannot_be_trained_is_refused(
    tiny: str, tmp_path: Path, app: Callable[[], Any], trainer: dict[str, Any], said_so: str
) -> None:
    with pytest.raises(ConfigError, match=said_so):
        train(tiny, tmp_path / "out", Watched(max_tokens=LONGEST), app(), max_steps=1, **trainer)


@pytest.mark.parametrize(
    ("method", "sections", "said_so"),
    [
        ("ppo", {}, "assistant: ppo trains a chat model alone: train the app by grpo, or leave it out"),
        ("grpo", {"data": {"system_prompt": "Be kind."}}, "data.system_prompt: an app has prompts of its own: leave"),
        ("grpo", {"reward": {"policy": "local:smollm2"}}, "reward.policy: the app that is trained plays the futures"),
        (
            "grpo",
            {"assistant": {"app": "examples.existing_agent:create", "options": {}}},
            "assistant.app: 'examples.existing_agent' has no 'create'",
        ),
    ],
)
def test_a_file_that_cannot_be_followed_is_refused_in_a_sentence(
    taught: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: str,
    sections: dict[str, Any],
    said_so: str,
) -> None:
    file = example(tmp_path, taught, **sections)
    assert run("train", method, "--config", str(file), "--out", str(tmp_path / "out")) == 1
    assert said_so in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


async def test_the_policy_answers_in_a_training_only() -> None:
    with pytest.raises(ModelError, match="policy: the model in training answers only while `collab-agents train` pla"):
        await load_chat_model("policy").ainvoke("Hello")
    with pytest.raises(ConfigError, match="model 'policy' runs in this process and takes neither base_url nor api_key"):
        load_chat_model("policy", base_url="http://localhost:8000/v1")
    with pytest.raises(ConfigError, match="model 'policy' has no option 'temprature'; did you mean 'temperature'"):
        load_chat_model("policy", temprature=0.5)
