"""Models of transformers on OpenVINO: folders, adapters, the Hub, the embedded model, and those it cannot run."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from collab_agents import load_chat_model
from collab_agents.errors import ConfigError
from collab_agents.models import LimitedChatModel
from collab_agents.models.engines.conversion import largest_difference
from collab_agents.models.engines.transformers import TransformersEngine
from collab_agents.models.local import LocalChatModel
from collab_agents.models.smollm2 import smollm2, smollm2_openvino
from tests.support.tiny import adapter_of, tiny_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = [Path(smollm2()), Path(smollm2_openvino())]  # These are made once for all tests.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "collab-agents"
    folder.mkdir(parents=True)
    for one in embedded:
        (folder / one.name).symlink_to(one)


async def words(model: LimitedChatModel) -> str:
    return str((await model.ainvoke("say something", temperature=0.0, max_tokens=24)).content)


async def test_an_adapter_is_merged_and_converted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = tiny_model(tmp_path / "tiny", layers=1)
    adapter = adapter_of(base, tmp_path / "adapter")
    first = load_chat_model(f"local:{adapter}", engine="openvino")
    assert f"model 'local:{adapter}' is converted for OpenVINO, once" in caplog.text
    said = await words(first)
    assert said == await words(load_chat_model(f"local:{adapter}", engine="transformers", dtype="float32"))
    assert said != await words(load_chat_model(f"local:{base}", engine="transformers", dtype="float32"))
    caplog.clear()
    assert await words(load_chat_model(f"local:{adapter}", reproducible=False))
    assert not caplog.records


def test_what_a_killed_conversion_left_is_removed(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "tiny", layers=1)
    code = f"from collab_agents import load_chat_model; load_chat_model('local:{folder}', engine='openvino')"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        while not list(tmp_path.glob("cache/collab-agents/openvino-*.draft-*")):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    load_chat_model(f"local:{folder}", engine="openvino")
    names = [one.name for one in (tmp_path / "cache/collab-agents").glob("openvino-*") if one.is_dir()]
    assert len(names) == 1
    assert "draft" not in names[0]


def test_a_model_that_openvino_cannot_run_runs_on_transformers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(tiny_model(tmp_path / "tiny", layers=1))
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    config = GPT2Config(
        vocab_size=size, n_embd=32, n_layer=1, n_head=2, n_positions=256, bos_token_id=2, eos_token_id=3
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    model = load_chat_model(f"local:{folder}")
    line = f"model 'local:{folder}' runs on transformers, not on openvino: "
    assert line in caplog.text
    assert isinstance(model, LocalChatModel)
    assert isinstance(model.engine, TransformersEngine)
    caplog.clear()
    load_chat_model(f"local:{folder}")
    assert [record.getMessage().startswith(line) for record in caplog.records] == [True]  # It is not tried again.
    with pytest.raises(ConfigError, match=r"cannot run on openvino: .*attention_mask"):
        load_chat_model(f"local:{folder}", engine="openvino")


def test_weights_in_pickles_are_for_transformers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(tiny_model(tmp_path / "tiny", layers=1))
    torch.save(AutoModelForCausalLM.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with caplog.at_level(logging.WARNING):
        load_chat_model(f"local:{folder}")
    assert "not on openvino: it has no weights in safetensors" in caplog.text


def test_the_embedded_model_is_the_same_on_openvino() -> None:
    model = AutoModelForCausalLM.from_pretrained(smollm2(), dtype=torch.float32)
    assert largest_difference(model, Path(smollm2_openvino())) < 0.01


COMMIT = "c" * 40


@pytest.mark.parametrize("engine", ["openvino", "transformers"])
def test_an_adapter_without_its_model_is_refused_in_a_sentence(engine: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(ConfigError, match=r"its model '.*gone'.* (the folder has no config\.json|cannot be loaded)"):
        load_chat_model(f"local:{tmp_path}", engine=engine)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"adapter_config\.json has no base_model_name_or_path of an adapter"):
        load_chat_model(f"local:{tmp_path}", engine=engine)


class Hub(ThreadingHTTPServer):
    """The part of the Hub's API that a download uses, over the files of a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.address = f"http://127.0.0.1:{self.server_port}"
        Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        files = [
            {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}
            for file in self.server.folder.iterdir()
        ]
        api: dict[str, object] = {
            "/api/models/me/tiny/revision/main": {"id": "me/tiny", "sha": COMMIT, "siblings": []},
            f"/api/models/me/tiny/tree/{COMMIT}": files,
        }
        if answer := api.get(self.path.partition("?")[0]):
            body, kind = json.dumps(answer).encode(), "application/json"
        else:
            file = self.server.folder / self.path.rpartition("/")[2]
            if not file.is_file():
                self.send_error(404)
                return
            body, kind = file.read_bytes(), "application/octet-stream"
        self.send_response(200)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "ETag": f'"{abs(hash(self.path))}"',
            "X-Repo-Commit": COMMIT,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub(Path(tiny_model(tmp_path / "hub", layers=1))) as server:
        (server.folder / "notes.md").write_text("not needed")
        yield server
        server.shutdown()


async def test_a_repository_of_the_hub_is_downloaded_and_converted(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    model = load_chat_model("local:me/tiny", engine="openvino")
    plain = load_chat_model(f"local:{hub.folder}", engine="transformers", dtype="float32")
    assert await words(model) == await words(plain)
    names = {file.name for file in (tmp_path / "hf").rglob("snapshots/*/*")}
    assert {"config.json", "model.safetensors"} <= names
    assert "notes.md" not in names
