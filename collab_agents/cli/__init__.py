"""The command line, which puts all other packages together."""

from collab_agents.cli.app import main

__all__ = ["main"]
