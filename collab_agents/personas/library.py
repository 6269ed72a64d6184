from collections.abc import Sequence

from collab_agents._internal.reasons import nearest
from collab_agents.errors import ConfigError
from collab_agents.personas.persona import Persona

PERSONAS: dict[str, Persona] = {
    persona.name: persona
    for persona in (
        Persona(name="busy-manager", background="You run a team and do this between two meetings.",
                verbosity="terse", tone="brusque", patience=4, disclosure="guarded", typos="sometimes"),
        Persona(name="patient-teacher", background="You teach at a school and like to think aloud.",
                verbosity="chatty", tone="friendly", patience=10, disclosure="open"),
        Persona(name="first-timer", background="You have never done this before and do not know what matters.",
                expertise="novice", tone="friendly", patience=8, changes_of_mind="sometimes"),
        Persona(name="domain-expert", background="You know the subject well and check what you are given.",
                expertise="expert", tone="formal", patience=6, disclosure="normal"),
        Persona(name="shy-student", background="You are a student who is unsure what you may ask for.",
                expertise="novice", verbosity="terse", patience=7, disclosure="guarded"),
        Persona(name="chatty-neighbour", background="You are retired and have all afternoon.",
                verbosity="chatty", tone="friendly", patience=12, disclosure="open", wrong_facts="sometimes"),
        Persona(name="ward-nurse", background="You are a nurse and type this on your phone between two patients.",
                verbosity="terse", patience=3, typos="often"),
        Persona(name="careful-lawyer", background="You are a lawyer. You weigh each word and give nothing away.",
                expertise="expert", tone="formal", patience=9, disclosure="guarded"),
        Persona(name="forgetful-widower", background="You are 83 and live alone. Names and dates slip your mind.",
                expertise="novice", verbosity="chatty", tone="formal", patience=11, typos="sometimes",
                wrong_facts="often"),
        Persona(name="undecided-bride", background="You plan your wedding, and everybody tells you something else.",
                verbosity="chatty", tone="friendly", patience=7, disclosure="open", changes_of_mind="often"),
        Persona(name="angry-customer", background="You have been sent from one hotline to the next all morning.",
                verbosity="chatty", tone="brusque", patience=2, disclosure="normal"),
        Persona(name="teenage-gamer", background="You are fifteen and play a game in the other window.",
                expertise="novice", verbosity="terse", tone="brusque", patience=2, typos="often",
                changes_of_mind="sometimes"),
        Persona(name="night-shift-carer", background="You look after people at night and have not slept enough.",
                verbosity="terse", patience=5, disclosure="open", typos="sometimes", wrong_facts="often"),
        Persona(name="club-secretary", background="You have kept the papers of a sailing club in order for years.",
                expertise="expert", patience=8, disclosure="open"),
        Persona(name="startup-founder", background="You have a new idea every hour and no time for any of them.",
                expertise="expert", verbosity="terse", tone="friendly", patience=3, disclosure="open",
                typos="often", changes_of_mind="often"),
        Persona(name="turkish-shopkeeper", background="You sell spices in Izmir and write when no customer is there.",
                language="Turkish", verbosity="terse", tone="friendly", patience=5, typos="sometimes"),
        Persona(name="brazilian-developer", background="You write software in Recife and know what can be automated.",
                language="Portuguese", expertise="expert", verbosity="normal", tone="friendly", patience=7,
                disclosure="open", typos="sometimes"),
        Persona(name="german-engineer", background="You build bridges near Ulm and want things right the first time.",
                language="German", expertise="expert", verbosity="chatty", patience=6, tone="brusque"),
        Persona(name="japanese-researcher", background="You study sleep in Sendai and do not want to be a burden.",
                language="Japanese", verbosity="normal", tone="formal", patience=12, disclosure="guarded"),
        Persona(name="mexican-grandmother", background="Your granddaughter in Puebla showed you this an hour ago.",
                language="Spanish", expertise="novice", verbosity="chatty", tone="friendly", patience=9,
                wrong_facts="sometimes", changes_of_mind="sometimes"),
        Persona(name="hurried-parent", background="You have five minutes before you fetch your children from school.",
                verbosity="terse", patience=3, disclosure="guarded"),
    )
}  # fmt: skip
"""The built-in personas, by name."""


def get_personas(names: Sequence[str]) -> list[Persona]:
    """Return built-in personas by name.

    Args:
        names: Keys of `PERSONAS`.

    Raises:
        ConfigError: If a name is unknown.
    """
    unknown = [name for name in names if name not in PERSONAS]
    if unknown:
        known = ", ".join(PERSONAS)
        raise ConfigError(f"there is no persona {unknown[0]!r}: choose from {known}{nearest(unknown[0], PERSONAS)}")
    return [PERSONAS[name] for name in names]
