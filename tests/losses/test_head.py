"""The softcap: its formula, in place or not."""

import subprocess
import sys

import torch
from loss_helpers import randn

from distill.losses.head import softcapped


def test_logits_are_bounded_by_the_softcap_and_keep_their_order() -> None:
    logits = 20 * randn(1, 5, 30)
    capped = softcapped(logits, 3.0)
    torch.testing.assert_close(capped, 3 * torch.tanh(logits / 3))
    assert capped.abs().max() <= 3
    assert softcapped(logits, None) is logits


def test_in_place_it_is_the_same_to_the_last_bit() -> None:
    logits = 20 * randn(1, 5, 30, dtype=torch.float32)
    expected = softcapped(logits, 3.0)
    assert softcapped(logits, 3.0, out=logits) is logits
    assert torch.equal(logits, expected)


def test_a_gradient_goes_through() -> None:
    logits = randn(1, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: softcapped(x, 1.5), logits)


def test_whoever_reads_the_file_need_not_have_torch() -> None:
    code = "import sys, distill.losses.head; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
