"""The command line: the composition root, the one place that imports everything."""

from collab_agents.cli.app import main

__all__ = ["main"]
