"""The columns of a teacher's logits that are ids."""

import torch

from distill.signals.columns import Columns


def test_of_a_padded_head_the_first_columns_are_known():
    logits = torch.arange(12.0).reshape(2, 6)
    assert Columns(5).known(logits).tolist() == logits[:, :5].tolist()
    assert Columns(5).known(logits).data_ptr() == logits.data_ptr(), "not a copy"


def test_the_ids_of_boundaries_stay_on_a_device():
    columns = Columns(5, None, [1, 2], [2])
    boundaries, ends = columns.boundaries_on("cpu")
    assert boundaries.tolist() == [1, 2] and ends.tolist() == [2]
    assert columns.boundaries_on("cpu")[0] is boundaries
