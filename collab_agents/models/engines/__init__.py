"""What runs a chat model in this process: an engine continues many prompts at once."""
