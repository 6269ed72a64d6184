"""What `langgraph dev` serves: the settings of a client, the scene of a run, and the graphs."""
