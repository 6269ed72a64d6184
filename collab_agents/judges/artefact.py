"""Extract what a conversation produced, so that it can be compared with a reference."""

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from pydantic import BaseModel

from collab_agents.models.ask import ask


class Artefact(BaseModel):
    final_completion: str


async def extract_artefact(model: BaseChatModel, question: list[BaseMessage], *, seed: int) -> str:
    return (await ask(model, question, Artefact, seed=seed)).final_completion
