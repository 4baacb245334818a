"""What does not go together in a recipe, across its sections: one function a subject.

Each takes the recipe and raises ValueError with what is wrong, the values, and the way out. What
concerns one section alone stands in that section.
"""

from typing import TYPE_CHECKING

from distill.losses.estimates import signal_problem
from distill.losses.parameters import parameter_problem
from distill.recipe.schema import SHARE_ERROR
from distill.text.codes import base_code

if TYPE_CHECKING:
    from distill.recipe.recipe import Recipe
    from distill.recipe.sections import Capture
    from distill.recipe.sources import Source


def check_evaluation_prompts(recipe: "Recipe") -> None:
    """Refuse prompts of the evaluation that are translated, or say what is of learning alone."""
    sources = recipe.evaluate.prompts or []
    if any(source.translate for source in sources):
        raise ValueError(
            "evaluate.prompts: translate: the task cannot grade translations; map columns instead"
        )
    if any(source.refusals != "drop" for source in sources):
        raise ValueError(
            "evaluate.prompts: refusals says what is worth learning from: remove it here"
        )
    if any(source.licence for source in sources):
        raise ValueError(
            "evaluate.prompts: licence counts for what a student is trained on: remove it here"
        )


def check_languages(recipe: "Recipe") -> None:
    """Refuse a recipe for no language, or for one twice, as en and eng_Latn."""
    if not recipe.languages:
        raise ValueError("languages is empty: name at least one, e.g. [en]")
    for position, code in enumerate(recipe.languages):
        for other in recipe.languages[:position]:
            if base_code(code) == base_code(other) and _are_the_same(code, other):
                raise ValueError(f"languages: {other} and {code} are the same: remove one")


def _are_the_same(code: str, other: str) -> bool:
    from distill.text.scripts import same_language  # reads numpy: only where it is needed

    return bool(same_language(code, (other,)) and same_language(other, (code,)))


def check_own_exam(recipe: "Recipe") -> None:
    """Refuse prompts of the evaluation that the teacher writes."""
    if any(source.expand for source in recipe.evaluate.prompts or []):
        raise ValueError(
            "evaluate.prompts: expand: the teacher does not set its own exam; name prompts that "
            "people wrote"
        )


def check_given_answers(recipe: "Recipe") -> None:
    """Refuse passages as an exam, and answers that are given where no signal comes with them."""
    if any(source.passages is not None for source in recipe.evaluate.prompts or []):
        raise ValueError(
            "evaluate.prompts: passages: nobody learns from these, and no model is asked to go on with "
            "a text: name prompts, by answers: given with the answers that models are scored on"
        )
    if not any(source.gives_answers for source in recipe.generate.prompts):
        return
    if recipe.capture.comes_with_answers:
        raise ValueError(
            "generate.prompts: answers: given with capture.from_server true: log-probs come with what "
            "a server answers, and it answers none of these; set capture.from_server to scores (vLLM), "
            "or to false (the teacher's weights are then needed here)"
        )


def check_written_prompts(recipe: "Recipe") -> None:
    """Refuse written prompts where a reference is needed, or prompts to evaluate on."""
    written = _written_by_the_teacher(recipe)
    if not written:
        return
    if recipe.generate.task is not None and any(source.verify for source in written):
        raise ValueError(
            f"generate.task {recipe.generate.task} checks every answer against a reference, and "
            f"prompts that the teacher writes (expand: {written[0].expand}) have none: set "
            "verify: false beside expand, or task to null"
        )
    if len(written) == len(recipe.generate.prompts) and recipe.evaluate.prompts is None:
        raise ValueError(
            "evaluate.prompts is null, and the teacher writes all of generate.prompts (expand): "
            "name prompts that people wrote to evaluate on"
        )


def check_languages_of_written_prompts(recipe: "Recipe") -> None:
    """Refuse prompts that the teacher writes in another language than the recipe's."""
    for source in _written_by_the_teacher(recipe):
        codes = list(source.system_prompts or ())
        if source.language is not None:
            codes.append(source.language)
        for code in codes:
            if code not in recipe.languages:
                raise ValueError(
                    f"generate.prompts: expand: language {code} is not in the recipe's languages "
                    f"{recipe.languages}"
                )


def _written_by_the_teacher(recipe: "Recipe") -> "list[Source]":
    return [source for source in recipe.generate.prompts if source.expand]


def check_language_shares(recipe: "Recipe") -> None:
    """Refuse shares that are not of every language, or do not add up to 1."""
    shares = recipe.generate.shares
    if shares is None:
        return
    if set(shares) != set(recipe.languages):
        raise ValueError(
            f"generate.shares names {', '.join(shares)}, languages {', '.join(recipe.languages)}: "
            "name the same"
        )
    total = sum(shares.values())
    if abs(total - 1) > SHARE_ERROR:
        raise ValueError(f"generate.shares add up to {total:g}, not to 1")


def check_log_probs_of_a_server(recipe: "Recipe") -> None:
    """Refuse what log-probs that come with a server's answers cannot be used for."""
    capture = recipe.capture
    if not capture.from_server:
        return
    if recipe.teacher.server is None:
        raise ValueError(
            "capture.from_server without teacher.server: name the server, or set from_server "
            "to false"
        )
    if capture.signal not in ("top_k", "chunks"):
        raise ValueError(
            f"capture.from_server with capture.signal {capture.signal}: servers give the "
            "likeliest tokens; set signal to top_k, or to chunks for a student of another tokenizer"
        )
    if capture.hidden_states != "none":
        raise ValueError(
            f"capture.from_server with capture.hidden_states {capture.hidden_states}: servers "
            "give none; set hidden_states to none"
        )
    if recipe.generate.reasoning == "drop" and capture.comes_with_answers:
        raise ValueError(
            "capture.from_server with generate.reasoning drop: the log-probs are those of an "
            "answer after its reasoning; set reasoning to keep or short, or from_server to scores "
            "(vLLM then scores the answers without it)"
        )
    if recipe.privacy == "redact" and capture.scores_answers:
        raise ValueError(
            "capture.from_server scores with privacy: redact: the server scores the very tokens of the "
            "answers, in which nothing can be replaced: set from_server to true (log-probs come with "
            "each answer), or to false (the teacher's weights are then needed here)"
        )


def check_text_only_teacher(recipe: "Recipe") -> None:
    """Refuse what a teacher that is known by its text alone cannot be used for."""
    if not recipe.teacher.text_only:
        return
    if recipe.capture.signal != "none":
        raise ValueError(
            f"teacher.server_gives text with capture.signal {recipe.capture.signal}: a signal is "
            "about the teacher's tokens. Set capture.signal to none, train.soft_weight to 0 and "
            "train.hard_weight to 1, or remove server_gives"
        )
    if recipe.student.model is None and recipe.whole.teacher is recipe.teacher:
        raise ValueError(
            f"teacher.server_gives text with student.method {recipe.student.method}: a new model "
            "takes the teacher's tokenizer, and there is none. Take method base or layers, or "
            "remove server_gives and let teacher.model name a folder or hub id with one"
        )
    if any(source.expand == "magpie" for source in recipe.generate.prompts):
        raise ValueError(
            "teacher.server_gives text with generate.prompts: expand: magpie, which goes on from "
            "the middle of the teacher's template: take self_instruct or personas, or remove "
            "server_gives"
        )


def check_learning_without_a_signal(recipe: "Recipe") -> None:
    """Refuse to learn from a signal that is not captured."""
    if recipe.capture.signal != "none":
        return
    if recipe.train.soft_weight:
        raise ValueError(
            "capture.signal none leaves nothing for train.soft_weight "
            f"{recipe.train.soft_weight}: set soft_weight to 0 and hard_weight to 1 (the student "
            "learns the answers' text), or capture.signal to sampled"
        )
    if recipe.capture.hidden_states != "none":
        raise ValueError(
            "capture.signal none asks for nothing, capture.hidden_states "
            f"{recipe.capture.hidden_states} for something: set hidden_states to none, or signal "
            "to sampled"
        )


def check_gguf_teacher(recipe: "Recipe") -> None:
    """Refuse a server beside a teacher that llama.cpp runs, unless it scores, and hidden states."""
    if recipe.teacher.gguf and recipe.teacher.server and not recipe.capture.scores_answers:
        raise ValueError(
            "teacher.gguf with teacher.server: the file answers on this machine's CPU, so the server "
            "has nothing to do: remove one of them, or set capture.from_server to scores (the file "
            "answers, the server says how likely its tokens were)"
        )
    if recipe.teacher.gguf and recipe.capture.hidden_states != "none":
        raise ValueError(
            f"capture.hidden_states {recipe.capture.hidden_states}: llama.cpp gives logits only: "
            "set hidden_states to none, or remove teacher.gguf to load teacher.model itself"
        )


def check_chunks(recipe: "Recipe") -> None:
    """Refuse what a signal about the teacher's own tokens cannot be used for."""
    if recipe.capture.signal != "chunks":
        return
    if recipe.capture.hidden_states != "none":
        raise ValueError(
            f"capture.signal chunks with capture.hidden_states {recipe.capture.hidden_states}: those "
            "are of the teacher's tokens, and the student may have others; set hidden_states to none"
        )
    if recipe.rounds is not None:
        raise ValueError(
            "rounds with capture.signal chunks: of its own answers the student learns what the teacher "
            "says of each of its tokens, and the teacher has others: set rounds to null"
        )
    if recipe.train.stop_tokens != "apart":
        raise ValueError(
            f"train.stop_tokens {recipe.train.stop_tokens} with capture.signal chunks: in chunks all "
            "tokens that end an answer count as one anyway; remove train.stop_tokens"
        )
    if recipe.train.divergence != "forward_kl":
        raise ValueError(
            f"train.divergence {recipe.train.divergence} with capture.signal chunks: chunks are "
            "compared by their likelihood alone; remove train.divergence, or take another signal"
        )


def check_divergence_of_draws(recipe: "Recipe") -> None:
    """Refuse a divergence that the draws of the signal cannot estimate."""
    train, capture = recipe.train, recipe.capture
    if capture.signal == "none" or not train.soft_weight:
        return
    problem = signal_problem(
        "train.divergence",
        train.divergence,
        capture.signal,
        draw_log_probs=capture.draw_log_probs,
    )
    if problem:
        raise ValueError(problem)


def check_hidden_weight(recipe: "Recipe") -> None:
    """Refuse a loss on hidden states that are not captured."""
    if recipe.train.hidden_weight and recipe.capture.hidden_states == "none":
        raise ValueError(
            f"train.hidden_weight {recipe.train.hidden_weight} needs the teacher's hidden states: "
            "set capture.hidden_states to int8, or train.hidden_weight to 0"
        )


def check_trimmed_signal(recipe: "Recipe") -> None:
    """Refuse a signal that a student with a trimmed vocabulary cannot have."""
    vocabulary, capture = recipe.student.vocabulary, recipe.capture
    if vocabulary is None or capture.signal == "chunks":
        return
    if capture.from_server:
        raise ValueError(
            "capture.from_server with student.vocabulary: the server's log-probs are of its own "
            "likeliest tokens, and the student has others: set from_server to false (the "
            "teacher's weights are then needed here, to capture; without them set, too, "
            "capture.signal to none, train.soft_weight to 0 and train.hard_weight to 1, and the "
            "student learns the answers' text), or vocabulary to null"
        )
    if vocabulary.size is not None and (problem := fewer_ids_problem(capture, vocabulary.size)):
        raise ValueError(problem)


def fewer_ids_problem(capture: "Capture", num_ids: int) -> str | None:
    """Return why a signal cannot be of so many ids, a trimmed vocabulary's, or None."""
    way_out = "take fewer, capture.signal dense, or a larger student.vocabulary.size"
    if capture.signal == "top_k" and capture.top_k >= num_ids:
        return (
            f"capture.top_k {capture.top_k}: the trimmed vocabulary has {num_ids:,} ids: {way_out}"
        )
    if capture.signal == "sampled" and capture.num_draws > num_ids:
        return (
            f"capture.num_draws {capture.num_draws}: the trimmed vocabulary has {num_ids:,} ids: "
            f"{way_out}"
        )
    return None


def check_rounds(recipe: "Recipe") -> None:
    """Refuse rounds where the teacher cannot say how likely the student's own tokens are."""
    rounds, capture, train = recipe.rounds, recipe.capture, recipe.train
    if rounds is None:
        return
    if capture.signal == "none":
        raise ValueError(
            "rounds with capture.signal none: the teacher must say how likely each token of the "
            "student's answers is, and by its text alone it cannot: set capture.signal to sampled "
            "(the teacher's weights or a GGUF file, and its tokenizer), or rounds to null"
        )
    if not train.soft_weight:
        raise ValueError(
            "rounds with train.soft_weight 0: of its own answers the student learns what the teacher "
            "says of them, never their text: set train.soft_weight above 0, or rounds to null"
        )
    if capture.from_server and recipe.privacy == "redact":
        raise ValueError(
            "rounds with capture.from_server and privacy: redact: the server scores the student's "
            "very tokens, in which nothing can be replaced: set from_server to false (the teacher's "
            "weights, or teacher.gguf, then score here), or rounds to null"
        )
    divergence = rounds.divergence or train.divergence
    problem = signal_problem(
        "rounds.divergence",
        divergence,
        capture.signal,
        draw_log_probs=capture.draw_log_probs,
    )
    if problem:
        raise ValueError(problem)
    if problem := parameter_problem(divergence, beta=train.beta, alpha=train.alpha):
        raise ValueError(f"rounds.divergence {divergence}: train.{problem}")


def check_processes(recipe: "Recipe") -> None:
    """Refuse processes that cannot hold the teacher, or where one alone is to hold it."""
    if recipe.teacher.device_map and (recipe.num_processes or 1) > 1:
        raise ValueError(
            f"teacher.device_map auto with num_processes {recipe.num_processes}: one process drives all "
            "GPUs: set num_processes to null, do the stages that ask the teacher by one process, with "
            "`--stages plan,generate,capture`, and launch several with `--stages initialize,train`"
        )
    size, num = recipe.teacher.num_parts, recipe.num_processes
    if num is not None and num % size and recipe.loads_teacher:
        raise ValueError(
            f"teacher.tensor_parallel {size} with num_processes {num}: each copy of the teacher takes "
            f"{size} processes: set num_processes to {-(-num // size) * size}, or tensor_parallel to null"
        )


def check_privacy(recipe: "Recipe") -> None:
    """Refuse a tracker on somebody's server where nothing may leave this machine."""
    if recipe.privacy == "local" and recipe.train.tracker == "wandb":
        raise ValueError(
            "train.tracker wandb sends to wandb.ai, with privacy: local: take tensorboard, or set "
            "privacy to redact or open (a tracker gets figures, no prompts)"
        )


def check_gates(recipe: "Recipe") -> None:
    """Refuse gates on what files answer where nobody is asked anything."""
    gates = recipe.evaluate.gates
    if gates is None or recipe.evaluate.safety is not None:
        return
    names = ("min_kept_refusals", "max_over_refusal", "min_same_outcome")
    for name in names:
        if getattr(gates, name) is not None:
            raise ValueError(
                f"evaluate.gates.{name} judges what files answer to the requests of evaluate.safety, "
                f"which is null: set evaluate.safety to {{}}, or evaluate.gates.{name} to null"
            )


# In this order; the first that is broken is reported
RULES = (
    check_evaluation_prompts,
    check_languages,
    check_own_exam,
    check_given_answers,
    check_written_prompts,
    check_languages_of_written_prompts,
    check_language_shares,
    check_log_probs_of_a_server,
    check_text_only_teacher,
    check_learning_without_a_signal,
    check_gguf_teacher,
    check_chunks,
    check_divergence_of_draws,
    check_hidden_weight,
    check_trimmed_signal,
    check_rounds,
    check_processes,
    check_privacy,
    check_gates,
)
