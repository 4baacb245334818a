"""Where `capture` gets the signal, and what a server that scores the kept answers is sent."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from distill.planning.costs import SERVER_SECONDS_PER_TOKEN, Workload
from distill.recipe import Recipe

BYTES_PER_SCORE = 75.0  # of JSON: {"logprob", "rank", "decoded_token"} of one id, as vLLM writes it


@dataclass(frozen=True)
class ScoringDemand:
    """What a server is asked to score. `num_bytes` of JSON come back."""

    requests: float
    tokens: float
    num_bytes: float
    seconds: float


def score_bytes(recipe: Recipe) -> float:
    """Return the bytes that come for each token, of the prompt or the answer: its own id is told, too."""
    return BYTES_PER_SCORE * (recipe.capture.top_k + 1)


def scoring_demand(work: Workload) -> ScoringDemand:
    """Return what capture asks of one teacher's server; nothing where it scores no answers."""
    if not work.recipe.capture.scores_answers:
        return ScoringDemand(0.0, 0.0, 0.0, 0.0)
    # one token is written for each answer that is read
    seconds = work.num_samples * SERVER_SECONDS_PER_TOKEN / work.recipe.generate.concurrency
    num_bytes = work.sample_tokens * score_bytes(work.recipe)
    return ScoringDemand(work.num_samples, work.sample_tokens, num_bytes, seconds)


def capture_told(work: Workload) -> list[str]:
    """Return a line for each teacher on a server: where its signal comes from."""
    lines = []
    for part in work.turns:
        if part.recipe.teacher.server is not None and part.recipe.capture.signal != "none":
            whose = f"{part.recipe.route}: " if part.recipe.route else ""
            lines.append(f"capture: {whose}{_path_of(part)}")
    return lines


def _path_of(work: Workload) -> str:
    capture, host = work.recipe.capture, urlsplit(work.recipe.teacher.server or "").hostname
    if capture.comes_with_answers:
        return f"{host} gives {capture.top_k} log-probs with each answer; nothing is scored"
    if capture.scores_answers:
        demand = scoring_demand(work)
        return (
            f"{host} scores the kept answers (prompt_logprobs): about {demand.requests:,.0f} requests, "
            f"{demand.tokens / 1000:,.0f} thousand tokens, {demand.num_bytes / 1e6:,.0f} MB that come "
            "back"
        )
    return (
        f"{host} answers, and the teacher's weights are loaded here for the signal "
        "(capture.from_server=scores capture.signal=top_k has a vLLM server score instead)"
    )
