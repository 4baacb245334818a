"""What rounds take: the student's answers, the teacher's pass over them, the training, validation."""

from dataclasses import dataclass, replace

from distill.core.stage import Cost
from distill.planning.costs import (
    PROCESS_BYTES,
    SERVER_SECONDS_PER_TOKEN,
    Workload,
    pass_bytes,
    signal_bytes_per_token,
)
from distill.planning.training import checkpoint_bytes, training_bytes, training_seconds
from distill.recipe import Recipe
from distill.recipe.sections import Rounds


@dataclass(frozen=True)
class RoundsDemand:
    """What all rounds ask for, if none of them is the last one before its turn.

    `answers`: of the student; `answer` and `sequence`: mean tokens of one, and with its prompt;
    `samples`: that are learnt, with those of the mix, epochs counted. `validations`: of each round
    and of the student before any; `validated`: answers in each.
    """

    rounds: int
    answers: float
    answer: float
    sequence: float
    samples: float
    validations: int
    validated: float


def answers_a_round(recipe: Recipe, options: Rounds, num_prompts: float) -> float:
    """Return how many answers the student writes in a round; `num_prompts`: the teacher's."""
    learnt = num_prompts * (1 - recipe.train.validation_share)
    return min(options.prompts_per_round or learnt, learnt) * options.answers_per_prompt


def rounds_demand(work: Workload) -> RoundsDemand:
    """Return the demand of the recipe's rounds, in all repeats of the training."""
    recipe, options = work.recipe, work.recipe.rounds
    assert options is not None
    demand = work.demand
    asked = demand.num_answers / recipe.generate.samples_per_prompt + demand.num_given
    num_rounds = options.num_rounds * recipe.train.repeats
    answers = answers_a_round(recipe, options, asked)
    longest = options.max_new_tokens or recipe.generate.max_new_tokens
    answer = min(work.demand.answer, longest)
    samples = answers / options.mix.current * options.epochs
    return RoundsDemand(
        num_rounds,
        num_rounds * answers,
        answer,
        work.demand.prompt + answer,
        num_rounds * samples,
        num_rounds + recipe.train.repeats,
        min(options.num_validated, asked * recipe.train.validation_share),
    )


@dataclass(frozen=True)
class RoundsSeconds:
    """How long each part of all rounds takes.

    `served`: of the scoring, what a server does.
    """

    answering: float
    scoring: float
    served: float
    training: float
    validating: float

    @property
    def in_all(self) -> float:
        return self.answering + self.scoring + self.training + self.undivided

    @property
    def undivided(self) -> float:
        """Return the seconds that more processes do not hasten: the first one alone validates."""
        return self.served + self.validating

    def divided(self, num: int) -> "RoundsSeconds":
        """Return how long the parts take `num` processes."""
        return replace(
            self,
            answering=self.answering / num,
            scoring=self.scoring / num,
            training=self.training / num,
        )


def rounds_seconds(work: Workload) -> RoundsSeconds:
    """Return how long the parts take one process."""
    recipe, options, demand = work.recipe, work.recipe.rounds, rounds_demand(work)
    assert options is not None
    longest = options.max_new_tokens or recipe.generate.max_new_tokens

    def students_seconds(num_answers: float, longest: int) -> float:
        weight_bytes = 2 * work.student.parameters
        return work.answer_seconds(work.student, weight_bytes, round(num_answers), longest)

    scoring = served = 0.0
    if work.captures:
        scoring = work.pass_seconds(demand.answers * demand.sequence)
    else:  # on a server: one token is written for each answer that is read
        served = demand.answers * SERVER_SECONDS_PER_TOKEN / recipe.generate.concurrency
    tokens = demand.samples * demand.sequence
    if options.max_steps:
        tokens = min(tokens, demand.rounds * options.max_steps * recipe.train.batch_tokens)
    return RoundsSeconds(
        demand.rounds * students_seconds(demand.answers / demand.rounds, longest),
        scoring,
        served,
        training_seconds(work, tokens),
        demand.validations * students_seconds(demand.validated, recipe.evaluate.max_new_tokens),
    )


def rounds_cost(work: Workload) -> Cost:
    """Return the cost of all rounds."""
    demand, seconds = rounds_demand(work), rounds_seconds(work)
    trims = work.recipe.student.vocabulary is not None
    vocabulary = work.student.vocabulary if trims else work.teacher.vocabulary
    stored = signal_bytes_per_token(work.recipe, vocabulary)
    batch_tokens = work.recipe.teacher.batch_tokens
    scoring_bytes = work.bytes_on_a_gpu + pass_bytes(work.teacher, batch_tokens, in_pieces=trims)
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
    """Return what rounds cost beside the run without them; None where the recipe has none.

    `all_seconds`: of the whole run, by all its processes.
    """
    if work.recipe.rounds is None:
        return None
    demand, seconds = rounds_demand(work), rounds_seconds(work).divided(work.num_at_work)
    rest = max(all_seconds - seconds.in_all, 1e-9)
    thousand = demand.answers * demand.answer / 1000
    return (
        f"rounds: up to {demand.rounds} of {demand.answers / demand.rounds:,.0f} answers: the student "
        f"writes about {thousand:,.0f} thousand tokens ({_told(seconds.answering)}), the teacher "
        f"scores them ({_told(seconds.scoring + seconds.served)}), "
        f"{demand.samples * demand.sequence / 1000:,.0f} thousand are learnt "
        f"({_told(seconds.training)}), and {demand.validations} times {demand.validated:,.0f} answers "
        f"are validated ({_told(seconds.validating)}): {seconds.in_all / rest:+.0%} of the time "
        "without rounds. Fewer rounds.prompts_per_round or rounds.num_rounds take less"
    )


def _told(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
