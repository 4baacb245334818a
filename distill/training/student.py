"""The student and its loss as one module: batches in, the summed loss out.

B: rows, T: tokens, H: the student's hidden width, N: loss tokens of a batch.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill.losses.byte_chunks import ByteChunkTargets, byte_chunk_loss
from distill.losses.head import Head
from distill.losses.hidden_states import HiddenTargets, hidden_state_loss
from distill.losses.linear_head import OwnText, linear_head_loss
from distill.losses.targets import Targets
from distill.models.head import head_of
from distill.recipe.sections import Train
from distill.training.batches import Batch
from distill.training.packed_attention import telling


class StudentLoss(nn.Module):
    """The student and its loss as one module, so that what DDP wraps is what is called.

    teacher_width: of the teacher's hidden states, where the student is to match them; the module
    then has a `projection` [teacher_width, H] that is trained with the student and is no part of
    it, random at first by `projection_seed`. stop_ids, own_divergence: as a TrainingRun has them.
    """

    def __init__(
        self,
        model: Any,
        options: Train,
        vocab_size: int,
        teacher_width: int | None = None,
        *,
        projection_seed: int = 0,
        stop_ids: Sequence[int] = (),
        own_divergence: str | None = None,
    ):
        super().__init__()
        self.model = model
        self.options = options
        self.vocab_size = vocab_size
        self.stop_ids = stop_ids
        self.own_divergence = own_divergence or options.divergence
        head = head_of(model)
        self.logit_scale = head.scale
        self.softcap = head.softcap
        self.projection = None
        if teacher_width is not None:
            projection = initial_projection(
                teacher_width, head.weight.shape[1], seed=projection_seed
            )
            self.projection = nn.Parameter(projection.to(head.weight))

    def head(self) -> Head:
        """Return the student's output projection as it is now."""
        layer = self.model.get_output_embeddings()
        bias = getattr(layer, "bias", None)
        return Head(layer.weight, bias, self.logit_scale, self.softcap)

    def forward(
        self,
        batch: Batch,
        teacher_targets: Targets | ByteChunkTargets | None,
        soft_weight: float,
        hard_weight: float,
        teacher_states: HiddenTargets | None = None,
        first_own: int | None = None,
        *,
        told_N: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (summed loss, {"soft", "hard", "hidden", "own"} sums without gradient) of a batch.

        teacher_states: the teacher's hidden states, or None: then there is no "hidden".
        first_own: the first of the batch's positions that are of the student's own text, all that
        follow it are; None: none are, and there is no "own". told_N: bool, the positions that the
        teacher's targets and states are of; None: all. Of the others the text alone is learnt: by
        cross-entropy, with both weights (there is then no text of the student's own).
        """
        with telling(batch.position_ids_BT):
            hidden_BTH = self.model.base_model(
                input_ids=batch.input_ids_BT, position_ids=batch.position_ids_BT, use_cache=False
            ).last_hidden_state
        hidden_NH = hidden_BTH.flatten(0, 1)[batch.positions_N]
        if isinstance(teacher_targets, ByteChunkTargets):
            return byte_chunk_loss(
                hidden_NH,
                self.head(),
                batch.labels_N,
                teacher_targets,
                soft_weight=soft_weight,
                hard_weight=hard_weight,
                vocab_size=self.vocab_size,
            )
        labels_N = batch.labels_N
        of_text = None
        both_hard = (0.0, soft_weight + hard_weight)
        if told_N is not None:
            assert first_own is None, "rounds have one teacher"
            of_text = self._head_loss(hidden_NH[~told_N], labels_N[~told_N], None, both_hard)
            hidden_NH, labels_N = hidden_NH[told_N], labels_N[told_N]
        weights = (soft_weight, hard_weight) if len(labels_N) else both_hard
        loss, parts = self._head_loss(hidden_NH, labels_N, teacher_targets, weights, first_own)
        if of_text is not None:
            loss = loss + of_text[0]
            parts = {name: value + of_text[1][name] for name, value in parts.items()}
        if teacher_states is None or self.projection is None:
            return loss, parts
        distance = hidden_state_loss(hidden_NH, self.projection, teacher_states)
        return loss + self.options.hidden_weight * distance, parts | {"hidden": distance.detach()}

    def _head_loss(
        self,
        hidden_NH: Tensor,
        labels_N: Tensor,
        teacher_targets: Targets | None,
        weights: tuple[float, float],
        first_own: int | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (summed loss, its parts) of these positions; `weights`: soft and hard."""
        parameters = {"beta": self.options.beta, "alpha": self.options.alpha}
        own_text = None
        if first_own is not None:
            own_text = OwnText(first_own, self.own_divergence, parameters)
        return linear_head_loss(
            hidden_NH,
            self.head(),
            labels_N,
            teacher_targets,
            soft_weight=weights[0],
            hard_weight=weights[1],
            divergence=self.options.divergence,
            divergence_parameters=parameters,
            vocab_size=self.vocab_size,
            stop_ids=self.stop_ids,
            own_text=own_text,
        )


def initial_projection(teacher_width: int, width: int, *, seed: int = 0) -> Tensor:
    """Return a projection [teacher_width, width]: the identity where both are as wide, else random.

    It is the same on every rank, at every start with this seed.
    """
    if teacher_width == width:
        return torch.eye(width)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(teacher_width, width, generator=generator) / math.sqrt(width)


def trainable_parameters(student: StudentLoss) -> dict[str, nn.Parameter]:
    """Return what the optimizer changes and checkpoints hold.

    By the model's own names; and the projection if there is one.
    """
    trainable = {n: p for n, p in student.model.named_parameters() if p.requires_grad}
    if student.projection is not None:
        trainable["hidden_state_projection"] = student.projection
    return trainable


def outer_parameters(student: StudentLoss) -> list[nn.Parameter]:
    """Return the parameters beside the student's hidden layers: embedding, output head, projection."""
    embedding = student.model.get_input_embeddings()
    outer = [*embedding.parameters(), *student.model.get_output_embeddings().parameters()]
    return outer if student.projection is None else [*outer, student.projection]
