"""What rounds take: the student's answers, the teacher's pass over them, the training."""

from dataclasses import dataclass

from distill.core.stage import Cost
from distill.planning.costs import (
    PROCESS_BYTES,
    SERVER_SECONDS_PER_TOKEN,
    Workload,
    pass_bytes,
    signal_bytes_per_token,
)
from distill.planning.training import checkpoint_bytes, training_bytes, training_seconds
from distill.recipe.sections import Rounds


@dataclass(frozen=True)
class RoundsDemand:
    """What all rounds ask for, if none of them is the last one before its turn.

    `answers`: of the student; `answer` and `sequence`: mean tokens of one, and with its prompt;
    `samples`: that are learnt, with those of the mix, epochs counted.
    """

    rounds: int
    answers: float
    answer: float
    sequence: float
    samples: float


def rounds_demand(work: Workload) -> RoundsDemand:
    """Return the demand of the recipe's rounds, in all repeats of the training."""
    recipe, options = work.recipe, work.recipe.rounds
    assert options is not None
    usable = work.demand.num_answers / recipe.generate.samples_per_prompt
    usable *= 1 - recipe.train.validation_share
    prompts = min(options.prompts_per_round or usable, usable)
    num_rounds = options.num_rounds * recipe.train.repeats
    answers = prompts * options.answers_per_prompt
    longest = options.max_new_tokens or recipe.generate.max_new_tokens
    answer = min(work.demand.answer, longest)
    samples = answers / options.mix.current * options.epochs
    return RoundsDemand(
        num_rounds, num_rounds * answers, answer, work.demand.prompt + answer, num_rounds * samples
    )


@dataclass(frozen=True)
class RoundsSeconds:
    """How long each part of all rounds takes."""

    answering: float
    scoring: float
    training: float

    @property
    def in_all(self) -> float:
        return self.answering + self.scoring + self.training


def rounds_seconds(work: Workload, options: Rounds) -> RoundsSeconds:
    demand = rounds_demand(work)
    longest = options.max_new_tokens or work.recipe.generate.max_new_tokens
    each = demand.answers / demand.rounds
    answering = demand.rounds * work.answer_seconds(
        work.student, 2 * work.student.parameters, round(each), longest
    )
    scored = demand.answers * demand.sequence
    if work.captures:
        scoring = work.pass_seconds(scored)
    else:  # on a server: one token is written for each answer that is read
        at_once = work.recipe.generate.concurrency
        scoring = demand.answers * SERVER_SECONDS_PER_TOKEN / at_once
    tokens = demand.samples * demand.sequence
    if options.max_steps:
        most = demand.rounds * options.max_steps * work.recipe.train.batch_tokens
        tokens = min(tokens, most)
    return RoundsSeconds(answering, scoring, training_seconds(work, tokens))


def rounds_cost(work: Workload) -> Cost:
    """Return the cost of all rounds."""
    options = work.recipe.rounds
    assert options is not None
    demand, seconds = rounds_demand(work), rounds_seconds(work, options)
    trims = work.recipe.student.vocabulary is not None
    vocabulary = work.student.vocabulary if trims else work.teacher.vocabulary
    stored = signal_bytes_per_token(work.recipe, vocabulary)
    scoring_bytes = work.bytes_on_a_gpu + pass_bytes(work.teacher, work.recipe.teacher.batch_tokens)
    # in float32: the best student, the last one, and that which is being written or kept
    weights = 3 * 4 * work.student.parameters * work.recipe.train.repeats
    return Cost(
        PROCESS_BYTES + max(scoring_bytes, training_bytes(work)),
        seconds.in_all,
        disk=demand.answers * (demand.answer * stored + 12 * demand.sequence)
        + weights
        + checkpoint_bytes(work),
    )


def rounds_warning(work: Workload, all_seconds: float) -> str | None:
    """Return what rounds cost beside the run without them; None where the recipe has none."""
    options = work.recipe.rounds
    if options is None:
        return None
    demand, seconds = rounds_demand(work), rounds_seconds(work, options)
    rest = max(all_seconds - seconds.in_all, 1e-9)
    thousand = demand.answers * demand.answer / 1000
    return (
        f"rounds: up to {demand.rounds} of {demand.answers / demand.rounds:,.0f} answers: the student "
        f"writes about {thousand:,.0f} thousand tokens ({_told(seconds.answering)}), the teacher "
        f"scores them ({_told(seconds.scoring)}), and {demand.samples * demand.sequence / 1000:,.0f} "
        f"thousand are learnt ({_told(seconds.training)}): {seconds.in_all / rest:+.0%} of the time "
        "without rounds. Fewer rounds.prompts_per_round or rounds.num_rounds take less"
    )


def _told(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
