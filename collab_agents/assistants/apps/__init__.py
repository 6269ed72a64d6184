"""Existing LangGraph apps as assistants: run on branches with simulated tools, and executed once a reply is chosen."""
