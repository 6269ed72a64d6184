"""Personas describe who the simulated user is. They are built in, loaded from files and datasets, or sampled."""

from collab_agents.personas.library import PERSONAS, get_personas
from collab_agents.personas.load import load_personas
from collab_agents.personas.persona import Persona
from collab_agents.personas.sampling import pick_persona, sample_personas

__all__ = ["PERSONAS", "Persona", "get_personas", "load_personas", "pick_persona", "sample_personas"]
