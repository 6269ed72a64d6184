"""What a notebook shows at the end of a cell."""

from html.parser import HTMLParser
from pathlib import Path

from IPython.core.formatters import HTMLFormatter

from collab_agents import Persona, ScriptedUser, Task, generate_trajectories
from collab_agents.judges import token_cost
from collab_agents.rewards import MultiturnReward
from collab_agents.view.table import RunTable
from tests.support.participants import SHORT


async def test_trajectories_turns_and_runs_are_shown_with_their_text_escaped(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trajectories = generate_trajectories(
        [Task(id="t", goal="<b>goal</b>")],
        user=ScriptedUser(["<script>alert(1)</script>", "Shorter."]),
        assistant=SHORT,
        reward=MultiturnReward({"token_cost": token_cost()}),
        personas=[Persona(name="brief")],
        out=run,
    )
    (found,) = [one async for one in trajectories]
    table, shown = RunTable(run), HTMLFormatter()
    assert table.refresh()
    for value, text in ((found, "<b>goal</b>"), (found.turns[0], "<script>alert(1)</script>"), (table, "trajectories")):
        html = shown(value)
        assert html is not None
        read = _Reader()
        read.feed(html)
        assert text in read.text
        assert not {"script", "b"} & read.tags


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text, self.tags = "", set[str]()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data
