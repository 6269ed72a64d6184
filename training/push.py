"""Upload a trained adapter or model to the Hub, with a card that says how good it is and how it was made."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.repocard import metadata_load
from pydantic import ValidationError

from collab_agents._internal.reasons import first_problem
from collab_agents._internal.secrets import mask
from collab_agents._internal.text import harmless
from collab_agents.errors import ConfigError
from collab_agents.models.cache import cache_folder
from collab_agents.models.smollm2 import EMBEDDED, HUB_ID
from collab_agents.models.sources import ADAPTER, base_of
from collab_agents.runs.scorecard import Scorecard
from collab_agents.training.card import HeldOutResult, ModelCard
from collab_agents.training.hub import pushing
from collab_agents.training.made_from import read_made_from
from collab_agents.training.records import LOG, records_of, trainings_of
from collab_agents.training.rounds import IMPROVE, Rounds, read_rounds

logger = logging.getLogger(__name__)

_FILES = (
    "config.json",
    "generation_config.json",
    ADAPTER,
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "training_curves.png",
)


def push_model(
    folder: str | Path,
    repo: str,
    *,
    private: bool = True,
    scorecard: str | Path | None = None,
    license: str | None = None,
    base_model: str | None = None,
    include: Sequence[str] = (),
) -> str:
    """Upload a trained adapter or model to the Hub with its tokenizer and a model card, and return its address.

    Args:
        folder: The folder that `train`, `merge` or `save_pretrained` wrote.
        repo: The Hub repository ("owner/name"), created if necessary.
        private: Whether a new repository is private.
        scorecard: The `scorecard.json` of `evaluate`, or its folder; by default the folder's, or that of its round of a
            loop.
        license: The licence's id on the Hub, such as "apache-2.0"; by default the base model's.
        base_model: The Hub repository of the base model, where that is a folder here.
        include: Patterns of further files of the folder, such as "checkpoint-*/*" or "samples.jsonl".

    Raises:
        ConfigError: If the folder has no model, its licence is not known, an adapter's base is not on the Hub, the
            scorecard cannot be read, or the upload fails.
    """
    place = Path(folder)
    adapter = (place / ADAPTER).is_file()
    if not adapter and not ((place / "config.json").is_file() and list(place.glob("*.safetensors"))):
        raise ConfigError(f"{place} has no model: choose a folder that train, merge or save_pretrained wrote")
    files = _files(place, include)
    card = _card(place, repo, scorecard, license, base_model)
    kept: dict[str, bytes | Path] = {str(file.relative_to(place)): file for file in files}
    kept["README.md"] = harmless(mask(card.text())).encode()
    if adapter:
        config = json.loads((place / ADAPTER).read_text(encoding="utf-8"))
        kept[ADAPTER] = json.dumps({**config, "base_model_name_or_path": card.hub["base_model"]}, indent=2).encode()
    api = HfApi()
    with pushing(f"the model {repo!r}", place):
        url = api.create_repo(repo, private=private, exist_ok=True)
        additions = [CommitOperationAdd(name, content) for name, content in kept.items()]
        api.create_commit(repo, additions, commit_message="Upload a model trained with collab-agents")
    return str(url)


def _card(
    place: Path, repo: str, scorecard: str | Path | None, license: str | None, base_model: str | None
) -> ModelCard:
    adapter = (place / ADAPTER).is_file()
    trainings, base = trainings_of(place)
    # An adapter is for the model of its last training. What that was made from is told by the trainings.
    own = base_of(str(place), str(place)) or base
    on_hub, known = _base_on_hub(own, base_model)
    if adapter and on_hub is None:
        raise ConfigError(
            f"{place} is an adapter for {own}, which is not on the Hub: merge it first (collab-agents merge) and push "
            "the model, or say by --base-model where on the Hub its model is"
        )
    licence = {"license": license} if license is not None else known or _licence_in(own)
    if not licence:
        raise ConfigError(
            f"the licence of {on_hub or own or 'the model'} is not known: give yours by --license, such as apache-2.0"
        )
    held_out = _given(Path(scorecard)) if scorecard is not None else _found(place)
    if held_out is None:
        logger.warning("the card of %s has no held-out results: give the scorecard.json of evaluate to have them", repo)
    records = records_of(place)
    rounds = _rounds_of(place)
    log = records / LOG
    return ModelCard(
        name=repo,
        adapter=adapter,
        trainings=trainings,
        base=base,
        made_from=read_made_from(records),
        log=json.loads(log.read_text(encoding="utf-8")) if log.is_file() else [],
        held_out=held_out,
        loop=rounds.config if rounds else None,
        hub={**({"base_model": on_hub} if on_hub else {}), **licence},
    )


def _files(folder: Path, include: Sequence[str]) -> list[Path]:
    for pattern in include:
        if not any(file.is_file() for file in folder.glob(pattern)):
            raise ConfigError(f"--include {pattern!r}: {folder} has no such file")
    found = {file for pattern in (*_FILES, *include) for file in folder.glob(pattern) if file.is_file()}
    return sorted(found)


def _base_on_hub(base: str | None, given: str | None) -> tuple[str | None, dict[str, Any]]:
    """Return the Hub repository of a base model and the licence in its card. None for one that is not there."""
    repo = given or base
    if given is None:
        if base == "smollm2" or (base and Path(base).resolve().is_relative_to(cache_folder() / EMBEDDED)):
            return HUB_ID, {"license": "apache-2.0"}
        if base is None or Path(base).exists() or base.count("/") != 1:
            return None, {}
    try:
        info: Any = HfApi().model_info(str(repo))
    except Exception as error:  # Of many kinds, by what is wrong with the name, the network or the Hub.
        if given is None:
            return None, {}
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"--base-model {given!r} cannot be found on the Hub: {reason}") from error
    return repo, _licence_of(info.card_data.to_dict() if info.card_data else {})


def _licence_in(base: str | None) -> dict[str, Any]:
    """Return the licence in the card of a base model that is a folder."""
    readme = Path(base or "", "README.md")
    return _licence_of(metadata_load(readme) or {}) if base and readme.is_file() else {}


def _licence_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    if not metadata.get("license"):
        return {}
    return {key: metadata[key] for key in ("license", "license_name", "license_link") if metadata.get(key)}


def _given(file: Path) -> HeldOutResult:
    file = file / "scorecard.json" if file.is_dir() else file
    try:
        return HeldOutResult(Scorecard.model_validate_json(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"--scorecard {file}: {error.strerror or error}") from error
    except ValidationError as error:
        raise ConfigError(f"--scorecard {file} is not a scorecard.json of evaluate: {first_problem(error)}") from error


def _rounds_of(folder: Path) -> Rounds | None:
    """Return the record of the loop that a folder is of a round of, if it is."""
    loop = folder.resolve().parent.parent
    return read_rounds(loop) if (loop / IMPROVE).is_file() else None


def _found(folder: Path) -> HeldOutResult | None:
    """Return the scorecard in the folder, or that of the round whose model it is."""
    rounds = _rounds_of(folder)
    if rounds is None:
        return _given(folder) if (folder / "scorecard.json").is_file() else None
    place = folder.resolve()
    loop, own = place.parent.parent, f"{place.parent.name}/{place.name}"
    number = next((one.number for one in rounds.rounds if one.model in (own, f"{own}-model")), None)
    if number is None:
        return None
    if rounds.test is not None and rounds.test.round == number:
        return HeldOutResult(_given(loop / "test").scorecard, "Nothing was chosen on these tasks.")
    if not (place.parent / "scorecard.json").is_file():
        return None
    evaluated = sum(one.reward is not None for one in rounds.rounds)
    remark = f"The best of {evaluated} rounds was chosen on these tasks." if number == rounds.best else ""
    return HeldOutResult(_given(place.parent).scorecard, remark)
