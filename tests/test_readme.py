"""What the README imports is there."""

import ast
import re

from benchmarks.process import ROOT


def test_every_import_of_the_library_in_the_readme_works() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    imports = [
        ast.unparse(node)
        for block in blocks
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("collab_agents")
    ]
    assert imports
    for line in imports:
        exec(line, {})
