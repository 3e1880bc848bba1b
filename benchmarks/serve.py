"""Serving: many callers of a guard that judges together what waits together, and of one that judges one text at a time.

    python benchmarks/serve.py

The same server, model and texts, through real sockets; only `max_batch` differs. The model was not trained as a guard,
so that its verdicts are of no account: what counts is requests per second.
"""

import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import long_prompt

from safereason.cli.output import print_table
from safereason.engines.base import Sampling
from safereason.engines.transformers import TransformersEngine
from safereason.guard import guard_prompt
from safereason.guard.reasoning import ReasoningGuard
from safereason.guard.server import run
from safereason.guard.server.app import create_app
from safereason.guard.server.settings import Limits, ServerSettings

CALLERS, REQUESTS, NEW_TOKENS = 8, 16, 32


def request_verdict(address: str, text: str) -> None:
    connection = http.client.HTTPConnection(address, timeout=600)
    connection.request("POST", "/v1/guard", json.dumps({"prompt": text}), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    assert reply.status == 200, reply.read()
    connection.close()


def rate(guard: ReasoningGuard, texts: list[str], max_batch: int) -> float:
    """Requests per second, after one that does not count."""
    limits = Limits(max_batch=max_batch, timeout=600.0)
    app = create_app(guard, ServerSettings(limits=limits, ask_again=False))
    with run.bind("127.0.0.1", 0) as bound:
        address = run.url_of(bound).removeprefix("http://")
        server = run.Server(app, limits, f"batches of {max_batch}")
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            request_verdict(address, texts[0])
            start = time.perf_counter()
            with ThreadPoolExecutor(CALLERS) as pool:
                list(pool.map(lambda text: request_verdict(address, text), texts))
            return len(texts) / (time.perf_counter() - start)
        finally:
            server.should_exit = True
            thread.join()


def main() -> None:
    long_prompt.need_model()
    model, tokenizer = long_prompt.load()
    prompt = replace(guard_prompt.default(), sampling=Sampling(temperature=0.7, max_new_tokens=NEW_TOKENS))
    guard = ReasoningGuard(TransformersEngine(model, tokenizer, name="benchmark"), prompt)
    texts = [f"{number}. {long_prompt.text(tokenizer, 20 + number)}" for number in range(REQUESTS)]
    together = rate(guard, texts, CALLERS)
    apart = rate(guard, texts, 1)
    print(f"{REQUESTS} texts from {CALLERS} callers, {NEW_TOKENS} tokens each, policy of RSafe, {model.device}")
    rows = [
        (f"together, up to {CALLERS}", f"{together:.2f}", f"{together / apart:.2f}"),
        ("one at a time", f"{apart:.2f}", "1.00"),
    ]
    print_table(("texts are judged", "requests/s", "ratio to one at a time"), rows)


if __name__ == "__main__":
    main()
