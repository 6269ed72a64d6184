class HiddenFromApps:
    """Marks a runtime context that is not passed on to the apps inside the graph."""
