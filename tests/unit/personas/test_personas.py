"""Who the simulated user is: what each field does, those that ship, and those that are drawn or read."""

import asyncio
import csv
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage

from benchmarks.process import ROOT, Server
from collab_agents import (
    PERSONAS,
    AgendaUser,
    Persona,
    create_conversation_graph,
    load_personas,
    offline_tasks,
    sample_personas,
)
from collab_agents.config import AgendaUserConfig, PersonasConfig, RunConfig, load_config
from collab_agents.config.build import personas_of
from collab_agents.errors import ConfigError
from collab_agents.messages import text_of
from collab_agents.participants import AssistantContext
from collab_agents.tasks import Agenda, Task
from collab_agents.trajectories import read_trajectories
from collab_agents.users import Memory
from tests.support.commands import exit_code as run

NAMES = sorted({fact["name"] for task in offline_tasks() for fact in task.metadata["agenda"]["facts"]})


class Forgetful:
    """An assistant by rule: it asks openly, asks for everything, and then writes what it was told last."""

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        heard = said_by_user(messages)
        if len(heard) == 1:
            return [AIMessage("What details do you have in mind?")], memory
        if len(heard) == 2:
            return [AIMessage(" ".join(f"What is the {name}?" for name in NAMES))], memory
        draft = (
            "Here is the text, as well as I can write it today, with all that I remember of what you told me just now: "
        )
        return [AIMessage(draft + " ".join(heard[-2:]))], memory


def said_by_user(messages: Sequence[BaseMessage]) -> list[str]:
    return [text_of(message) for message in messages if message.type == "human"]


async def play(persona: Persona, tasks: Sequence[Task]) -> list[dict[str, Any]]:
    graph = create_conversation_graph(AgendaUser(), Forgetful(), max_exchanges=20)
    scenes = [{"task": task, "persona": persona, "messages": [], "seed": i} for i, task in enumerate(tasks)]
    return await asyncio.gather(*(graph.ainvoke(scene) for scene in scenes))


def measured(ends: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What a persona's conversations were like, on average."""
    said = [text for end in ends for text in said_by_user(end["messages"])]
    words = sum(len(text.split()) for text in said)
    agendas = [Agenda.model_validate(end["task"].metadata["agenda"]) for end in ends]
    early = [
        sum(fact.is_in(text) for fact in agenda.facts) / len(agenda.facts)
        for agenda, end in zip(agendas, ends, strict=True)
        for text in [" ".join(said_by_user(end["messages"])[:2])]
    ]
    unhappy = sum(bool(agenda.missing(text_of(end["messages"][-2]))) for agenda, end in zip(agendas, ends, strict=True))
    told = [len(end["memory"]["told"]) / len(agenda.facts) for agenda, end in zip(agendas, ends, strict=True)]
    errors = {name: sum(end["memory"]["errors"][name] for end in ends) for name in HABITS}
    return {
        "exchanges": sum(end["exchanges"] for end in ends) / len(ends),
        "words a message": words / len(said),
        "share of facts told when not asked for one": sum(early) / len(ends),
        "share of facts told": sum(told) / len(ends),
        "share given up": unhappy / len(ends),
        "typos in 100 words": 100 * errors["typos"] / words,
        "wrong facts": errors["wrong_facts"] / len(ends),
        "changes of mind": errors["changes_of_mind"] / len(ends),
    }


HABITS = ("typos", "wrong_facts", "changes_of_mind")
MARGINS = {
    "exchanges": 1.0,
    "words a message": 2.0,
    "share of facts told when not asked for one": 0.15,
    "share of facts told": 0.1,
    "share given up": 0.2,
    "typos in 100 words": 1.0,
    "wrong facts": 0.3,
    "changes of mind": 0.3,
}


async def test_the_shipped_personas_are_many_and_any_two_of_them_differ_by_a_margin() -> None:
    assert len(PERSONAS) >= 16
    assert len({persona.describe() for persona in PERSONAS.values()}) == len(PERSONAS)
    tasks = offline_tasks("test")[:24]
    profiles = {name: measured(await play(persona, tasks)) for name, persona in PERSONAS.items()}
    for (name, one), (other_name, other) in itertools.combinations(profiles.items(), 2):
        apart = [measure for measure, margin in MARGINS.items() if abs(one[measure] - other[measure]) >= margin]
        assert apart, f"{name} and {other_name} are alike: {one}, {other}"


OPPOSITES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "patience": ({"patience": 9}, {"patience": 2}),
    "disclosure": ({"disclosure": "open"}, {"disclosure": "guarded"}),
    "care": ({}, dict.fromkeys(HABITS, "often")),
}


async def test_users_with_opposite_personas_differ_as_documented() -> None:
    tasks = [task for seed in (0, 1) for task in offline_tasks("test", seed=seed)][:67]
    many, few = {}, {}
    for name, (one, other) in OPPOSITES.items():
        guarded = {"disclosure": "guarded"} if name == "patience" else {}
        many[name] = measured(await play(Persona(name="one", **guarded, **one), tasks))
        few[name] = measured(await play(Persona(name="other", **guarded, **other), tasks))
    patient, impatient = many["patience"], few["patience"]
    assert patient["exchanges"] >= impatient["exchanges"] + 5
    assert patient["share of facts told"] >= impatient["share of facts told"] + 0.2
    frank, guarded_one = many["disclosure"], few["disclosure"]
    assert frank["share of facts told when not asked for one"] >= 0.4
    assert guarded_one["share of facts told when not asked for one"] <= 0.26
    assert frank["exchanges"] <= guarded_one["exchanges"] - 2
    careful, careless = many["care"], few["care"]
    assert not any(careful[name] for name in ("typos in 100 words", "wrong facts", "changes of mind"))
    assert careless["typos in 100 words"] >= 3
    assert careless["wrong facts"] >= 1
    assert careless["changes of mind"] >= 1


@pytest.mark.parametrize(("habit", "share"), [("sometimes", 0.15), ("often", 0.4)])
@pytest.mark.parametrize("field", ["wrong_facts", "changes_of_mind"])
async def test_facts_are_first_told_wrong_as_often_as_documented_and_right_in_the_end(
    field: str, habit: str, share: float
) -> None:
    persona = Persona.model_validate(
        {"name": "p", "patience": 19, "disclosure": "open", "verbosity": "chatty", field: habit}
    )
    ends = await play(persona, offline_tasks("train")[:80])
    told = sum(len(end["memory"]["told"]) for end in ends)
    wrong = sum(end["memory"]["errors"][field] for end in ends)
    assert wrong / told == pytest.approx(share, abs=0.06)
    for end in ends:
        assert end["stopped"] == "user"
        assert not Agenda.model_validate(end["task"].metadata["agenda"]).missing(text_of(end["messages"][-2]))
        assert not end["memory"][field]


def test_each_field_but_the_name_changes_the_prompt() -> None:
    other: dict[str, Any] = {
        "background": "You breed parrots.", "expertise": "expert", "patience": 2, "verbosity": "terse",
        "tone": "formal", "language": "Polish", "disclosure": "open", "typos": "often", "wrong_facts": "often",
        "changes_of_mind": "often", "instructions": "Mention parrots.",
    }  # fmt: skip
    assert {"name", *other} == set(Persona.model_fields)
    texts = [Persona.model_validate({"name": "p", field: value}).describe() for field, value in other.items()]
    assert len({Persona(name="p").describe(), *texts}) == len(other) + 1
    page = (ROOT / "docs" / "personas.md").read_text(encoding="utf-8")
    for field in Persona.model_fields:
        assert f"| `{field}` |" in page, f"docs/personas.md says nothing of {field}"


@given(st.integers(0, 12), st.integers(0, 12), st.integers())
def test_a_longer_draw_begins_with_a_shorter_one(short: int, more: int, seed: int) -> None:
    mix = {"patience": {2: 1, 8: 3}, "busy-manager": 1, "first-timer": 2}
    longer = sample_personas(short + more, seed, mix=mix)
    assert sample_personas(short, seed, mix=mix) == longer[:short]
    assert len({persona.name for persona in longer}) == len(longer)


def test_a_mix_says_which_personas_are_drawn_and_with_which_fields() -> None:
    plain = sample_personas(400, 1)
    assert {persona.name for persona in plain} == set(PERSONAS)
    assert plain != sample_personas(400, 2)
    assert all(persona == PERSONAS[persona.name] for persona in plain)

    mix = {"busy-manager": 1, "first-timer": 3.0, "shy-student": 0, "patience": {2: 1, 8: 1}, "typos": {"often": 1}}
    drawn = sample_personas(400, 1, mix=mix)
    timers = [persona for persona in drawn if persona.name.startswith("first-timer-")]
    assert len(timers) == pytest.approx(300, abs=40)
    assert all(persona.name.startswith("busy-manager-") for persona in drawn if persona not in timers)
    assert sum(persona.patience == 2 for persona in drawn) == pytest.approx(200, abs=50)
    assert {(persona.patience, persona.typos) for persona in drawn} == {(2, "often"), (8, "often")}
    assert timers[0].background == PERSONAS["first-timer"].background
    assert sample_personas(9, 1, mix=dict(reversed(mix.items()))) == drawn[:9]

    mine = [Persona(name="anna"), Persona(name="ben")]
    assert {persona.name for persona in sample_personas(20, personas=mine)} == {"anna", "ben"}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"n": -1}, "n must be a whole number of at least 0, got -1"),
        ({"n": 2.5}, "at least 0, got 2.5"),
        ({"personas": []}, "there are no personas to draw from"),
        ({"mix": {"first-tmer": 1}}, "there is no persona 'first-tmer' to draw; did you mean 'first-timer'?"),
        ({"mix": {"patience": 3}}, "of the field 'patience', give the weight of each value"),
        ({"mix": {"patiens": {3: 1}}}, "a persona has no field 'patiens' to draw: use background"),
        ({"mix": {"name": {"x": 1}}}, "a persona has no field 'name' to draw"),
        ({"mix": {"tone": {"shrill": 1}}}, "mix: tone: input should be 'neutral', 'friendly', 'formal' or 'brusque'"),
        ({"mix": {"patience": {0: 1}}}, "mix: patience: input should be greater than 0, got '0'"),
        ({"mix": {"patience": {2: -1}}}, "mix: patience: 2: a weight must be a number of at least 0, got -1"),
        ({"mix": {"first-timer": float("nan")}}, "mix: first-timer: a weight must be a number of at least 0, got nan"),
        ({"mix": {"first-timer": True}}, "mix: first-timer: a weight must be a number of at least 0, got True"),
        ({"mix": {"first-timer": 0}}, "mix: at least one weight must be above 0"),
        ({"mix": {"patience": {2: 0}}}, "mix: patience: at least one weight must be above 0"),
        ({"mix": {"patience": {}}}, "mix: patience: at least one weight must be above 0"),
    ],
)
def test_a_draw_that_cannot_be_made_is_refused_in_a_sentence(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        sample_personas(**{"n": 1, **arguments})
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


ANNA_AND_BEN: list[dict[str, Any]] = [
    {"name": "anna", "patience": 3},
    {"name": "ben", "language": "Dutch", "typos": "often"},
]


def test_personas_are_read_from_yaml_and_jsonl(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(ANNA_AND_BEN))
    (tmp_path / "mine.jsonl").write_text("\n\n".join(json.dumps(one) for one in ANNA_AND_BEN))
    wanted = [Persona.model_validate(one) for one in ANNA_AND_BEN]
    assert list(load_personas(tmp_path / "mine.yaml")) == list(load_personas(tmp_path / "mine.jsonl")) == wanted
    assert list(load_personas(tmp_path / "mine.jsonl", limit=1)) == wanted[:1]
    drawn = list(load_personas(tmp_path / "mine.yaml", mix={"tone": {"formal": 1}}))
    assert drawn == [persona.model_copy(update={"tone": "formal"}) for persona in wanted]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.yaml", "[{name: anna}, {nam: ben}]", "a.yaml: persona 2: name: field required"),
        ("a.yaml", "[{name: anna}, {name: anna}]", "a.yaml: persona 2: the name 'anna' is taken: "),
        ("a.yaml", "{name: anna}", "a.yaml: expected a list of personas, such as [{name: anna, patience: 3}]"),
        ("a.yaml", "[{name: ", "a.yaml: not YAML"),
        ("a.yaml", "[]", "a.yaml: the file has no personas"),
        ("a.jsonl", '{"name": "anna"}\n{"name": "ben", "patience": 0}', "a.jsonl:2: patience: input should be greater"),
        ("a.jsonl", '{"name": "anna"}\n{', "a.jsonl:2: not JSON"),
        ("a.jsonl", '{"persona": "A chef."}', "a.jsonl:1: name: field required"),
    ],
)
def test_a_broken_file_is_named_by_its_place(tmp_path: Path, name: str, text: str, problem: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as error:
        list(load_personas(tmp_path / name))
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_source_of_personas_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"personas '.*none\.yaml': No such file"):
        list(load_personas(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="a file of personas has no revision, got 'v2'"):
        load_personas("mine.yaml", revision="v2")
    with pytest.raises(ConfigError, match="'anna' has a weight, but names are weighted only in a sample"):
        load_personas("mine.yaml", mix={"anna": 1})


HUB = [
    {"persona": "A political analyst who follows the small parties of El Salvador.", "general domain": "Politics"},
    {"persona": "A night porter who writes sonnets.", "general domain": "Arts"},
    {"persona": "A political analyst who follows the small parties of El Salvador.", "general domain": "Politics"},
]


def saved(rows: Sequence[dict[str, str]], file: Path) -> str:
    with open(file, "w", newline="") as lines:
        if file.suffix == ".jsonl":
            lines.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            table = csv.DictWriter(lines, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    return str(file)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_dataset_in_personahubs_form_is_read_by_its_column(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("datasets")
    file = saved(HUB, tmp_path / f"hub.{kind}")
    analyst, porter = load_personas("proj-persona/PersonaHub", data_files=file)
    assert analyst.background == HUB[0]["persona"]
    assert analyst.name.startswith("PersonaHub-")
    assert [one.background for one in load_personas(file, column="persona", limit=1)] == [analyst.background]

    mix = {"patience": {3: 1, 9: 1}, "tone": {"formal": 1, "friendly": 1}}
    drawn = [list(load_personas("hub", data_files=file, mix=mix, seed=seed)) for seed in range(12)]
    assert len({(one.patience, one.tone) for one, _ in drawn}) == 4
    assert {(one.name, one.background) for one, _ in drawn} == {(drawn[0][0].name, analyst.background)}
    again = load_personas("hub", data_files=saved(HUB[1:2], tmp_path / f"porter.{kind}"), mix=mix, seed=5)
    assert list(again) == drawn[5][1:], "a persona is the same whatever stands before it"
    assert porter.background == HUB[1]["persona"]


def test_a_row_without_a_persona_is_named(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    file = tmp_path / "hub.jsonl"
    file.write_text('{"persona": "A chef."}\n{"persona": " "}\n')
    personas = load_personas(file, column="persona")
    assert next(personas).background == "A chef."
    with pytest.raises(ConfigError, match=r"hub\.jsonl: row 1: column 'persona' is ' ': expected a text"):
        next(personas)
    with pytest.raises(ConfigError, match="there is no column 'persna': it has persona; did you mean"):
        next(load_personas(file, column="persna"))


def configured(personas: Any) -> list[Persona]:
    return personas_of(AgendaUserConfig.model_validate({"personas": personas}))


def test_run_yaml_lists_draws_or_reads_its_personas(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(ANNA_AND_BEN))
    source = str(tmp_path / "mine.yaml")
    assert configured(["first-timer", {"name": "anna", "patience": 3}]) == [
        PERSONAS["first-timer"],
        Persona(name="anna", patience=3),
    ]
    assert configured({}) == list(PERSONAS.values())
    mix = {"tone": {"formal": 1}}
    assert configured({"sample": 5, "seed": 2, "mix": mix}) == sample_personas(5, 2, mix=mix)
    assert [persona.name for persona in configured({"source": source})] == ["anna", "ben"]
    assert [(one.name, one.tone) for one in configured({"source": source, "limit": 1, "mix": mix})] == [
        ("anna", "formal")
    ]
    assert {persona.name for persona in configured({"source": source, "sample": 3, "mix": {"ben": 1}})} == {"ben"}


@pytest.mark.parametrize("verb", ["generate", "evaluate"])
def test_a_run_plays_the_personas_it_draws_and_resumes_with_the_same(
    serve: Callable[..., Server], tmp_path: Path, verb: str, capsys: Any
) -> None:
    file, out = tmp_path / "run.yaml", tmp_path / "out"
    config: dict[str, Any] = {
        "assistant": {"model": {"name": "openai:any", "base_url": serve().url}},
        "judges": [{"name": "fact_coverage"}],
        "lookahead": {"candidates": 1, "futures": 1, "window": 0, "max_exchanges": 1},
        "tasks": {"source": "offline", "limit": 6},
        "user": {"personas": {"sample": 4, "seed": 1, "mix": {"patience": {2: 1, 8: 1}}}},
    }
    file.write_text(yaml.safe_dump(config))
    assert run(verb, "--config", file, "--out", out) == 0
    (record,) = out.rglob("run.json")
    kept = json.loads(record.read_text())["config"]["user"]["personas"]
    assert kept == PersonasConfig.model_validate(config["user"]["personas"]).model_dump(mode="json")
    played = [one.persona for one in read_trajectories(record.parent)]
    assert len(played) == 6
    assert all(persona in configured(config["user"]["personas"]) for persona in played)
    assert run(verb, "--config", file, "--out", out, "--resume") == 0
    config["user"]["personas"]["mix"]["patience"][2] = 3
    file.write_text(yaml.safe_dump(config))
    assert run(verb, "--config", file, "--out", out, "--resume") == 1
    assert "was made with user.personas.mix.patience.2 = 1, and now it is 3" in capsys.readouterr().err


def test_the_shipped_personas_are_listed(capsys: Any) -> None:
    assert run("personas") == 0
    listing = capsys.readouterr().out
    for name in PERSONAS:
        assert name in listing
    assert "Portuguese" in listing
    assert "changes_of_mind" in listing


@pytest.mark.parametrize(
    ("personas", "problem"),
    [
        (["first-tmer"], "user.personas.0: there is no persona 'first-tmer': choose from busy-manager"),
        ([{"name": "p", "patience": 0}], "user.personas.0.patience: input should be greater than 0, got '0'"),
        ({"sampel": 3}, "user.personas.sampel: unknown field; did you mean 'sample'?"),
        ({"sample": 0}, "user.personas.sample: input should be greater than 0, got '0'"),
        ({"limit": 3}, "user.personas: limit needs a source, and there is none"),
        ({"mix": {"tone": {"formal": 1}}}, "user.personas: mix needs sample"),
    ],
)
def test_bad_personas_are_refused_with_the_file(tmp_path: Path, personas: Any, problem: str) -> None:
    config = {
        "assistant": {"model": "openai:any"},
        "judges": [{"name": "fact_coverage"}],
        "tasks": {"source": "offline"},
        "user": {"personas": personas},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "run.yaml", RunConfig)
    assert f"{tmp_path / 'run.yaml'}: {problem}" in str(error.value)
