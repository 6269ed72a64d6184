"""Looking at runs in a browser."""
