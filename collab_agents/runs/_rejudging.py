"""Judging one stored trajectory again, with the records that a rollout makes. Does not know of other trajectories."""

import asyncio
from collections.abc import Collection
from typing import Any

from collab_agents._internal.seeds import derive_seed
from collab_agents.errors import RolloutError
from collab_agents.graphs.candidates import record_candidate
from collab_agents.graphs.futures import means_of, record_future
from collab_agents.graphs.nodes import conversation_of, verdict_of
from collab_agents.judges import Score
from collab_agents.messages import from_dicts
from collab_agents.rewards import MultiturnReward
from collab_agents.trajectories import Candidate, Future, Message, Trajectory, Turn
from collab_agents.usage import Usage, track_usage


class Rejudging:
    """Judges one trajectory again: all its futures, and the conversation as a whole, at once.

    Args:
        reward: Scores them.
        drop_faulty: As in `Lookahead`.
        keep: Judges whose stored scores are kept.
        window: Exchanges in a future. A shorter one was ended by the user, be it without a word. If it is None, the
            trajectory's longest future says it.
    """

    def __init__(
        self, reward: MultiturnReward, *, drop_faulty: bool, keep: Collection[str], window: int | None
    ) -> None:
        self.reward = reward
        self.drop_faulty = drop_faulty
        self.keep = frozenset(keep)
        self.window = window

    async def __call__(self, trajectory: Trajectory) -> Trajectory:
        """Return the trajectory with new scores. Raises RolloutError if nothing could be scored that was played."""
        with track_usage(Usage()) as usage:
            whole, turns = await asyncio.gather(
                self._score(trajectory, trajectory.messages, trajectory, trajectory.seed, stopped=trajectory.stopped),
                self._turns(trajectory),
            )
        update = {name: whole[name] for name in ("reward", "scores", "reasons")}
        judged = trajectory.model_copy(update={**update, "turns": turns, "usage": usage})
        if problem := _problem_in(judged):
            raise RolloutError(problem)
        return judged

    async def _turns(self, trajectory: Trajectory) -> list[Turn]:
        turns = (self._turn(trajectory, turn, number) for number, turn in enumerate(trajectory.turns))
        return await asyncio.gather(*turns)

    async def _turn(self, trajectory: Trajectory, turn: Turn, number: int) -> Turn:
        # The seeds are those of a rollout.
        seed = derive_seed(trajectory.seed, "turn", number)
        candidates = await asyncio.gather(
            *(
                self._candidate(trajectory, turn, candidate, derive_seed(seed, "candidate", index))
                for index, candidate in enumerate(turn.candidates)
            )
        )
        # The variances, and what a value model expected, were of other rewards.
        return turn.model_copy(update={"candidates": candidates, "components": None})

    async def _candidate(self, trajectory: Trajectory, turn: Turn, candidate: Candidate, seed: int) -> Candidate:
        before = [*turn.prompt, *candidate.messages]
        futures = await asyncio.gather(
            *(
                self._future(trajectory, before, future, derive_seed(seed, "future", index))
                for index, future in enumerate(candidate.futures)
            )
        )
        records = [future.model_dump() for future in futures]
        error = None if futures else candidate.error or "it has no futures to judge"
        weighed = means_of(records) | {"futures": records}
        record = record_candidate([], proactive=candidate.proactive, weighed=weighed, error=error)
        return record.model_copy(update={"messages": candidate.messages})

    async def _future(self, trajectory: Trajectory, before: list[Message], future: Future, seed: int) -> Future:
        if future.error is not None and not future.scores:
            return future  # It failed in play, so there is nothing to judge.
        messages = [*before, *future.messages]
        window = _longest(trajectory) if self.window is None else self.window
        stopped = "user" if _has_last_word(future) or _exchanges(future) < window else None
        end = await self._score(trajectory, messages, future, seed, start=len(before), stopped=stopped)
        record = record_future({"messages": [], **end}, 0, drop_faulty=self.drop_faulty)
        return record.model_copy(update={"messages": future.messages})

    async def _score(
        self, trajectory: Trajectory, messages: list[Message], stored: Future | Trajectory, seed: int, **about: object
    ) -> dict[str, Any]:
        """Judge messages, but for the scores to keep, which are in `stored`."""
        kept = {
            name: Score(score, stored.reasons.get(name, ""))
            for name, score in stored.scores.items()
            if name in self.keep and score is not None
        }
        state = {"messages": from_dicts(messages), "persona": trajectory.persona, "seed": seed, **about}
        return verdict_of(await self.reward.score(conversation_of(state), trajectory.task, kept))


def _longest(trajectory: Trajectory) -> int:
    futures = (future for turn in trajectory.turns for candidate in turn.candidates for future in candidate.futures)
    return max(map(_exchanges, futures), default=0)


def _exchanges(future: Future) -> int:
    return sum(map(_is_users, future.messages)) - _has_last_word(future)


def _has_last_word(future: Future) -> bool:
    return bool(future.messages) and _is_users(future.messages[-1])


def _is_users(message: Message) -> bool:
    return message["role"] == "user" and not message.get("internal")


def _problem_in(trajectory: Trajectory) -> str | None:
    """Return why nothing of a turn, or of a conversation without turns, could be scored, or None."""
    for number, turn in enumerate(trajectory.turns, 1):
        futures = [future for candidate in turn.candidates for future in candidate.futures if future.scores]
        if futures and all(future.reward is None for future in futures):
            reasons = dict.fromkeys(candidate.error for candidate in turn.candidates if candidate.error)
            return f"turn {number}: no candidate could be scored: {'; '.join(reasons)}"
    if trajectory.turns or trajectory.reward is not None:
        return None
    unscored = [f"{name}: {trajectory.reasons.get(name)}" for name, score in trajectory.scores.items() if score is None]
    return f"the conversation could not be scored: {'; '.join(unscored)}"
