"""The columns of a teacher's logits that are the student's ids."""

import pytest
import torch

from distill.signals.columns import Columns


def test_of_a_padded_head_the_first_columns_are_known_and_of_those_the_kept_ones_shared():
    logits = torch.arange(12.0).reshape(2, 6)
    columns = Columns(5, [1, 2, 4])
    assert len(columns) == 3 and len(Columns(5)) == 5
    assert columns.known(logits).tolist() == logits[:, :5].tolist()
    assert columns.shared(logits).tolist() == [[1, 2, 4], [7, 8, 10]]
    assert columns.of_ids(torch.tensor([[2, 0]])).tolist() == [[4, 1]]
    assert Columns(5).shared(logits).data_ptr() == logits.data_ptr(), "not a copy"
    assert Columns(5).of_ids(torch.tensor([3])).tolist() == [3]


@pytest.mark.parametrize("kept", [[], [0, 5], [-1, 2], [2, 1], [1, 1]])
def test_ids_that_the_teacher_does_not_have_or_that_do_not_ascend_are_refused(kept):
    with pytest.raises(ValueError, match="do not ascend from 0 to below 5"):
        Columns(5, kept)
