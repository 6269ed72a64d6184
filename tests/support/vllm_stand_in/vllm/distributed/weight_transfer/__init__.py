"""Sending weights to a server."""
