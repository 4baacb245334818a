"""How a round's student learns: the training of `train` goes on from the last round's weights.

Of its own answers it learns the divergence from the teacher alone: cross-entropy would teach it its
own mistakes. The teacher's answers are learnt as in `train`, but for the hidden states, whose
projection is not kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.processes import Processes
from distill.data.samples import Sample
from distill.models import load
from distill.recipe import Recipe
from distill.recipe.sections import Train

if TYPE_CHECKING:
    from distill.signals.stores import SignalStores

LEARNING_RATE_SHARE = 0.1  # of train.learning_rate: the student has learnt most already


@dataclass(frozen=True)
class RoundLesson:
    """What a round's student learns from, and where it begins: the folder `start`.

    `own`: its own answers, of this round and earlier ones; `teachers`: the teacher's.
    """

    own: Sequence[Sample]
    teachers: Sequence[Sample]
    validation: Sequence[Sample]
    store: "SignalStores"
    start: Path


def learn(
    recipe: Recipe,
    lesson: RoundLesson,
    place: Path,
    tokenizer: Any,
    processes: Processes,
    *,
    placement: load.Placement,
    stop_ids: Sequence[int],
    seed: int,
    number: int,
    title: str,
) -> None:
    """Train the student of round `number` and write it to `place`, from the newest checkpoint there.

    It is written in float32, whatever the type of its passes: the next round goes on from it.
    """
    from distill.training.prepare import load_start, rows_of
    from distill.training.run import TrainingRun, examples_of
    from distill.training.written import accelerator_without_defaults, train_and_write

    assert recipe.rounds is not None
    options = options_of(recipe, number)
    model = load_start(str(lesson.start), placement.device, options, processes)
    packing, by_sequence = rows_of(model, options, placement, processes)
    train_and_write(
        TrainingRun(
            role="student",
            model=model,
            options=options,
            soft_weight=options.soft_weight,
            hard_weight=options.hard_weight,
            examples=[
                *examples_of(lesson.own, with_signal=True, by_student=True),
                *examples_of(lesson.teachers, with_signal=True),
            ],
            validation=examples_of(lesson.validation, with_signal=False),
            store=lesson.store,
            vocab_size=len(tokenizer),
            pad_id=tokenizer.pad_token_id,
            seed=seed,
            placement=placement,
            folder=place,
            processes=processes,
            accelerator=accelerator_without_defaults(),
            packing=packing,
            by_sequence=by_sequence,
            name=title,
            stage="rounds",
            own_divergence=recipe.rounds.divergence,
            stop_ids=stop_ids if options.stop_tokens == "together" else [],
        ),
        tokenizer,
        goes_on=True,
    )


def options_of(recipe: Recipe, number: int) -> Train:
    """Return train's options as round `number`, from 1, has them."""
    options, train = recipe.rounds, recipe.train
    assert options is not None
    peak = options.learning_rate or LEARNING_RATE_SHARE * train.learning_rate
    if options.learning_rate_decay == "inverse":
        peak *= 2 / (number + 1)
    return train.model_copy(
        update={
            "epochs": options.epochs,
            "max_steps": options.max_steps,
            "learning_rate": peak,
            "hidden_weight": 0.0,
            "keep": "last",  # which round is the best is found by its own validation
            "repeats": 1,
            "tracker": "none",
        }
    )
