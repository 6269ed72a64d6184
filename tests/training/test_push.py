"""Pushing a dataset or a model to the Hugging Face Hub: what arrives there, and what is said when it cannot."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import ModelCard, constants

from collab_agents.runs.scorecard import AssistantResult, Difference, Estimate, Scorecard, SetScores
from collab_agents.training import merge_adapter
from collab_agents.training.made_from import MadeFrom, Spread
from collab_agents.training.rounds import HeldOut, Mean, Round, Rounds, write_rounds
from collab_agents.training.rounds import Test as FinalTest
from tests.support.commands import run
from tests.support.tiny import adapter_of, tiny_model
from tests.support.trajectories import trajectory


class Hub(ThreadingHTTPServer):
    """The part of the Hub's API that an upload of a folder of small files uses."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.licences: dict[str, dict[str, Any]] = {}
        """The metadata of the card of each repository that is there."""
        self.address = f"http://127.0.0.1:{self.server_port}"
        Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer hf_right":
            self._answer({"error": "Invalid username or password."}, 401)
        elif self.path.startswith("/api/repos/create"):
            self.server.created.append(made := json.loads(body))
            name = f"{made['organization']}/{made['name']}"
            kind = "datasets/" if made.get("type") == "dataset" else ""
            self._answer({"url": f"{self.server.address}/{kind}{name}", "name": name})
        elif "/preupload/" in self.path:
            files = [one["path"] for one in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]
            self._answer({"files": modes})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            place = self.path.removeprefix("/api/").removeprefix("models/").partition("/commit/")[0]
            self._answer({"commitUrl": f"{self.server.address}/{place}/commit/0", "commitOid": "0"})
        else:
            self._answer({"errors": [], "warnings": []})

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/")
        if name in self.server.licences:
            self._answer({"id": name, "cardData": self.server.licences[name]})
        else:
            self._answer({"error": "not found"}, 404)

    def _answer(self, value: Any, status: int = 200) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        yield server
        server.shutdown()


@pytest.mark.parametrize("token", ["hf_right", "hf_wrong"])
def test_a_dataset_is_pushed_to_the_hub_or_kept_with_the_reason(hub: Hub, tmp_path: Path, token: str) -> None:
    lines = [trajectory(f"t{i}", 0.1, 0.9).model_dump_json() + "\n" for i in range(3)]
    (tmp_path / "trajectories.jsonl").write_text("".join(lines))
    command = [sys.executable, "-m", "collab_agents", "dataset", "--from", "trajectories.jsonl", "--kind", "preference"]
    done = subprocess.run(
        [*command, "--out", "pairs", "--push-to-hub", "me/pairs"],
        cwd=tmp_path,
        env={**os.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": token},
        capture_output=True,
        text=True,
    )
    assert (tmp_path / "pairs" / "data" / "train.parquet").exists()
    if token == "hf_right":
        assert done.returncode == 0, done.stderr
        assert set(hub.files) == {"README.md", "data/train.parquet"}
        assert hub.files["data/train.parquet"] == (tmp_path / "pairs/data/train.parquet").read_bytes()
        assert hub.created[0]["type"] == "dataset"
        assert hub.created[0]["visibility"] == "private"
        assert "Pushed to" in done.stdout
    else:
        assert done.returncode == 1
        assert "the dataset 'me/pairs' cannot be pushed:" in done.stderr
        assert "it is saved in pairs" in done.stderr


def trained(folder: Path, base: str) -> None:
    """What a training leaves in its folder."""
    adapter_of(base, folder)
    config = {
        "method": "dpo",
        "model": {"name": base, "lora": {"r": 4}},
        "trainer": {"max_steps": 2, "seed": 7},
        "data": {"runs": [str(folder.parent / "runs" / "first")], "seed": 3},
        "versions": {"trl": "1.16.0"},
    }
    (folder / "training.json").write_text(json.dumps(config))
    (folder / "training_log.json").write_text(json.dumps([{"loss": 0.9, "step": 1}, {"loss": 0.5, "step": 2}]))
    spread = Spread(count=3, low=0.1, quartiles=(0.2, 0.3, 0.4), high=0.8)
    made = MadeFrom(kind="preference", rows=3, made_from=5, source="trajectories", dropped={"equal": 2}, gaps=spread)
    (folder / "made_from.json").write_text(made.model_dump_json())
    for left in ("samples.jsonl", "prompts.jsonl", "optimizer.pt"):
        (folder / left).write_text("{}\n")
    (folder / "checkpoint-2").mkdir()
    (folder / "checkpoint-2" / "optimizer.pt").write_text("{}\n")


def scorecard_of(name: str, against: str) -> Scorecard:
    estimate = Estimate(value=0.5, low=0.4, high=0.6, tasks=8)
    sides = [
        AssistantResult(name=one, finished=8, failed=0, measures={"reward": estimate}, unscored={})
        for one in (name, against)
    ]
    difference = Difference(value=0.25, low=0.125, high=0.375, tasks=8)
    scores = SetScores(
        name="held-out",
        metric=None,
        seeds=[11, 12],
        tasks=8,
        better={"reward": "higher"},
        sides=sides,
        difference={"reward": difference},
    )
    return Scorecard(sets=[scores])


def push(hub: Hub, folder: Path, *options: str | Path, token: str = "hf_right") -> tuple[int, str, str]:
    """Run the command in the folder's parent, and return its exit code and what it prints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        patch.setenv("HF_TOKEN", token)
        patch.setattr(constants, "ENDPOINT", hub.address)
        return run("push", folder, "me/asks", *options)


def test_an_adapter_is_pushed_with_a_card_that_says_how_good_it_is_and_how_it_was_made(
    hub: Hub, tmp_path: Path
) -> None:
    trained(tmp_path / "dpo", tiny_model(tmp_path / "base"))
    (tmp_path / "scorecard.json").write_text(scorecard_of("dpo", "base").model_dump_json())
    hub.licences["them/base"] = {"license": "apache-2.0"}
    options: list[str | Path] = [
        "--scorecard",
        tmp_path / "scorecard.json",
        "--license",
        "mit",
        "--base-model",
        "them/base",
    ]
    code, out, err = push(hub, tmp_path / "dpo", *options)
    assert code == 0, err
    assert "Pushed to" in out
    assert hub.created[0]["visibility"] == "private"
    assert set(hub.files) == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert json.loads(hub.files["adapter_config.json"])["base_model_name_or_path"] == "them/base"
    card: Any = ModelCard(hub.files["README.md"].decode())
    assert card.data.license == "mit"
    assert card.data.base_model == "them/base"
    for said in (
        "| base | 0.500<br>[0.400, 0.600] |",
        "| difference | +0.250<br>[+0.125, +0.375] |",
        "`dpo` is this model, compared with `base`. Seeds of the conversations: 11, 12.",
        "3 preference rows of 5 trajectories; left out: 2 equal.",
        "| gap | 0.1 | 0.2 | 0.3 | 0.4 | 0.8 |",
        "collab-agents train dpo --config dpo.yaml --out dpo",
        "Seeds: trainer 7, data 3.",
        "- runs/first",
        "Versions: trl 1.16.0.",
        "| loss | 0.5 |",
        'from_pretrained("me/asks")',
    ):
        assert said in card.text
    assert str(tmp_path) not in card.text


def test_the_licence_of_a_base_model_on_the_hub_is_the_models_too(hub: Hub, tmp_path: Path) -> None:
    trained(tmp_path / "dpo", tiny_model(tmp_path / "base"))
    named = {"license": "other", "license_name": "qwen-research", "license_link": "https://example.com/LICENSE"}
    hub.licences["them/base"] = {**named, "language": ["en"]}
    options = ["--base-model", "them/base", "--public", "--include", "samples.jsonl", "--include", "checkpoint-*/*"]
    code, _, err = push(hub, tmp_path / "dpo", *options)
    assert code == 0, err
    assert hub.created[0]["visibility"] == "public"
    assert {"samples.jsonl", "checkpoint-2/optimizer.pt"} < set(hub.files)
    assert "optimizer.pt" not in hub.files
    card: Any = ModelCard(hub.files["README.md"].decode())
    assert card.data.to_dict().items() >= named.items()
    assert "[qwen-research](https://example.com/LICENSE)" in card.text


def test_the_best_model_of_a_loop_is_pushed_with_its_round_s_scorecard(hub: Hub, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    trained(loop / "round-1" / "dpo", tiny_model(tmp_path / "base"))
    merge_adapter(loop / "round-1" / "dpo", loop / "round-1" / "dpo-model")
    (loop / "best").symlink_to("round-1/dpo-model")
    (loop / "round-1" / "scorecard.json").write_text(scorecard_of("round-1", "round-0").model_dump_json())
    reward = Mean(value=0.5, low=0.4, high=0.6)
    rounds = Rounds(
        config={"rounds": 1, "model": str(tmp_path / "base"), "repeats": 2},
        rounds=[
            Round(number=0, model="base", reward=reward),
            Round(number=1, model="round-1/dpo-model", reward=reward),
        ],
        best=1,
    )
    write_rounds(rounds, loop)
    code, _, err = push(hub, loop / "best", "--license", "apache-2.0")
    assert code == 0, err
    assert {"config.json", "model.safetensors", "tokenizer.json"} < set(hub.files)
    assert not {name for name in hub.files if name.startswith("merged_from")}
    card: Any = ModelCard(hub.files["README.md"].decode())
    assert card.data.library_name == "transformers"
    for said in (
        "`round-1` is this model, compared with `round-0`.",
        "The best of 2 rounds was chosen on these tasks.",
        "collab-agents improve --config loop.yaml --out loop",
        "repeats: 2",
        "Trained by dpo. Seeds: trainer 7, data 3.",
        "3 preference rows of 5 trajectories",
    ):
        assert said in card.text
    (loop / "test").mkdir()
    (loop / "test" / "scorecard.json").write_text(scorecard_of("round-1", "round-0").model_dump_json())
    rounds.test = FinalTest(round=1, sets={"held-out": HeldOut(measures={}, finished=8, failed=0)}, reward=reward)
    write_rounds(rounds, loop)
    assert push(hub, loop / "best", "--license", "apache-2.0")[0] == 0
    assert "Nothing was chosen on these tasks." in hub.files["README.md"].decode()


def test_the_card_of_a_merged_model_has_all_trainings_that_made_it(hub: Hub, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    (tmp_path / "base" / "README.md").write_text("---\nlicense: bsd-3-clause\n---\n")
    for name, begins_with in (("first", base), ("second", str(tmp_path / "first-model"))):
        trained(tmp_path / name, begins_with)
        merge_adapter(tmp_path / name, tmp_path / f"{name}-model")
    code, _, err = push(hub, tmp_path / "second-model")
    assert code == 0, err
    card: Any = ModelCard(hub.files["README.md"].decode())
    assert card.data.license == "bsd-3-clause"
    assert "`base` trained by dpo and dpo" in card.text
    assert "collab-agents merge --adapter dpo-1 --out first-model\n" in card.text
    assert "collab-agents train dpo --config dpo-2.yaml --out dpo-2\n" in card.text


def test_a_model_that_cannot_be_pushed_is_refused_in_one_sentence(hub: Hub, tmp_path: Path) -> None:
    trained(tmp_path / "dpo", tiny_model(tmp_path / "base"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "scorecard.json").write_text("{}")
    hub.licences["them/base"] = {"language": ["en"]}
    known: list[str | Path] = ["--base-model", "them/base", "--license", "mit"]
    for options, said in (
        ([tmp_path / "empty"], "empty has no model: choose a folder that train, merge or save_pretrained wrote"),
        ([tmp_path / "dpo"], "base, which is not on the Hub: merge it first (collab-agents merge) and push the model"),
        ([tmp_path / "dpo", "--base-model", "them/none"], "--base-model 'them/none' cannot be found on the Hub: "),
        ([tmp_path / "dpo", *known[:2]], "the licence of them/base is not known: give yours by --license"),
        ([tmp_path / "base"], "the licence of the model is not known: give yours by --license"),
        ([tmp_path / "dpo", *known, "--scorecard", tmp_path / "none.json"], "none.json: No such file or directory"),
        ([tmp_path / "dpo", *known, "--scorecard", tmp_path / "scorecard.json"], "is not a scorecard.json of evaluate"),
        ([tmp_path / "dpo", *known, "--include", "*.gguf"], "--include '*.gguf': "),
    ):
        code, _, err = push(hub, *options)
        assert code == 1
        assert said in err
        assert len(err.splitlines()) == 1
    code, _, err = push(hub, tmp_path / "dpo", *known, token="hf_wrong")
    assert code == 1
    assert "the model 'me/asks' cannot be pushed:" in err
    assert f"it is saved in {tmp_path / 'dpo'}" in err
