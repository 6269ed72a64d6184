"""Draw one turn of a trajectory as SVG: the user's message, the candidates, their futures and rewards.

docs/tree.svg was made by

    collab-agents generate --config docs/tree.yaml --out runs/tree
    python docs/draw_tree.py runs/tree --task offline-test-001 > docs/tree.svg
"""

import argparse
import textwrap
from xml.sax.saxutils import escape

from collab_agents import read_trajectories
from collab_agents.trajectories import Candidate, Future, Message, Turn

WIDTH = 960
MARGIN, GAP, PAD = 20, 14, 10
USER = (MARGIN, 180)
CANDIDATE = (240, 340)
FUTURE = (620, WIDTH - 620 - MARGIN)
"""Each column's left edge and width, in pixels."""

SIZE, LINE = 13, 18
LONGEST = 8
"""Lines of a reply that are shown."""

STYLE = """
    text { font-family: sans-serif; font-size: 13px; fill: #1f2328; }
    .head { font-weight: bold; }
    .soft { fill: #59636e; }
    .number { font-weight: bold; text-anchor: end; }
    rect { fill: #f6f8fa; stroke: #d1d9e0; }
    path { fill: none; stroke: #8c959f; stroke-width: 1.5; }
    .page { fill: #ffffff; }
    .chosen { fill: #dafbe1; stroke: #1a7f37; stroke-width: 2; }
    path.chosen { fill: none; }
"""


def text_of(message: Message) -> str:
    """The words of a message on one line, without control characters."""
    words = " ".join(str(message["content"] or "").split())
    return "".join(character for character in words if character.isprintable())


def wrapped(text: str, width: float, lines: int) -> list[str]:
    """The text in at most so many lines of the width. A character of a sans-serif font is taken to be 0.54 em wide."""
    wide = int(width / (0.54 * SIZE))
    return textwrap.wrap(text, wide, max_lines=lines, placeholder=" …") or ["(nothing)"]


def number(value: float | None) -> str:
    return "no score" if value is None else f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}"{_class(kind)}>{escape(words)}</text>'


def box(column: tuple[int, int], y: float, height: float, kind: str = "") -> str:
    x, width = column
    return f'<rect x="{x}" y="{y:g}" width="{width}" height="{height:g}" rx="6"{_class(kind)}/>'


def curve(left: float, y: float, right: float, to: float, kind: str = "") -> str:
    middle = (left + right) / 2
    return f'<path d="M{left:g},{y:g} C{middle:g},{y:g} {middle:g},{to:g} {right:g},{to:g}"{_class(kind)}/>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def block(column: tuple[int, int], y: float, head: str, reward: str, lines: list[str], kind: str) -> tuple[str, float]:
    """A box with a heading, a number at its right and lines of text, and its height."""
    x, width = column
    height = 2 * PAD + LINE * (1 + len(lines)) - 4
    parts = [box(column, y, height, kind), text(x + PAD, y + PAD + 11, head, "head")]
    if reward:
        parts.append(text(x + width - PAD, y + PAD + 11, reward, "number"))
    parts += [text(x + PAD, y + PAD + 11 + LINE * i, line) for i, line in enumerate(lines, 1)]
    return "\n".join(parts), height


def future_lines(future: Future) -> list[str]:
    """How a future began and ended, and the judges' scores."""
    if future.error:
        return wrapped(future.error, FUTURE[1] - 2 * PAD, 2)
    said = [one for one in future.messages if one["role"] in ("user", "assistant")]
    shown = [f"{one['role']}: {text_of(one)}" for one in (said[0], said[-1])] if said else []
    if len(said) > 2:
        shown[1] = f"… {shown[1]}"
    lines = [wrapped(one, FUTURE[1] - 2 * PAD, 1)[0] for one in (shown if len(said) > 1 else shown[:1])]
    scores = ", ".join(f"{name} {number(value)}" for name, value in future.scores.items())
    return [*lines, *wrapped(scores, FUTURE[1] - 2 * PAD, 1)]


def row(index: int, candidate: Candidate, chosen: bool, y: float) -> tuple[str, float, float]:
    """A candidate and its futures, their height, and where the candidate's middle is."""
    kind = "chosen" if chosen else ""
    head = f"Candidate {index}" + (", proactive" if candidate.proactive else "") + (", chosen" if chosen else "")
    reply = candidate.error or " ".join(text_of(one) for one in candidate.messages)
    lines = wrapped(reply, CANDIDATE[1] - 2 * PAD, LONGEST)
    _, tall = block(CANDIDATE, 0, head, "", lines, kind)

    parts, middles, end = [], [], y
    for place, future in enumerate(candidate.futures):
        drawn, height = block(FUTURE, end, f"Future {place}", number(future.reward), future_lines(future), "")
        parts.append(drawn)
        middles.append(end + height / 2)
        end += height + GAP
    height = max(tall, end - GAP - y)
    start = y + (height - tall) / 2
    drawn, _ = block(CANDIDATE, start, head, number(candidate.reward), lines, kind)
    middle = start + tall / 2
    parts += [drawn, *(curve(sum(CANDIDATE), middle, FUTURE[0], to) for to in middles)]
    return "\n".join(parts), height, middle


def draw(turn: Turn, title: str) -> str:
    top = MARGIN + 2 * LINE
    parts, middles, y = [], [], float(top)
    for index, candidate in enumerate(turn.candidates):
        drawn, height, middle = row(index, candidate, index == turn.chosen, y)
        parts.append(drawn)
        middles.append(middle)
        y += height + 2 * GAP
    bottom = y - 2 * GAP

    words = wrapped(text_of(turn.prompt[-1]), USER[1] - 2 * PAD, 12)
    _, tall = block(USER, 0, "User", "", words, "")
    start = max(top, top + (bottom - top - tall) / 2)
    asked, _ = block(USER, start, "User", "", words, "")
    middle = start + tall / 2
    # The chosen one's last, so that no other line is drawn over it.
    order = sorted(range(len(middles)), key=lambda i: i == turn.chosen)
    lines = [curve(sum(USER), middle, CANDIDATE[0], middles[i], "chosen" if i == turn.chosen else "") for i in order]
    heads = [(USER, "Message"), (CANDIDATE, "Candidates, with mean rewards"), (FUTURE, "Futures, with rewards")]
    height = max(bottom, start + tall) + MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:g}" rx="10"/>',
            *(text(column[0], MARGIN + LINE, words, "soft") for column, words in heads),
            *lines,
            asked,
            *parts,
            "</svg>",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run directory")
    parser.add_argument("--task", help="the task's id; by default the first in the run")
    parser.add_argument("--turn", type=int, default=0, help="which turn of the assistant, from 0")
    given = parser.parse_args()
    for trajectory in read_trajectories(given.run):
        if given.task in (None, trajectory.task.id):
            print(draw(trajectory.turns[given.turn], f"{trajectory.task.id}, turn {given.turn}"))
            return
    parser.error(f"{given.run} has no trajectory of the task {given.task!r}")


if __name__ == "__main__":
    main()
