"""Many callers at once, and callers that send whatever the schema allows."""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import schemathesis
from guard_server import PATIENCE, Scripted, serve
from hypothesis import settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance

from safereason.engines.open import open_engine
from safereason.engines.spec import ModelSpec
from safereason.guard.guard_prompt import GuardPrompt
from safereason.guard.policy import Category, Policy
from safereason.guard.prompt import GuardTemplates
from safereason.guard.reasoning import ReasoningGuard
from safereason.guard.server.app import create_app
from safereason.guard.server.settings import Limits, ServerSettings
from safereason.recipe.schema import Sampling

CLIENTS, REQUESTS = 64, 2000


def test_of_2000_requests_by_64_callers_none_is_lost_or_fails(micro_model: Path):
    policy = Policy("small", "Small", (Category("A", "Rudeness"),))
    # Short, because the micro model reads a token a byte; it gives no verdict, whatever it is asked.
    templates = GuardTemplates("{policy} {prompt}", "{policy} {prompt} {response}", "")
    guard_prompt = GuardPrompt(policy, templates, False, Sampling(max_new_tokens=1))
    guard = ReasoningGuard(open_engine(ModelSpec.parse(str(micro_model))), guard_prompt)
    limits = Limits(max_batch=64, timeout=PATIENCE)

    with serve(guard, ServerSettings(limits=limits, retry_unparsed=False)) as server:

        def call(caller: int) -> list[tuple[int, str]]:
            connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=PATIENCE)
            results = []
            for number in range(caller, REQUESTS, CLIENTS):
                body = json.dumps({"prompt": f"text {number}"})
                connection.request("POST", "/v1/guard", body, {"Content-Type": "application/json"})
                reply = connection.getresponse()
                results.append((reply.status, json.loads(reply.read())["policy"]))
            connection.close()
            return results

        with ThreadPoolExecutor(CLIENTS) as pool:
            replies = [reply for results in pool.map(call, range(CLIENTS)) for reply in results]
        metrics = server.request("/metrics")[1]
    assert replies == [(200, "small")] * REQUESTS
    counted = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    assert float(counted['safereason_verdicts_total{label="unparsed"}']) == REQUESTS
    assert float(counted["safereason_batch_size_sum"]) == REQUESTS
    assert float(counted["safereason_batch_size_count"]) < REQUESTS / 4


schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(Scripted()))


@schema.parametrize()
@settings(max_examples=30, derandomize=True, deadline=None)
def test_nothing_the_schema_allows_breaks_it_and_it_answers_by_the_schema(case):
    response = case.call_and_validate(checks=[not_a_server_error, response_schema_conformance])
    assert response.status_code < 500
