"""Existing LangGraph apps as assistants: played on branches, with tools simulated, and executed once chosen."""
