"""Personas: who the simulated user is. Those that ship, those of a file or dataset, and how they are drawn."""

from collab_agents.personas.library import PERSONAS, get_personas
from collab_agents.personas.load import load_personas
from collab_agents.personas.persona import Persona
from collab_agents.personas.sampling import pick_persona, sample_personas

__all__ = ["PERSONAS", "Persona", "get_personas", "load_personas", "pick_persona", "sample_personas"]
