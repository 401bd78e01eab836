"""A small server on the loopback that speaks OpenAI's format, answers from a real tiny model, and fails in the ways that it is told to."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

CUT, BROKEN, SLOW, EMPTY, PACKED, TRICKLE = "cut", "broken", "slow", "empty", "packed", "trickle"


class FakeServer:
    """Use as a context manager.

    Args:
        folder: the model's.
        ways: of "echo", "first", "chat_first", "text", "chat_text", those that it offers.
        key: that it wants; empty for none.

    Attributes:
        faults: what goes wrong at the next requests, one after the other: a status, or (429, Retry-After), or (status, what is said of it), or CUT,
            BROKEN, SLOW, EMPTY, PACKED, TRICKLE, or a dict that is the answer.
        requests: bodies of all requests.
        shifted: whether log-probabilities of a prompt's tokens are given one token too late.
        limits: names of the limit of an answer that it takes.
        temperatures: whether it takes others than 1.
        says: what it goes on with, given the request, in the place of what the model likes best; or None.
    """

    def __init__(self, folder, ways=("echo",), key=""):
        self.tokenizer, self.model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
        self.ways, self.key, self.faults, self.requests, self.shifted = ways, key, [], [], False
        self.limits, self.temperatures, self.says = ("max_tokens",), True, None
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def handler(self):
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def send(self, status, body, headers=()):
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in (("Content-Length", str(len(content))), *headers):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def trickle(self, status, body):
                """Send a byte now and then, each well within the time for one read, until nobody listens."""
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                try:
                    for place in range(len(content)):
                        self.wfile.write(content[place : place + 1])
                        time.sleep(0.1)
                except OSError:
                    self.close_connection = True

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with fake.lock:
                    fake.requests.append(body)
                    fault = fake.faults.pop(0) if fake.faults else None
                if fault == CUT:
                    self.connection.close()
                elif fault == BROKEN:
                    self.send(200, b'{"choices": [')
                elif fault == EMPTY:
                    self.send(200, {"choices": []})
                elif fault == PACKED:
                    self.send(200, b"not packed", [("Content-Encoding", "gzip")])
                elif fault == TRICKLE:
                    self.trickle(*fake.answer(self.path, body))
                elif isinstance(fault, dict):
                    self.send(200, fault)
                elif isinstance(fault, tuple):
                    later = fault[0] == 429
                    self.send(fault[0], {"error": {"message": "later" if later else fault[1]}}, [("Retry-After", fault[1])] if later else [])
                elif isinstance(fault, int):
                    self.send(fault, {"error": {"message": "no luck"}})
                elif fake.key and self.headers.get("Authorization") != f"Bearer {fake.key}":
                    self.send(401, {"error": {"message": "who are you?"}})
                else:
                    if fault == SLOW:
                        time.sleep(2.0)
                    try:
                        self.send(*fake.answer(self.path, body))
                    except BrokenPipeError:
                        pass

        return Handler

    def answer(self, path, body):
        chat = path.endswith("/chat/completions")
        kind = "chat_" * chat + ("echo" if body.get("echo") else "first" if body.get("logprobs") else "text")
        if kind not in self.ways:
            return 400, {"error": {"message": f"{kind} is not offered"}}
        if body.get("temperature", 1) != 1 and not self.temperatures:
            said = "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."
            return 400, {"error": {"message": said, "param": "temperature", "code": "unsupported_value"}}
        for name in ("max_tokens", "max_completion_tokens"):
            if name in body and name not in self.limits:
                said = f"Unsupported parameter: '{name}' is not supported with this model. Use '{''.join(self.limits)}' instead."
                return 400, {"error": {"message": said, "param": name, "code": "unsupported_parameter"}}
        prompt = body["messages"][0]["content"] if chat else body["prompt"]
        ids = self.tokenizer(prompt)["input_ids"]
        with torch.no_grad():
            values = torch.log_softmax(self.model(torch.tensor([ids])).logits[0], dim=-1)
        count = body["top_logprobs"] if chat and body.get("logprobs") else body.get("logprobs") or 1
        top, numbers = values[-1].topk(min(count, values.shape[1]))
        likeliest = {" " + self.tokenizer.decode([int(number)]): float(value) for number, value in zip(numbers, top, strict=True)}
        first = self.says(body) if self.says else next(iter(likeliest))
        choice = {"index": 0, "message": {"content": first}} if chat else {"index": 0, "text": first}
        if kind == "echo":
            words = [self.tokenizer.decode([number]) for number in ids]
            tokens = [words[0], *(" " + word for word in words[1:]), first]
            known = [None, *(float(values[place, token]) for place, token in enumerate(ids[1:])), float(top[0])]
            if self.shifted:
                known = [None, *(float(values[place, token]) for place, token in enumerate(ids) if place), float(top[0])]
            choice["logprobs"] = {"tokens": tokens, "token_logprobs": known, "text_offset": [0] * len(tokens), "top_logprobs": None}
        elif kind == "first":
            choice["logprobs"] = {"tokens": [first], "token_logprobs": [float(top[0])], "top_logprobs": [likeliest]}
        elif kind == "chat_first":
            entries = [{"token": token, "logprob": value} for token, value in likeliest.items()]
            choice["logprobs"] = {"content": [{"token": first, "logprob": float(top[0]), "top_logprobs": entries}]}
        return 200, {"choices": [choice], "usage": {"total_tokens": len(ids) + 1}}
