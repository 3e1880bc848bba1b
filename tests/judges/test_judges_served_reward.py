"""A reward model behind a server: vLLM's two routes, with the micro reward model behind them."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch

from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.judges import JudgeSpec, open_judge
from safereason.judges.base import Exchange
from safereason.judges.reward_model import KEY, RewardModel
from safereason.recipe.schema import TarsRewardSettings
from safereason.rewards import RewardRow, judges_of, open_reward

EXCHANGES = [Exchange("Why?", "Because."), Exchange("p", "a" * 3000), Exchange("What?", "<|im_end|> it")]


class Served(BaseHTTPRequestHandler):
    """`/v1/models` and `/classify`; the model has another name than its files."""

    judge: RewardModel
    models: Any
    keys: list[str | None]

    def do_GET(self) -> None:
        assert self.path == "/v1/models"
        self._answer({"data": self.models})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert (self.path, request["model"], request["use_activation"]) == ("/classify", "rewarder", False)
        with torch.inference_mode():
            (logit,) = self.judge._logits([request["input"]])
        self._answer({"data": [{"index": 0, "probs": [logit], "num_classes": 1}]})

    def _answer(self, document: Any) -> None:
        self.keys.append(self.headers["Authorization"])
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def address(micro_classifier, monkeypatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(Served, "judge", RewardModel(ModelSpec.parse(str(micro_classifier))), raising=False)
    monkeypatch.setattr(Served, "models", [{"id": "rewarder", "root": str(micro_classifier)}], raising=False)
    monkeypatch.setattr(Served, "keys", [], raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("end", ["", "/", "/v1"])
def test_a_served_reward_model_scores_as_the_one_that_is_loaded(end, address):
    served = open_judge(f"reward-model:server:{address}{end}").judge(EXCHANGES)
    loaded = Served.judge.judge(EXCHANGES)
    assert [verdict.score for verdict in served] == pytest.approx([verdict.score for verdict in loaded], abs=1e-6)
    assert [verdict.details.get("truncated", False) for verdict in served] == [False, True, False]


def test_it_is_sent_the_key_that_is_for_it(address, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "of-openai")
    open_judge(f"reward-model:server:{address}").judge(EXCHANGES[:1])
    monkeypatch.setenv(KEY, "its-own")
    open_judge(f"reward-model:server:{address}").judge(EXCHANGES[:1])
    assert Served.keys == ["Bearer none"] * 2 + ["Bearer its-own"] * 2


def test_a_recipe_names_its_server_as_the_task(address):
    section = TarsRewardSettings(name="tars", safety="refusal", task=f"server:{address}", require_format=False)
    assert judges_of(section) == ("refusal", f"reward-model:server:{address}")
    judge = JudgeSpec.parse(judges_of(section)[1])
    # It has no weights here, and the run is known by the server.
    assert judge.model is None
    assert judge.identity() == f"reward-model:server:{address}"
    (parts,) = open_reward(section).score([RewardRow("Why?", "harmless", "Because.")])
    assert parts.total == pytest.approx(Served.judge.judge(EXCHANGES[:1])[0].score, abs=1e-6)
    assert parts.judged


def test_a_server_that_goes_away_leaves_rollouts_unscored(address, short_pauses, monkeypatch):
    section = TarsRewardSettings(name="tars", safety="refusal", task=f"server:{address}", require_format=False)
    reward = open_reward(section)
    monkeypatch.setattr(Served, "do_POST", lambda self: self.send_error(503))
    (parts,) = reward.score([RewardRow("Why?", "harmless", "Because.")])
    assert (parts.total, parts.failed, parts.judged) == (None, True, False)
    assert "the reward model failed" in str(parts.reason)


def test_a_server_that_is_not_there_or_has_no_model_is_a_line(address, monkeypatch):
    with pytest.raises(InputError, match=r"the server at http://127\.0\.0\.1:9 names no model .*`vllm serve MODEL "):
        open_judge("reward-model:server:http://127.0.0.1:9")
    monkeypatch.setattr(Served, "models", [])
    with pytest.raises(InputError, match=r"lists no model; serve one"):
        open_judge(f"reward-model:server:{address}")
    with pytest.raises(InputError, match="is no address"):
        open_judge("reward-model:server:nowhere")
