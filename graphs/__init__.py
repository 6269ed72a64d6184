"""How a conversation runs: LangGraph state graphs of users, assistants and judges, and many of them at once."""

from collab_agents.graphs.agent import create_lookahead_agent
from collab_agents.graphs.batch import check_tasks, generate_trajectories, play_conversations
from collab_agents.graphs.conversation import create_conversation_graph
from collab_agents.graphs.evaluate import TaskSet, evaluate
from collab_agents.graphs.lookahead import create_lookahead_graph
from collab_agents.graphs.progress import Progress, ProgressBar
from collab_agents.graphs.rollout import create_rollout_graph
from collab_agents.graphs.simulate import simulate

__all__ = [
    "Progress",
    "ProgressBar",
    "TaskSet",
    "check_tasks",
    "create_conversation_graph",
    "create_lookahead_agent",
    "create_lookahead_graph",
    "create_rollout_graph",
    "evaluate",
    "generate_trajectories",
    "play_conversations",
    "simulate",
]
