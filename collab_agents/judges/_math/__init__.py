"""Mathematical equality, decided in worker processes that can be killed."""
