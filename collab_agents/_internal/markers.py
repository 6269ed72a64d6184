class HiddenFromApps:
    """Marks a runtime context that is not handed on to the apps that run inside the graph."""
