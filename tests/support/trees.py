"""What learning from whole trees is compared with: a reward that keeps what it saw, and training in plain torch."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from langchain_core.messages import BaseMessage, HumanMessage
from transformers import AutoModelForCausalLM, AutoTokenizer

from collab_agents import Lookahead
from collab_agents.judges import Conversation, as_judge
from collab_agents.messages import text_of
from collab_agents.rewards import MultiturnReward
from collab_agents.tasks import Task
from collab_agents.training import MultiturnRewardFunction, PolicyConfig, train_grpo, train_online_dpo
from collab_agents.training.rewards import Scored

REPLIES, FUTURES, PROMPTS, LONGEST = 4, 3, 2, 10
GAMMA, LAM, VF = 0.98, 0.9, 0.3
QUICK: dict[str, Any] = {
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "gradient_checkpointing": False,
    "bf16": False,
    "disable_tqdm": True,
    "optim": "sgd",
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "num_generations": REPLIES,
    "per_device_train_batch_size": REPLIES,
    "gradient_accumulation_steps": PROMPTS,
    "max_completion_length": LONGEST,
}


class Leaves:
    """A user who is done when a reply has certain letters, so that the policy decides when the conversation ends."""

    async def respond(
        self, messages: Sequence[BaseMessage], memory: dict[str, Any], context: Any
    ) -> tuple[BaseMessage | None, dict[str, Any]]:
        said = text_of(messages[-1])
        return (None if len(said) % 4 == 0 else HumanMessage(f"and {said[:2]}")), memory


def variety(conversation: Conversation, task: Task) -> float:
    said = "".join(conversation.assistant_texts())
    return len(set(said)) / 10 - len(said) / 40


class WatchedModel(MultiturnRewardFunction):
    """A reward function that keeps what the model in training generated and learnt."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.generated: list[list[int]] = []
        self.learnt: list[list[int]] = []

    def bind(self, model: Any, tokenizer: Any) -> None:
        generate = model.generate

        def watched(*args: Any, **kwargs: Any) -> Any:
            rows = generate(*args, **kwargs)
            self.generated += rows.tolist()
            return rows

        def keep(module: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
            if torch.is_grad_enabled() and kwargs.get("labels") is not None:
                for ids, mask in zip(kwargs["input_ids"], kwargs["attention_mask"], strict=True):
                    self.learnt.append(ids[mask.bool()].tolist())

        model.generate = watched
        model.register_forward_pre_hook(keep, with_kwargs=True)
        super().bind(model, tokenizer)


class Watched(WatchedModel):
    """A reward function that also keeps what it was given."""

    def __init__(self, **options: Any) -> None:
        lookahead = options.pop("lookahead", Lookahead(futures=FUTURES, window=2))
        judges = MultiturnReward({"variety": as_judge(variety)})
        super().__init__(Leaves(), judges, lookahead, max_tokens=8, **options)
        self.seen: list[tuple[list[list[int]], list[float | None], list[Scored]]] = []

    async def __call__(self, *args: Any, **kwargs: Any) -> list[float | None]:
        rewards = await super().__call__(*args, **kwargs)
        self.seen.append((kwargs["completion_ids"], rewards, self.last))
        return rewards


def prompts(count: int = 8) -> DatasetDict:
    rows = [{"prompt": [{"role": "user", "content": f"say {i}"}], "goal": "z", "task_id": str(i)} for i in range(count)]
    return DatasetDict({"train": Dataset.from_list(rows)})


def train(tiny: str, out: Path, reward: Any, method: Any = train_grpo, **trainer: Any) -> dict[str, float]:
    policy = PolicyConfig(name=tiny, dtype="float32", lora=None)
    logs: dict[str, float] = method(policy, prompts(), reward, out, trainer={**QUICK, "learn": "tree", **trainer})
    return logs


def pairs(tiny: str, out: Path, reward: Any, **trainer: Any) -> None:
    """Train by online DPO."""
    apart = ("num_generations", "gradient_accumulation_steps", "max_completion_length")
    quick = {name: value for name, value in QUICK.items() if name not in apart}
    policy = PolicyConfig(name=tiny, dtype="float32", lora=None)
    options = {**quick, "per_device_train_batch_size": 2, "max_new_tokens": LONGEST, "max_length": 256, **trainer}
    train_online_dpo(policy, prompts(), reward, out, trainer=options)


class Said:
    """The tokens of a turn, and what learning from them takes."""

    def __init__(self, prompt: list[int], tokens: list[int], weight: float = 1.0) -> None:
        self.prompt, self.tokens, self.weight = prompt, tokens, weight
        self.advantage: Any = 0.0
        self.returns: Any = 0.0

    def logps(self, model: Any) -> torch.Tensor:
        logits = model(torch.tensor([self.prompt + self.tokens])).logits[0, len(self.prompt) - 1 : -1].float()
        return torch.log_softmax(logits, -1)[torch.arange(len(self.tokens)), self.tokens]

    def values(self, model: Any, head: torch.nn.Linear) -> torch.Tensor:
        hidden = model.model(torch.tensor([self.prompt + self.tokens])).last_hidden_state
        result: torch.Tensor = head(hidden[0, len(self.prompt) - 1 : -1])[:, 0]
        return result

    def estimate(self, end: float, values: list[float]) -> float:
        """Set the generalized advantages of a turn that ends with a reward, and return what it is worth before it."""
        after, carry, found = 0.0, 0.0, []
        for token in reversed(range(len(values))):
            received = end if token == len(values) - 1 else 0.0
            carry = received + GAMMA * after - values[token] + GAMMA * LAM * carry
            after = values[token]
            found.append(carry)
        self.advantage = torch.tensor(found[::-1])
        self.returns = self.advantage + torch.tensor(values)
        return GAMMA * (after + LAM * carry)


Tree = list[tuple[Said, list[list[Said]]]]
"""Replies, each with the turns of its futures."""


def batches(reward: Any, tokenizer: Any) -> Iterator[tuple[Tree, list[float], list[list[float]]]]:
    """Each batch that was sampled, with the rewards of the replies and of their futures."""
    for completions, rewards, scored in reward.seen:
        batch = []
        for ids, one in zip(completions, scored, strict=True):
            text = tokenizer.apply_chat_template(one.prompt, tokenize=False, add_generation_prompt=True)
            asked = tokenizer(text, add_special_tokens=False)["input_ids"]
            turns = [[Said(call.prompt, call.completion, 1 / FUTURES) for call in calls] for calls in one.calls]
            batch.append((Said(asked, ids), turns))
        yield batch, rewards, [[future["reward"] for future in one.result["futures"]] for one in scored]


def every(batch: Tree) -> list[Said]:
    return [row for reply, turns in batch for row in (reply, *(call for calls in turns for call in calls))]


def compare(batch: Tree, rewards: list[float], futures: list[list[float]], replies: int) -> None:
    """The advantages of GRPO: a reward minus the mean of its siblings'."""
    for i, (reply, turns) in enumerate(batch):
        others = [rewards[j] for j in range(len(batch)) if j // replies == i // replies and j != i]
        reply.advantage = rewards[i] - sum(others) / len(others)
        for f, calls in enumerate(turns):
            others = [futures[i][g] for g in range(FUTURES) if g != f]
            for call in calls:
                call.advantage = futures[i][f] - sum(others) / len(others)


def estimate(batch: Tree, futures: list[list[float]], value: Callable[[Said], list[float]]) -> None:
    """The advantages of PPO, whitened over the tokens of the batch."""
    for (reply, turns), rewards in zip(batch, futures, strict=True):
        ends = []
        for end, calls in zip(rewards, turns, strict=True):
            for call in reversed(calls):
                end = call.estimate(end, value(call))
            ends.append(end)
        reply.estimate(sum(ends) / FUTURES, value(reply))
    rows = every(batch)
    count = sum(row.weight * len(row.tokens) for row in rows)
    mean = sum(row.weight * row.advantage.sum() for row in rows) / count
    variance = sum(row.weight * ((row.advantage - mean) ** 2).sum() for row in rows) / count
    for row in rows:
        row.advantage = (row.advantage - mean) / (variance + 1e-8) ** 0.5


def directly(
    tiny: str,
    reward: Any,
    *,
    rate: float,
    beta: float,
    iterations: int,
    ppo: bool = False,
    replies: int = REPLIES,
    correction: Callable[[Said, torch.Tensor], Any] = lambda row, old: 1.0,
) -> Any:
    """Train as `learn: tree` does, in plain torch, a turn at a time, on what was sampled before.

    `correction` is what the gain of a turn is multiplied with, given its log-probabilities before.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    reference = copy.deepcopy(model)
    head = torch.nn.Linear(model.config.hidden_size, 1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    for batch, rewards, futures in batches(reward, AutoTokenizer.from_pretrained(tiny)):
        rows = every(batch)
        with torch.no_grad():
            before = [row.logps(model) for row in rows]
            origin = [row.logps(reference) for row in rows]
            expected = [row.values(model, head) for row in rows]
            ratios = [correction(row, old) for row, old in zip(rows, before, strict=True)]
            if ppo:
                estimate(batch, futures, lambda said: said.values(model, head).tolist())
            else:
                compare(batch, rewards, futures, replies)
        for _ in range(iterations):
            loss = torch.zeros(())
            for row, old, ref, was, weight in zip(rows, before, origin, expected, ratios, strict=True):
                now = row.logps(model)
                ratio = torch.exp(now - old)
                gain = weight * torch.min(ratio * row.advantage, ratio.clamp(0.8, 1.2) * row.advantage)
                divergence = torch.exp(ref - now) - (ref - now) - 1
                loss = loss + row.weight * (beta * ratio * divergence - gain).sum()  # use_bias_correction_kl
                if ppo:
                    value = row.values(model, head)
                    near = was + (value - was).clamp(-0.2, 0.2)
                    missed = torch.max((value - row.returns) ** 2, (near - row.returns) ** 2)
                    loss = loss + row.weight * VF * 0.5 * missed.sum()
            (loss / (len(batch) * LONGEST)).backward()
            with torch.no_grad():
                for weights in (*model.parameters(), *head.parameters()):
                    if weights.grad is not None:
                        weights -= rate * weights.grad
                        weights.grad = None
    return model


def compare_models(before: str, direct: Any, trained: Path) -> tuple[float, float]:
    """Return how far a training moved a weight at most, and how far it is from the direct one at most."""
    start: Any = AutoModelForCausalLM.from_pretrained(before, dtype=torch.float32)
    end: Any = AutoModelForCausalLM.from_pretrained(str(trained), dtype=torch.float32)
    each = list(zip(start.parameters(), direct.parameters(), end.parameters(), strict=True))
    moved = max((one - mine).abs().max().item() for one, mine, _ in each)
    return moved, max((mine - theirs).abs().max().item() for _, mine, theirs in each)
