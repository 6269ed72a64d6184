"""`export`: write a model as a GGUF file, and say how to run it."""

from pathlib import Path

from rich.console import Console

from collab_agents.training.export import GGUFType, export_gguf


def export(model: str, gguf: Path, kind: GGUFType) -> None:
    modelfile = export_gguf(model, gguf, kind=kind)
    size = gguf.stat().st_size / 1e6
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{gguf} has {size:,.1f} MB.")
    console.print(f"Ollama: ollama create {gguf.stem} -f {modelfile}")
    console.print(f"llama.cpp: llama-server -m {gguf} --jinja")
    if "TEMPLATE" not in modelfile.read_text(encoding="utf-8"):
        console.print(
            f"The chat template cannot be written for Ollama, which guesses one: compare it (ollama show --template "
            f"{gguf.stem}), and give TEMPLATE in {modelfile}.",
            style="yellow",
        )
