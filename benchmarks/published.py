"""One run of the published `collabllm` package's side of a benchmark, in its own virtual environment."""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

os.environ["ENABLE_COLLABLLM_LOGGING"] = "0"
os.environ["RUN_USER_DIR"] = tempfile.mkdtemp()
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["HF_HUB_OFFLINE"] = "1"

import litellm
from collabllm.metric import BaseMetric, SingleTurnOrChatMetric
from collabllm.synthetic import generate_multiturn_dataset
from collabllm.utils.extract_json_reliable import extract_json
from collabllm.utils.template import parse_messages
from sacrebleu.metrics.bleu import BLEU

from benchmarks.side import GOAL, arguments, report

# The package ships no metrics; these are the three of the paper's document task, in the layout of its own prompts:
# the conversation first, the instructions after it.
INTERACTIVITY = """You are a meticulous judge of conversations between a user and an AI assistant.

<|The Start of the Conversation|>
{chat_history}
<|The End of the Conversation|>

How well does the assistant collaborate with the user? Judge the assistant's messages only.
1.0: it asks for what it needs before it matters, with specific questions, and takes up every answer.
0.5: it asks now and then, or in general terms, or asks for what it was told.
0.0: it asks nothing and leaves the user to find and repair its wrong guesses.
Values between are allowed.

Output a JSON object: {{"reason": one sentence, "interactivity": a number from 0 to 1}}
"""


@SingleTurnOrChatMetric.register_metric("bleu")
class Bleu(BaseMetric):
    def __init__(self, **_: Any) -> None:
        self.bleu = BLEU(effective_order=True)

    def score(
        self, prompt: str, groundtruth: str, completion: str, messages: Any = None, metadata: Any = None
    ) -> float:
        return float(self.bleu.sentence_score(completion, [groundtruth]).score) / 100


@SingleTurnOrChatMetric.register_metric("interactivity")
class Interactivity(BaseMetric):
    def __init__(self, **llm: Any) -> None:
        self.llm = llm

    def score(
        self, prompt: str, groundtruth: str, completion: str, messages: Any = None, metadata: Any = None
    ) -> float:
        question = INTERACTIVITY.format(chat_history=parse_messages(messages))
        for _ in range(4):
            reply = litellm.completion(**self.llm, messages=[{"role": "user", "content": question}])
            try:
                return float(extract_json(reply.choices[0].message.content)["interactivity"])
            except Exception:
                continue
        raise RuntimeError("no usable verdict")


@SingleTurnOrChatMetric.register_metric("token_amount")
class TokenAmount(BaseMetric):
    def __init__(self, **_: Any) -> None:
        pass

    def score(
        self, prompt: str, groundtruth: str, completion: str, messages: Any = None, metadata: Any = None
    ) -> float:
        return sum(len(m["content"]) / 4 for m in messages if m["role"] == "assistant")


def play(index: int, url: str) -> bool:
    llm = {"model": "openai/any", "api_base": url, "api_key": "unused"}
    try:
        generate_multiturn_dataset(
            task_desc="writing a short text",
            single_turn_prompt=f"{GOAL} (request {index})",
            single_turn_completion=f"You are invited! {GOAL}",
            single_turn_metadata={"extraction_requirement": ""},
            metric_names=["document->bleu", "interactivity", "token_amount"],
            metric_weights=[1.0, 1.0, -0.0005],
            user_generation_kwargs=dict(llm),
            assistant_generation_kwargs=dict(llm),
            reward_generation_kwargs=dict(llm),
            proact_prompt_ratio=0.0,
            add_system_prompt_ratio=0.0,
            num_candidate_responses=3,
            max_total_turns=6,
            max_new_turns=4,
            num_samples=3,
        )
    except Exception as error:
        print(f"task {index}: {type(error).__name__}: {str(error)[:200]}", flush=True)
        return False
    return True


def main() -> None:
    given = arguments().parse_args()
    with ThreadPoolExecutor(max_workers=given.tasks) as pool:
        report(lambda: sum(pool.map(lambda index: play(index, given.url), range(given.tasks))))


if __name__ == "__main__":
    main()
