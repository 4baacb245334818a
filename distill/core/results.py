"""What each stage hands to the others: the `result` of its manifest, typed.

Stages meet on disk, and a stage never imports a stage; this is the form in which they meet.
"""

from dataclasses import dataclass, field
from typing import Any

from distill.catalog.catalog import LicenceVerdict
from distill.core.stage import Cost

Interval = tuple[float, float]


@dataclass(frozen=True)
class PlanResult:
    """What a run will cost on this machine, and what the licences allow; `text` is shown.

    `teachers`: what each of several is asked and takes.
    """

    machine: dict[str, Any]
    teacher: dict[str, Any]
    student: dict[str, Any]
    work: dict[str, Any]
    stages: dict[str, Cost]
    licence: LicenceVerdict
    warnings: list[str]
    text: str
    teachers: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class TeacherShare:
    """What one of several teachers answered (recipe.teachers).

    `retokenized`: why its answers are not in its own tokens, None where they are. `num_given`: answers
    that were given with the prompts that came to it, of which `num_given_kept` are kept; they are not
    in the other numbers.
    """

    name: str
    model: str
    num_prompts: int
    num_asked: int
    num_kept: int
    num_answer_tokens: int
    retokenized: str | None
    num_given: int = 0
    num_given_kept: int = 0


@dataclass(frozen=True)
class GenerateResult:
    """What was asked, kept and dropped.

    `vocab_size` and `format` are those of the student's tokenizer and chat template, which the
    samples are in; `retokenized` says why they are not the teacher's, None where they are.
    `num_given`: answers that the prompts' files have themselves, of which `num_given_kept` are kept;
    nobody was asked for these.
    `prompts_by_tries`: how many prompts took so many draws. `num_skipped`: the rows of the prompts'
    files that were left out, by reason; `reading_notes` tell of them, and of what was read otherwise
    than it stands there. `teachers`: the share of each, where there are several. `precision`: how the
    type of the teacher's weights was chosen, where the machine did by a measurement.
    """

    num_prompts: int
    num_asked: int
    num_kept: int
    num_dropped: int
    dropped_by_reason: dict[str, int]
    kept_by_language: dict[str, int]
    num_held_out: int
    num_answer_tokens: int
    num_broken_log_lines: int
    vocab_size: int
    format: str
    retokenized: str | None
    num_skipped: dict[str, int]
    prompts_by_language: dict[str, int]
    by_language: dict[str, dict[str, int]]
    prompts_by_tries: dict[int, int]
    num_prompts_without_answer: int
    prompts_by_source: dict[str, int]
    num_long_reasoning: int
    seed: int
    warning: str | None
    reading_notes: list[str] = field(default_factory=list)
    teachers: list[TeacherShare] = field(default_factory=list)
    precision: str | None = None
    num_given: int = 0
    num_given_kept: int = 0


@dataclass(frozen=True)
class Coverage:
    """How a language's texts are written in tokens, by the parent's vocabulary and by the trimmed one.

    Counted over all texts that decided which tokens stay. A word is a unit of text/words.py: a
    character where no spaces are written. `new_text_loss`: by how much a tenth of them grows when
    the others alone decide; None of fewer than ten texts.
    """

    language: str
    num_words: int
    num_bytes: int
    tokens_before: int
    tokens_after: int
    new_text_loss: float | None = None

    @property
    def loss(self) -> float:
        """Return the share by which the texts have grown in tokens."""
        return self.tokens_after / self.tokens_before - 1


@dataclass(frozen=True)
class TrimResult:
    """The trimmed vocabulary, and the samples in it.

    `stopped_by`: "size", "fertility" (a language's texts would have grown by more than they may) or
    "required" (all that is left must stay). `format` is that of the tokenizer and its chat template,
    which the samples are in.
    """

    parent_vocab_size: int
    vocab_size: int
    stopped_by: str
    coverage: list[Coverage]
    format: str
    num_samples: int
    tokens_before: int
    tokens_after: int
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TeacherSignal:
    """What was stored of one of several teachers; `folder` is None where the student learns its text.

    `why_text` says why that is. Sequences and tokens are those of its samples.
    """

    name: str
    num_sequences: int
    num_tokens: int
    num_bytes: int = 0
    folder: str | None = None
    num_unknown: int = 0
    why_text: str | None = None
    removed_mass_mean: float | None = None
    removed_mass_p99: float | None = None
    split_loss: float | None = None


@dataclass(frozen=True)
class CaptureResult:
    """What was stored of the teacher's distributions.

    `folder` is the name of the signal's folder; `num_unknown` counts tokens of which a server gave
    no log-probs. Sizes are None where nothing was captured (signal: none). The next three are of a
    trimmed tokenizer, measured on some answer tokens: the teacher's mass on tokens that the student
    does not have, which goes to their pieces, and how much its NLL a byte rises on the student's
    split of a text, as a share. Of chunks alone: how many there are, how many more have numbers that the two tokenizers split
    otherwise, and how many of the student's tokens are in none.
    `precision`: as in GenerateResult. `teachers`: the same of each of several, which have a folder
    each; the figures above are then of all that give a signal, and none of those folders is `folder`.
    """

    signal: str
    num_tokens: int = 0
    num_bytes: int = 0
    bytes_per_token: float = 0.0
    num_sequences: int = 0
    vocab_size: int | None = None
    hidden_size: int | None = None
    folder: str | None = None
    num_unknown: int = 0
    removed_mass_mean: float | None = None
    removed_mass_p99: float | None = None
    split_loss: float | None = None
    teachers: list[TeacherSignal] = field(default_factory=list)
    num_chunks: int = 0
    num_split_digits: int = 0
    num_left_out: int = 0
    precision: str | None = None


@dataclass(frozen=True)
class Cut:
    """What was cut out of the model that the student is made of.

    `what`: "layers", "experts" or "feed-forward"; `before` and `after`: how many (neurons of the
    feed-forward, experts of a layer); `kept`: the numbers of the layers that are left, None for
    others. `nll`: after this cut, nats a token of the answers of some samples, untrained; None
    where the choice read none. `note`: what else changed.
    """

    what: str
    before: int
    after: int
    chosen_by: str
    kept: list[int] | None = None
    nll: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class InitializeResult:
    """The shape of the student before training.

    `cuts`: in the order in which they were made; `nll_before_cuts`: as in Cut, of the whole model.
    """

    num_parameters: int
    method: str
    model: str | None
    num_layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    architecture: str
    cuts: list[Cut] = field(default_factory=list)
    nll_before_cuts: float | None = None


@dataclass(frozen=True)
class TrainedModel:
    """How one model, student or control, was trained. `kept_step`: the step whose weights were kept."""

    num_steps: int
    num_tokens: int
    num_loss_tokens: int
    seconds: float
    tokens_per_second: float
    kept_step: int | None
    validation_loss: float | None


@dataclass(frozen=True)
class TrainResult:
    """The models that were trained (`roles`: student, and control), and on how many samples.

    `repeats`: the same of each repeat after the first (train.repeats), in their order. `precision`:
    how the type of the passes was chosen, where the machine did by a measurement.
    """

    roles: dict[str, TrainedModel]
    num_samples: int
    num_validation: int
    num_too_long: int
    repeats: list[dict[str, TrainedModel]] = field(default_factory=list)
    precision: str | None = None


@dataclass(frozen=True)
class RoundGuards:
    """What the answers of a round were like, those of the student of the round before.

    Shares of all answers, lengths in tokens. The last four are of those that the teacher scored:
    mean probability of an end where an answer ended, of teacher and student; mean log-prob of the
    student's tokens under the teacher, nats (where the signal tells it); share of positions at which
    both find the same token likeliest.
    """

    num_answers: int
    num_tokens: int
    cut: float
    loops: float
    empty: float
    other_language: float
    mean_length: float
    p95_length: float
    end_mass_of_teacher: float | None = None
    end_mass_of_student: float | None = None
    logp_of_teacher: float | None = None
    same_likeliest: float | None = None


@dataclass(frozen=True)
class RoundValidation:
    """What the student of a round made of the validation prompts, greedily, and of their answers.

    `exact_match`: None where no task checks. Shares of its answers.
    """

    num_prompts: int
    exact_match: float | None
    nll_per_byte: float
    cut: float
    loops: float


@dataclass(frozen=True)
class Round:
    """One round: the answers that it learnt from, how it was trained, and what came out.

    Round 0 is the trained student itself, which has answered nothing yet. `made_from`: what decides
    the round, `student`: what tells its student's weights from others, both digests. `num_samples`:
    what it learnt from, by origin. `red`: the guard that stopped the rounds here; where it is one
    of the answers nothing was trained (`trained` is None). `seconds`: of each part.
    """

    number: int
    made_from: str
    student: str
    validation: RoundValidation | None = None
    guards: RoundGuards | None = None
    num_samples: dict[str, int] = field(default_factory=dict)
    num_too_long: int = 0
    trained: TrainedModel | None = None
    red: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RoundsResult:
    """The rounds in their order, which one's student was kept (0: the trained one), why they ended.

    `answered_with`: weights or gguf. `repeats`: the rounds of each repeat of the training after the
    first.
    """

    rounds: list[Round]
    best: int
    ended: str
    answered_with: str
    repeats: list[list[Round]] = field(default_factory=list)


@dataclass(frozen=True)
class Closeness:
    """How near a file is to the student, before or after recovery."""

    kl: float
    nll_change: float
    top_token_agreement: float


@dataclass(frozen=True)
class Recovery:
    """What quantization-aware distillation won back; `kept` is "plain" or "recovered"."""

    plain: Closeness
    recovered: Closeness
    kept: str
    same_top_token_as_trained: float


@dataclass(frozen=True)
class LanguageAgreement:
    """How far a file is from the student in one language; no `kl` where no distribution is of it."""

    top_token_agreement: float
    num_tokens: int
    kl: float | None
    num_kl_tokens: int


@dataclass(frozen=True)
class Agreement:
    """How far a file is from the student, whose own NLL is `student_nll`.

    Log-probs, NLL and KL in nats a token; shares of positions with the same likeliest token, and
    `without_ties` of those where it leads clearly. `by_language`: {} where an earlier version
    compared them.
    """

    max_logp_difference: float
    nll: float
    student_nll: float
    nll_change: float
    kl: float
    kl_error: float
    num_kl_tokens: int
    top_token_agreement: float
    num_tokens: int
    top_token_agreement_without_ties: float
    by_language: dict[str, LanguageAgreement] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True)
class FileCheck(Agreement):
    """What was measured on one file for deployment, against the 16-bit student.

    Memory in bytes, speeds in tokens a second of one sequence. `failed` says which gate it did not
    pass; `note` is shown with it. The last four are those of a recovered file, and of a file of
    mixed types.
    """

    bytes: int
    bits_per_weight: float
    runtime: str
    tokenization: str
    peak_memory: int | None
    prefill_speed: float
    decode_speed: float
    tensor_types: dict[str, int] = field(default_factory=dict)
    importance_matrix: bool = False
    failed: str | None = None
    note: str | None = None
    recovery: Recovery | None = None
    budget_mb: float | None = None
    chosen: str | None = None
    kl_of_choices: dict[str, float] | None = None


@dataclass(frozen=True)
class QuantizeResult:
    """The check of every file, by format, and the bytes of the trained student."""

    formats: dict[str, FileCheck]
    student_bytes: int


@dataclass(frozen=True)
class ModelFigures:
    """What evaluate measured on one model; exact match and its interval only where a task checks.

    `nll` is in nats a token of its own tokens, `nll_per_byte` the same nats over the bytes of the
    text (None in runs of earlier versions); `unscored` says why there is neither. `unchecked`: the
    answers that no task checks, where it checks others: exact match is without them.
    """

    runtime: str
    nll: float | None
    refused: int
    cut_answers: int
    generated_tokens: int
    tokens_per_second: float
    nll_per_byte: float | None = None
    unscored: str | None = None
    exact_match: float | None = None
    interval: Interval | None = None
    by_language: dict[str, float] = field(default_factory=dict)
    unchecked: int = 0


@dataclass(frozen=True)
class TeacherFigures(ModelFigures):
    """What evaluate measured on one of several teachers, on the prompts that it answers.

    `tokenizers_differ`: its tokens are not the students'.
    """

    num_examples: int = 0
    tokenizers_differ: bool = False


@dataclass(frozen=True)
class Difference:
    """A paired difference with its 95 % interval.

    `by_repeat`: that of each repeat of the training, where there are several; the difference is
    then their mean, and the interval one over repeats and examples.
    """

    difference: float
    low: float
    high: float
    by_repeat: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class EvaluateResult:
    """The figures of every model; student minus control by measure, where there is a control.

    `repeats`: those of student and control of each repeat of the training after the first.
    `tokenizers_differ`: the teacher's tokens are not the students', so its NLL can be compared by
    the byte alone. `student_against_before`: the student minus what it was before the rounds, where
    there were some. `teachers`: the figures of each of several, by its name; in `models` they are
    together `teacher`. `num_given`: of the examples, those whose answer is the data's, not the
    teacher's.
    """

    models: dict[str, ModelFigures]
    num_examples: int
    task: str | None
    task_version: int | None
    student_against_control: dict[str, Difference] | None = None
    repeats: list[dict[str, ModelFigures]] = field(default_factory=list)
    tokenizers_differ: bool = False
    teachers: dict[str, TeacherFigures] = field(default_factory=dict)
    student_against_before: dict[str, Difference] | None = None
    num_given: int = 0


@dataclass(frozen=True)
class ReportResult:
    """The report's table, a row a model, also as HTML and as text with the verdict below it."""

    table: list[dict[str, Any]]
    table_html: str
    text: str
    verdict: str
