"""Judges score finished conversations. Each is a function of its options that returns a judge."""

from collab_agents.judges._review.faults import FaultKind
from collab_agents.judges._sandbox.jail import SandboxLimits
from collab_agents.judges.accuracy import accuracy
from collab_agents.judges.asks_first import asks_first
from collab_agents.judges.base import AnyJudge, Conversation, Judge, Score, as_judge, problem_with
from collab_agents.judges.bleu import bleu
from collab_agents.judges.clarification import clarification
from collab_agents.judges.evaluator import evaluator
from collab_agents.judges.fact_coverage import fact_coverage
from collab_agents.judges.interactivity import interactivity
from collab_agents.judges.load import load_judge
from collab_agents.judges.pass_rate import pass_rate
from collab_agents.judges.registry import JUDGES
from collab_agents.judges.reward_function import reward_function
from collab_agents.judges.reward_model import reward_model
from collab_agents.judges.rubric import rubric
from collab_agents.judges.token_cost import token_cost
from collab_agents.judges.tokens import assistant_tokens, user_tokens
from collab_agents.judges.user_faults import user_faults

__all__ = [
    "JUDGES",
    "AnyJudge",
    "Conversation",
    "FaultKind",
    "Judge",
    "SandboxLimits",
    "Score",
    "accuracy",
    "as_judge",
    "asks_first",
    "assistant_tokens",
    "bleu",
    "clarification",
    "evaluator",
    "fact_coverage",
    "interactivity",
    "load_judge",
    "pass_rate",
    "problem_with",
    "reward_function",
    "reward_model",
    "rubric",
    "token_cost",
    "user_faults",
    "user_tokens",
]
