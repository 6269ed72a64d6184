"""The graphs that `langgraph dev` serves, the settings of a client, and the scene of a run."""
