"""Distributions that a file's are compared with: the right rows, and the divergence as the formula says."""

from pathlib import Path

import numpy as np
import pytest
import torch

from distill.llama_cpp.reference_rows import ReferenceRows, kl_divergence


def test_a_row_is_counted_from_the_first_of_its_sequence(tmp_path: Path) -> None:
    rows_RV = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.save(tmp_path / "rows.npy", rows_RV)
    rows = ReferenceRows(tmp_path / "rows.npy", first=2, positions=[0, 5])
    np.testing.assert_array_equal(rows.row(1), rows_RV[3])
    assert rows.row(0).dtype == np.float64


def test_kl_is_that_of_torch() -> None:
    p, q = torch.randn(2, 50, dtype=torch.float64).log_softmax(-1)
    expected = torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True)
    assert kl_divergence(p.numpy(), q.numpy()) == pytest.approx(float(expected))
    assert kl_divergence(p.numpy(), p.numpy()) == 0
