"""How a round's student learns: the training of `train` goes on from the last round's weights.

The loss is the divergence from the teacher alone. Cross-entropy would teach the student its own
mistakes, and hidden states are matched in `train`, whose projection is not kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.data.samples import Sample
from distill.models import load
from distill.recipe import Recipe
from distill.recipe.sections import Train
from distill.training.placing import training_placed

if TYPE_CHECKING:
    from distill.signals.stores import SignalStores

LEARNING_RATE_SHARE = 0.1  # of train.learning_rate: the student has learnt most already


@dataclass(frozen=True)
class RoundLesson:
    """What a round's student learns from, and where it begins: the folder `start`."""

    samples: Sequence[Sample]
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
    seed: int,
    title: str,
) -> None:
    """Train the round's student and write it to `place`, from the newest checkpoint there."""
    from distill.training.prepare import can_be_packed
    from distill.training.run import TrainingRun, examples_of
    from distill.training.written import accelerator_without_defaults, train_and_write

    options = options_of(recipe)
    placement = training_placed(recipe, RunFolder.of(recipe)).placement
    # weights and optimizer are in float32, whatever the precision of the passes
    trained_in = load.Placement(placement.device, "float32")
    model = load.load_model(str(lesson.start), trained_in, local_rank=processes.local_rank)
    train_and_write(
        TrainingRun(
            role="student",
            model=model,
            options=options,
            soft_weight=options.soft_weight,
            hard_weight=0.0,
            examples=examples_of(lesson.samples, with_signal=True),
            validation=examples_of(lesson.validation, with_signal=False),
            store=lesson.store,
            vocab_size=len(tokenizer),
            pad_id=tokenizer.pad_token_id,
            seed=seed,
            placement=placement,
            folder=place,
            processes=processes,
            accelerator=accelerator_without_defaults(),
            packing=can_be_packed(model),
            name=title,
        ),
        tokenizer,
    )


def options_of(recipe: Recipe) -> Train:
    """Return train's options as a round has them."""
    options, train = recipe.rounds, recipe.train
    assert options is not None
    return train.model_copy(
        update={
            "epochs": options.epochs,
            "max_steps": options.max_steps,
            "learning_rate": options.learning_rate or LEARNING_RATE_SHARE * train.learning_rate,
            "divergence": options.divergence or train.divergence,
            "hard_weight": 0.0,
            "hidden_weight": 0.0,
            "keep": "last",  # which round is the best is found by its own validation
            "repeats": 1,
            "tracker": "none",
        }
    )
