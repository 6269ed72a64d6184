"""Judges: each scores a finished conversation. One judge a file; each is a function of its options."""

from collab_agents.judges.base import AnyJudge, Conversation, Judge, Score, as_judge
from collab_agents.judges.bleu import bleu
from collab_agents.judges.fact_coverage import fact_coverage
from collab_agents.judges.interactivity import interactivity
from collab_agents.judges.load import JUDGES, load_judge
from collab_agents.judges.token_cost import token_cost

__all__ = [
    "JUDGES",
    "AnyJudge",
    "Conversation",
    "Judge",
    "Score",
    "as_judge",
    "bleu",
    "fact_coverage",
    "interactivity",
    "load_judge",
    "token_cost",
]
