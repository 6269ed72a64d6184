"""The credit of every turn that the policy takes in the tree of a prompt.

From one prompt x the policy samples G replies a_i. Of each reply F futures are played, in which the policy replies
again, b_ifk in a state that only this future reaches, until the user is done or the window ends. R_if is the future's
reward. The gradient of the expected reward of a conversation is the mean over trees of

    1/G sum_i [ grad log pi(a_i | x) (mean_f R_if - B_i) + 1/F sum_f sum_k grad log pi(b_ifk | s_ifk) (R_if - C_if) ]

for any baselines B and C that do not depend on the action they are subtracted for.

- B_i is the mean over the other replies to x, which are sampled independently of a_i.
- C_if is the mean over the other futures of the same reply. They start from the same state as this one and have other
  seeds, so they are independent of its turns. The futures of other replies would not do: replies to one prompt share
  the seeds of their futures, so those depend on the same draws. A future without a sibling teaches nothing.
- Each future weighs 1/F, so the subtree of a reply weighs as one rollout whatever its futures' lengths.
- The sum is divided by constants only: the number of replies and the longest reply. Dividing by the number of turns or
  tokens, or by a standard deviation, would make an action's weight depend on the action where the policy decides when
  the conversation ends. (https://github.com/verl-project/verl/issues/7244 derives such a bias for rewards per turn.)

A mean that includes the own sample would scale an advantage by (n - 1)/n, which differs between replies and futures.
Hence the means over the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from collab_agents.graphs.futures import rewards_of
from collab_agents.training.calls import Call
from collab_agents.training.rewards import Scored


@dataclass(frozen=True)
class Turn:
    """A turn of the policy in a future."""

    reply: int
    """The index, in its batch, of the reply that the future follows."""
    future: int
    """The index of the future."""
    call: Call
    advantage: float | None
    """The future's reward minus the mean of its siblings, times the reply's number of futures over those that count.
    None without a sibling."""


def leave_one_out(values: Sequence[float | None]) -> list[float]:
    """Return each value minus the mean of the others; 0 for None, and for one that is alone."""
    known = [value for value in values if value is not None]
    total, others = sum(known), len(known) - 1
    return [0.0 if value is None or not others else value - (total - value) / others for value in values]


def turns_of(replies: Sequence[Scored]) -> list[Turn]:
    """Return the policy's turns in the futures that count, in order; each is to weigh 1 / number of futures."""
    turns = []
    for index, reply in enumerate(replies):
        rewards = rewards_of(reply.result.get("futures", []))
        counted = sum(reward is not None for reward in rewards)
        for future, advantage in enumerate(leave_one_out(rewards)):
            if rewards[future] is not None:
                credit = advantage * len(rewards) / counted if counted > 1 else None
                turns += [Turn(index, future, call, credit) for call in reply.calls[future]]
    return turns
