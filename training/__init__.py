"""How an assistant learns from scored trajectories. Imports `collab_agents` and `collab_agents.graphs`."""
