"""Show what a run spends, and check that its limits can be kept."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from collab_agents._internal.text import harmless
from collab_agents.costs import SpendingLimits, has_price
from collab_agents.errors import ConfigError
from collab_agents.models import LimitedChatModel
from collab_agents.usage import Counts, Usage, dollars

_COLUMNS = ("calls", "tokens read", "cached", "written", "dollars")


def check_prices(limits: SpendingLimits, models: Iterable[LimitedChatModel]) -> None:
    """Raise ConfigError if `max_cost` is set and the price of a model is unknown."""
    if limits.max_cost is None:
        return
    for model in models:
        if not has_price(model.counted_as):
            raise ConfigError(
                f"limits.max_cost needs the price of every model, and that of {model.counted_as} is unknown: give it "
                "under prices, in dollars per million tokens"
            )


def usage_table(usage: Usage, title: str) -> Table:
    """Return a table of calls, tokens and dollars: by role, by model, and of all."""
    table = Table(title=Text(title))
    table.add_column("of", overflow="fold")
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for parts in (usage.by_role(), usage.by_model()):
        for name, counts in parts.items():
            table.add_row(Text(harmless(name)), *_cells(counts))
        table.add_section()
    table.add_row("all", *_cells(usage))
    return table


def _cells(counts: Counts) -> list[str]:
    numbers = (counts.calls, counts.input_tokens, counts.cached_tokens, counts.output_tokens)
    return [*(f"{number:,}" for number in numbers), dollars(counts)]
