"""Tell LangChain's tracers where a call is in the tree of a conversation."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager, Callbacks
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config


@contextmanager
def traced(run_name: str | None = None, *, tag: str | None = None, **metadata: object) -> Iterator[None]:
    """Give the runs inside a tag and metadata, and those directly inside a name, if anything traces them."""
    around = var_child_runnable_config.get()
    callbacks = around.get("callbacks") if around else None
    if around is None or not getattr(callbacks, "handlers", callbacks):
        yield
        return
    config: RunnableConfig = {**around, "metadata": {**around.get("metadata", {}), **metadata}}
    if run_name:
        config["run_name"] = run_name
    if tag:
        config["tags"] = [*around.get("tags", ()), tag]
    token = var_child_runnable_config.set(config)
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


def with_handlers(callbacks: Callbacks, handlers: Sequence[BaseCallbackHandler]) -> Callbacks:
    """Return a config's callbacks with more handlers, which everything inside inherits."""
    if isinstance(callbacks, BaseCallbackManager):
        callbacks = callbacks.copy()
        for handler in handlers:
            callbacks.add_handler(handler, inherit=True)
        return callbacks
    return [*(callbacks or ()), *handlers]
