"""A rollout: at every turn, sample candidate replies, look ahead after each, and continue with the best one."""

from dataclasses import asdict

from langgraph.errors import GraphBubbleUp
from langgraph.graph import END, StateGraph
from langgraph.types import Send

from collab_agents._internal.reasons import reason_of
from collab_agents._internal.seeds import derive_seed
from collab_agents.assistants import Assistant
from collab_agents.assistants.apps.threads import Saver
from collab_agents.errors import RolloutError
from collab_agents.graphs.allocation import (
    allocate_node,
    branch_further,
    components_of,
    expect_node,
    expected_of,
    further_node,
    merged,
)
from collab_agents.graphs.candidates import plan_candidates, record_candidate
from collab_agents.graphs.conversation import Graph
from collab_agents.graphs.futures import counts
from collab_agents.graphs.lookahead import create_candidate_graph, future_node
from collab_agents.graphs.nodes import (
    Node,
    counted,
    ends_with_user,
    inside,
    judge_node,
    opening,
    running,
    turn_of,
    user_node,
)
from collab_agents.graphs.picture import compiled
from collab_agents.graphs.states import (
    ConversationInput,
    RolloutState,
    ServedInput,
    State,
    Update,
    branch_of,
    task_of,
)
from collab_agents.humans import check_simulated
from collab_agents.lookahead import Lookahead
from collab_agents.messages import to_dicts
from collab_agents.rewards import MultiturnReward, best_in
from collab_agents.trajectories import Turn
from collab_agents.users import AnyUser, as_user
from collab_agents.value import ValueModel, value_of


def create_rollout_graph(
    user: AnyUser,
    assistant: Assistant,
    reward: MultiturnReward,
    lookahead: Lookahead | None = None,
    *,
    simulated_user: AnyUser | None = None,
    value: ValueModel | None = None,
    scene: Node | None = None,
    continues: bool = False,
    checkpointer: Saver | None = None,
) -> Graph:
    """Create a graph that runs one conversation with lookahead and records it.

    At each turn it samples `candidates` replies, the last `proactive_ratio` of them with the assistant's proactive
    prompt, gives each the mean reward of `futures` futures of `window` exchanges, and continues with the best. With
    `allocation: adaptive`, further futures follow for the candidates of a turn that is not decided yet. The user's next
    message is taken from the best candidate's first future that counts, so that nothing is simulated twice.

    Its input is that of `create_conversation_graph`. Its output is `messages`, `stopped`, `turns` (a record of each
    turn with its candidates and futures), `reward` and `scores` of the finished conversation, and `usage`.

    Args:
        user: Plays the user in the conversation.
        assistant: Gives the candidate replies, and plays the assistant in their futures.
        reward: Scores each future and the finished conversation.
        lookahead: How many candidates and futures, and how long; by default `Lookahead()`.
        simulated_user: Plays the user in the futures; by default `user` does. If it is another user, it knows only
            the messages of the conversation, and `user` is asked after every choice. A `HumanUser` needs one.
        value: Expects rewards of candidates before their futures, by default `lookahead.value` if that is given. The
            choice and the allocation then take both into account. Calling the graph with a task that the value model
            learned from raises RolloutError.
        scene: A node that runs first and adds to the state what the input lacks. No memory is then taken from the
            input.
        continues: Whether the input may be the state after any turn of such a rollout, which then goes on.
        checkpointer: Keeps the state. A thread then holds one rollout, and the input has `task` and `persona` as
            dicts.

    Returns:
        The compiled graph. Calling it raises RolloutError if no candidate of a turn can be scored.

    Raises:
        ConfigError: If a person would have to play futures.

    Example:
        graph = create_rollout_graph(LLMUser(model), ChatAssistant(model), reward, Lookahead(candidates=3))
        state = await graph.ainvoke({"task": task, "messages": []})
        state["turns"][0]["chosen"]
    """
    lookahead = lookahead or Lookahead()
    reward = reward.reviewing() if lookahead.drop_faulty else reward
    value = value or value_of(lookahead)
    player = user if simulated_user is None else simulated_user
    own_futures = player is user
    check_simulated(player, instead="pass simulated_user, who plays the futures")
    check_simulated(assistant, instead="pass a simulated one, which plays the candidates and the futures")

    async def fan_out(state: State) -> list[Send]:
        if value and (problem := value.problem_with(task_of(state))):
            raise RolloutError(f"task {task_of(state).id!r}: {problem}")
        turn = derive_seed(state.get("seed", 0), "turn", state.get("exchanges", 0))
        branch = branch_of(state) | ({} if own_futures else {"memory": {}})
        return [Send("candidate", branch | asdict(sample)) for sample in plan_candidates(lookahead, turn)]

    async def begin(state: State) -> str | list[Send]:
        return await fan_out(state) if ends_with_user(state) else "simulated_user"

    async def after_user(state: State) -> str | list[Send]:
        return "judge" if state.get("stopped") else await fan_out(state)

    async def after_allocation(state: State) -> str | list[Send]:
        return branch_further(state, own_futures=own_futures) or "choose"

    async def after_choice(state: State) -> str | list[Send]:
        return "judge" if state.get("stopped") else await begin(state)

    candidate_graph = create_candidate_graph(as_user(player), assistant, reward, lookahead)
    given: type[ServedInput] = ServedInput if scene else RolloutState if continues else ConversationInput
    graph = StateGraph(RolloutState, input_schema=given)
    graph.add_node("simulated_user", counted(user_node(as_user(user))))
    graph.add_node("candidate", counted(_candidate_node(candidate_graph)))
    graph.add_node("choose", _choose_node(lookahead, value, own_futures=own_futures))
    graph.add_node("judge", counted(judge_node(reward, assistant)))
    first = after_choice if continues else begin
    graph.add_conditional_edges(opening(graph, scene), first, ["simulated_user", "candidate", *["judge"] * continues])
    graph.add_conditional_edges("simulated_user", after_user, ["candidate", "judge"])
    weighed = "candidate"
    if value is not None:
        graph.add_node("expect", expect_node(value))
        graph.add_edge(weighed, "expect")
        weighed = "expect"
    if lookahead.allocation == "uniform":
        graph.add_edge(weighed, "choose")
    else:
        play = future_node(as_user(player), assistant, reward, lookahead)
        graph.add_node("allocate", allocate_node(lookahead, value))
        graph.add_node("future", counted(further_node(play)))
        graph.add_edge(weighed, "allocate")
        graph.add_conditional_edges("allocate", after_allocation, ["future", "choose"])
        graph.add_edge("future", "allocate")
    graph.add_conditional_edges("choose", after_choice, ["simulated_user", "candidate", "judge"])
    graph.add_edge("judge", END)
    return compiled(graph, "rollout", checkpointer)


def _candidate_node(graph: Graph) -> Node:
    @running(graph)
    async def candidate(state: State) -> Update:
        record = {"index": state["index"], "proactive": state["proactive"], "seed": state["seed"]}
        index = state["index"]
        try:
            end = await graph.ainvoke(
                state, inside(f"candidate {index}", turn=turn_of(state), candidate=index, seed=state["seed"])
            )
        except GraphBubbleUp:
            raise
        except Exception as error:
            failed: dict[str, object] = {
                "reply": [],
                "reward": None,
                "scores": {},
                "futures": [],
                "error": f"candidate {index}: {reason_of(error)}",
            }
            return {"candidates": [record | failed]}
        futures = end["futures"]
        firsts = [first for future, first in zip(futures, end["firsts"], strict=True) if counts(future)]
        record |= {
            "reply": end["messages"][len(state["messages"]) :],
            "assistant_memory": end["assistant_memory"],
            "reward": end["reward"],
            "scores": end["scores"],
            "futures": futures,
            "first": firsts[0] if firsts else None,
            "error": None,
        }
        return {"candidates": [record]}

    return candidate


def _choose_node(lookahead: Lookahead, value: ValueModel | None, *, own_futures: bool) -> Node:
    async def choose(state: State) -> Update:
        candidates = merged(state["candidates"])
        exchanges = state.get("exchanges", 0) + 1
        expected = (expected_of(state) if value else None) or [None] * len(candidates)
        records = [
            record_candidate(one["reply"], proactive=one["proactive"], weighed=one, expected=each, error=one["error"])
            for one, each in zip(candidates, expected, strict=True)
        ]
        adaptive = lookahead.allocation == "adaptive"
        turn = Turn(
            prompt=to_dicts(state["messages"]),
            chosen=0,
            candidates=records,
            first_futures=lookahead.futures if adaptive else None,
            components=components_of(state, candidates, lookahead, value) if adaptive or value else None,
        )
        chosen = best_in([turn])
        if chosen is None:
            reasons = "; ".join(dict.fromkeys(str(one.error) for one in records))
            raise RolloutError(f"turn {exchanges}: no candidate could be scored: {reasons}")
        turn.chosen = chosen
        best = candidates[chosen]
        update: Update = {
            "messages": best["reply"],
            "assistant_memory": best["assistant_memory"],
            "exchanges": exchanges,
            "turns": [turn.model_dump()],
            "candidates": None,
            "expected": None,
        }
        if exchanges >= lookahead.max_exchanges:
            return update | {"stopped": "max_turns"}
        # What another user said in the futures is not taken over.
        first = (best["first"] if own_futures else None) or {}
        return update | first | {"messages": [*best["reply"], *first.get("messages", [])]}

    return choose
