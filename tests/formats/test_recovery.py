"""What quantization-aware distillation won back, as it is told."""

from distill.core.results import Closeness, Recovery
from distill.formats.recovery import recovery_note


def test_what_recovery_did_is_told_in_a_line() -> None:
    plain, better, worse = (
        Closeness(kl=kl, nll_change=2 * kl, top_token_agreement=0.9) for kl in (0.01, 0.002, 0.02)
    )
    assert recovery_note(Recovery(plain, better, "recovered", 1.0)) == (
        "recovery won back 80% of the KL (KL 0.01000 to 0.00200, NLL change +0.02000 to +0.00400)"
    )
    note = recovery_note(Recovery(plain, worse, "plain", 1.0))
    assert note.endswith("the plain file is kept")
