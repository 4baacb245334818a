"""A server in this process that scores given ids as vLLM does, by the quickstart's teacher."""

import functools

import pytest
import raw_server_helpers
import torch
from raw_server_helpers import RawServer, http
from server_helpers import TEACHER

from distill.models import load


@functools.cache
def quickstart_tokenizer():
    return raw_server_helpers.quickstart_tokenizer()


def as_vllm(model, ids, k, read=None):
    """vLLM's answer: at each token but the first the likeliest ids, and the prompt's own.

    read: returns the text of an id, by default the quickstart's tokenizer's."""
    read = read or (lambda token: quickstart_tokenizer().decode([token]))
    with torch.no_grad():
        logp_TV = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    rows: list[dict | None] = [None]
    for position, own in enumerate(ids[1:]):
        top = logp_TV[position].topk(k).indices.tolist()
        chosen = dict.fromkeys([*top, own])
        rows.append(
            {
                str(i): {
                    "logprob": float(logp_TV[position, i]),
                    "rank": 1,
                    "decoded_token": read(i),
                }
                for i in chosen
            }
        )
    choice = {"text": "a", "finish_reason": "length", "token_ids": [7]}
    choice |= {"prompt_token_ids": ids, "prompt_logprobs": rows}
    usage = {"prompt_tokens": len(ids), "completion_tokens": 1}
    return {"model": "teacher", "choices": [choice], "usage": usage}


class Scores(RawServer):
    """It scores what it is sent; `trouble(number, body)` gives other bytes for some requests."""

    def __init__(self):
        super().__init__()
        self.model = load.load_model(str(TEACHER), load.Placement("cpu", "float32"))
        self.trouble = lambda number, body: None
        self.send = self._scored

    def _scored(self, number, path, body):
        bad = self.trouble(number, body)
        if bad is not None:
            return bad
        return http(as_vllm(self.model, body["prompt"], body["prompt_logprobs"]))

    @property
    def scored(self) -> list[tuple[int, ...]]:
        """What it was sent but its probe, which is the first."""
        sent = [tuple(body["prompt"]) for _, body in self.asked]
        return [ids for ids in sent if ids != sent[0]]


@pytest.fixture
def scores():
    made = Scores()
    yield made
    made.stop()
