"""Which parameters a divergence learns with: one rule, for recipes and for losses. No torch."""

# Near 0 plain JSD is ≈ beta·KL(p ‖ q), near 1 it is ≈ (1 − beta)·KL(q ‖ p): a run learns as much
# slower, and seems to stand still. At 0 and 1 themselves it is, by convention, the whole KL.
SMALLEST_JSD_SHARE = 0.05


def parameter_problem(
    divergence: str, *, beta: float | None = None, alpha: float | None = None
) -> str | None:
    """Return what is wrong with the parameter that `divergence` takes, or None if it can learn.

    The text has the value and the way out. A parameter that this divergence does not take is not
    looked at; nor is one that is None.
    """
    if divergence in ("jsd", "jsd_normalised") and beta is not None:
        return _beta_problem(divergence, beta)
    if alpha is None:
        return None
    if divergence == "adaptive_kl" and not 0 <= alpha <= 1:
        return f"alpha {alpha} is outside [0, 1]: choose a value between"
    if divergence in ("skew_kl", "skew_reverse_kl") and not 0 <= alpha < 1:
        return (
            f"alpha {alpha} with {divergence} is outside [0, 1), "
            "at 1 it is 0 for every student: 0.1 is usual"
        )
    return None


def _beta_problem(divergence: str, beta: float) -> str | None:
    if not 0 <= beta <= 1:
        return f"beta {beta} is outside [0, 1]: choose a value between"
    share = min(beta, 1 - beta)
    if divergence == "jsd" and 0 < share < SMALLEST_JSD_SHARE:
        return (
            f"beta {beta} with jsd learns ~{1 / share:.0f} times slower than beta {round(beta)}: "
            "use jsd_normalised, or a beta "
            f"from {SMALLEST_JSD_SHARE} to {1 - SMALLEST_JSD_SHARE}"
        )
    return None
