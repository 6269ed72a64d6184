"""Chat models by name: "openai:<model>", "huggingface:<repo>", "local:<repo or path>", "local:smollm2"."""

import asyncio
import os
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from pydantic import BaseModel, SecretStr, ValidationError

from collab_agents._internal.reasons import first_problem, nearest
from collab_agents._internal.secrets import remember_environment, remember_secret, secrets_in_url
from collab_agents.errors import ConfigError, ModelError
from collab_agents.models.limits import LimitedChatModel, Limits, status_of, usage_of
from collab_agents.usage import record_usage

Provider = Callable[..., LimitedChatModel]

POLICY = "policy"
"""The name of the model in training, in an app that is trained."""


def load_chat_model(
    name: str,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    limits: Limits | None = None,
    **options: Any,
) -> LimitedChatModel:
    """Load a chat model that keeps to `limits`, retries transient failures, and counts its calls and tokens.

    Nothing is sent to the server yet; `check_chat_model` does that.

    Args:
        name: One of these:

            - "openai:<model>": OpenAI or, with `base_url`, any server with its API (a `ChatOpenAI`).
            - "huggingface:<repo>": Hugging Face's inference providers or, with `base_url`, an endpoint.
            - "local:<repo or folder>": a model in this process; concurrent calls are generated together.
            - "local:smollm2": the embedded SmolLM2-135M-Instruct.
            - "<provider>:<model>": any other provider of LangChain's `init_chat_model`, such as "anthropic:...". Its
              package reads its key from the environment.
            - "policy": the model in training, in an app that is trained (`train_grpo`).
        base_url: The address of a server with the provider's API.
        api_key: By default OPENAI_API_KEY or HF_TOKEN from the environment. Those are sent to their own providers
            only: a server at `base_url` gets a key only if it is given here.
        limits: The limits of the model's calls.
        **options: Fields of the LangChain class, such as `temperature`, `max_tokens` (tokens) and `top_p`.

    Raises:
        ConfigError: For an unknown provider or option, or a missing key, package or folder.

    Example:
        model = load_chat_model("openai:gpt-4o-mini", temperature=0.7)
        served = load_chat_model("openai:Qwen/Qwen3-8B", base_url="http://localhost:8000/v1")
    """
    provider, separator, model = name.partition(":")
    if name != POLICY and (not separator or not model):
        raise _unknown(name, provider)
    remember_environment()
    remember_secret(api_key)
    if base_url is not None:
        _check_url(name, base_url)
    try:
        make: Provider = _policy if name == POLICY else PROVIDERS.get(provider, _other)
        return make(name, model, base_url, api_key, limits, options)
    except ValidationError as error:
        raise ConfigError(f"model {name!r}: {first_problem(error)}") from error


def _openai(
    name: str, model: str, base_url: str | None, api_key: str | None, limits: Limits | None, options: dict[str, Any]
) -> LimitedChatModel:
    from collab_agents.models.openai import LimitedChatOpenAI

    key = api_key or (None if base_url else os.environ.get("OPENAI_API_KEY"))
    if not key and not base_url:
        raise ConfigError(f"model {name!r} needs an API key: set OPENAI_API_KEY, or give base_url for your own server")
    limits = limits or Limits()
    _check_options(name, options, LimitedChatOpenAI)
    return LimitedChatOpenAI(
        model=model,
        base_url=base_url,
        api_key=SecretStr(key or "none"),
        sends_key=bool(key),
        max_retries=0,
        timeout=limits.timeout,
        limits=limits,
        label=label_of(name, base_url),
        **options,
    )


def _huggingface(
    name: str, model: str, base_url: str | None, api_key: str | None, limits: Limits | None, options: dict[str, Any]
) -> LimitedChatModel:
    if base_url is not None:  # Hugging Face's inference servers have OpenAI's API, under /v1.
        address = base_url.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
        served = _openai(name, model, f"{address}/v1", api_key, limits, options)
        return served.model_copy(update={"label": label_of(name, base_url)})
    try:
        from collab_agents.models.huggingface import LimitedChatHuggingFace, connect
    except ImportError as error:
        raise _needs_extra(name, error) from error

    api_key = api_key or os.environ.get("HF_TOKEN")
    if not api_key:
        raise ConfigError(f"model {name!r} needs an access token: set HF_TOKEN, or give base_url for your own server")
    _check_options(name, options, LimitedChatHuggingFace, also=["provider"])
    return connect(model, api_key=api_key, limits=limits or Limits(), label=name, **options)


def _other(
    name: str, model: str, base_url: str | None, api_key: str | None, limits: Limits | None, options: dict[str, Any]
) -> LimitedChatModel:
    from collab_agents.models.foreign import limited

    provider = name.partition(":")[0]
    try:
        from langchain.chat_models import init_chat_model
    except ImportError as error:
        raise _unknown(name, provider) from error
    limits = limits or Limits()
    # Your own server must not get the provider's key, which the package would take from the environment.
    key = api_key or ("none" if base_url else None)
    given: dict[str, Any] = {"base_url": base_url, "api_key": key, "timeout": limits.timeout, "max_retries": 0}
    chosen = {name: value for name, value in given.items() if value is not None} | options
    try:
        inner = init_chat_model(model, model_provider=provider, **chosen)
    except ImportError as error:
        raise ConfigError(f"model {name!r}: {str(error).splitlines()[0]}") from error
    except ValidationError:
        raise
    except ValueError as error:
        if "provider" in str(error):
            raise _unknown(name, provider) from error
        raise ConfigError(f"model {name!r}: {str(error).splitlines()[0]}") from error
    return limited(inner, limits).model_copy(update={"label": label_of(name, base_url)})


def _unknown(name: str, provider: str) -> ConfigError:
    known = "openai:<model>, huggingface:<repo>, local:<repo or folder>"
    return ConfigError(
        f"model {name!r} is not one of {known}, or, with pip install langchain, another provider of init_chat_model"
        f"{nearest(provider, PROVIDERS)}"
    )


def _local(
    name: str, model: str, base_url: str | None, api_key: str | None, limits: Limits | None, options: dict[str, Any]
) -> LimitedChatModel:
    _check_served_here(name, base_url, api_key)
    try:
        from collab_agents.models.local import ENGINE_OPTIONS, LocalChatModel, load_local

        _check_options(name, options, LocalChatModel, also=ENGINE_OPTIONS)
        return load_local(model, limits=limits, label=name, **options)
    except ImportError as error:
        raise _needs_extra(name, error) from error


def _policy(
    name: str, model: str, base_url: str | None, api_key: str | None, limits: Limits | None, options: dict[str, Any]
) -> LimitedChatModel:
    from collab_agents.models.local import local_limits
    from collab_agents.models.policy import PolicyChatModel

    _check_served_here(name, base_url, api_key)
    _check_options(name, options, PolicyChatModel)
    options = {"cache": False, **options}  # What is not sampled cannot be learnt from.
    return PolicyChatModel(model_name=name, label=name, limits=local_limits(limits), **options)


def _check_served_here(name: str, base_url: str | None, api_key: str | None) -> None:
    if base_url or api_key:
        raise ConfigError(f"model {name!r} runs in this process and takes neither base_url nor api_key")


PROVIDERS: dict[str, Provider] = {
    "openai": _openai,
    "huggingface": _huggingface,
    "local": _local,
}


async def check_chat_model(model: BaseChatModel) -> None:
    """Ask the model for one word, to check that it answers.

    A server that answers that it is busy passes. Models of other libraries, and models in this process, are not asked.
    The call is counted like any other, see `track_usage`.

    Raises:
        ModelError: If the model cannot be reached (in two attempts), refuses the key or the request, or does not
            exist.
    """
    if not isinstance(model, LimitedChatModel) or model.label.startswith("local:"):
        return
    seed = {"seed": 0} if model.seeded else {}
    for last in (False, True):
        try:
            async with asyncio.timeout(model.limits.timeout):
                result = await model._request([HumanMessage("Say: ok")], None, None, **seed)
            record_usage(usage_of(result.generations[0].message), model=model.counted_as)
            return
        except Exception as error:
            status = status_of(error)
            if status is not None and model.is_transient(error):
                return
            if last or not model.is_transient(error):
                raise ModelError(model.reason_for(error)) from error


async def check_chat_models(models: Iterable[BaseChatModel], *, calls_from_here: bool = True) -> None:
    """Check the models at the same time, see `check_chat_model`.

    Args:
        models: The models.
        calls_from_here: Whether this machine will call them. If not, a model at localhost is another one for each
            machine that calls it, and is not asked.
    """
    asked = [model for model in models if calls_from_here or not _is_at_localhost(model)]
    await asyncio.gather(*map(check_chat_model, asked))


def _is_at_localhost(model: BaseChatModel) -> bool:
    if not isinstance(model, LimitedChatModel):
        return False
    host = urlsplit(model.counted_as.partition(" at ")[2]).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def label_of(name: str, base_url: str | None) -> str:
    """Return the name of a model and of the server at `base_url`, if it has one."""
    return f"{name} at {urlsplit(base_url)._replace(query='', fragment='').geturl()}" if base_url else name


def _check_url(name: str, base_url: str) -> None:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"model {name!r}: base_url {base_url!r} is not an address such as http://localhost:8000/v1")
    if parts.username or parts.password:
        raise ConfigError(f"model {name!r}: base_url holds a password; give it as api_key (api_key_env in run.yaml)")
    for secret in secrets_in_url(base_url).values():
        remember_secret(secret)


_ELSEWHERE = {
    "limits": {"timeout", "request_timeout", "max_retries", "rate_limiter"},
    "base_url": {"openai_api_base"},
    "api_key (api_key_env in run.yaml)": {"openai_api_key", "huggingfacehub_api_token"},
    "the model's name": {"model", "model_name", "model_id", "label", "llm", "tokenizer"},
}


def _check_options(name: str, options: Iterable[str], cls: type[BaseModel], also: Iterable[str] = ()) -> None:
    known = {*cls.model_fields, *(field.alias for field in cls.model_fields.values() if field.alias), *also}
    for option in options:
        for place, names in _ELSEWHERE.items():
            if option in names:
                raise ConfigError(f"model {name!r}: the option {option!r} is set by {place}")
        if option not in known:
            raise ConfigError(f"model {name!r} has no option {option!r}{nearest(option, known)}")


def _needs_extra(name: str, error: ImportError) -> ConfigError:
    return ConfigError(f"model {name!r} needs pip install 'collab-agents[local]' ({error.name or error} is missing)")
