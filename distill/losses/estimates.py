"""Which divergence can be learnt from which signal, and what its gradient then is. No torch.

p is the teacher's distribution at a position, q the student's as it is in this very step, S the ids
that are stored, ŵ their shares among n draws. What is stored of the teacher stays true however old
the text is, and nothing is weighted by an older student's probabilities: that is why answers of an
earlier student can be learnt from. A divergence is

exact     over all ids. On a dense signal every one is.

unbiased  in expectation over the draws its gradient is the exact one. Draws estimate whatever is an
          average over p of something known at the ids drawn: E[ŵ] = p, and ŵ enters linearly.
          forward_kl needs log q alone: its gradient on the logits is q − ŵ. skew_kl = Σ p log(p / m),
          m = αp + (1−α)q, needs the log-probs of the ids drawn (capture.draw_log_probs), and every
          weight in its gradient, (1−α)q / m, is below 1. Where student and teacher are equal both
          gradients are 0 in expectation, not in one set of draws: there they are q − ŵ and
          (1−α)(q − ŵ), whose mean square is at most 1/n. The value of skew_kl is then 0 in each set;
          that of forward_kl, with the teacher's entropy subtracted, in expectation.

bucket    over the ids of S and one bucket that holds all others, on both sides. Nothing is cut off
          and no gradient is stopped: Q, the student's mass in the bucket, is summed over all other
          ids in each step. Never above the exact divergence, for any S, and 0 with a gradient of 0
          where student and teacher are equal, with every S. Not unbiased: what is lost is what
          differs within the bucket,
              KL(p‖q) = bucket + P · KL(p within ‖ q within)
              KL(q‖p) = bucket + Q · KL(q within ‖ p within)
          (chain rule), and likewise for mixtures, whose bucket is the mixture of the buckets.
          adaptive_kl alone has other weights over other categories: near it, neither above nor below.

refused   None in the table.

                   dense   top_k    sampled, draw_log_probs   sampled
  forward_kl       exact   bucket   unbiased                  unbiased
  skew_kl          exact   bucket   unbiased                  refused
  all others       exact   bucket   bucket                    refused

Why not otherwise:

- Counts alone in place of p, KL(ŵ ‖ αŵ + (1−α)q): no function of the counts of n draws has the
  gradient of skew_kl as its mean, since such means are polynomials in p. An id with p < 1/n counts as
  1/n when it is drawn, so its pull is too weak, and a student equal to its teacher loses its tail.
- reverse_kl of counts: infinite, since most ids were never drawn.
- Draws weighted by q/p are unbiased for every divergence. But an id that the student likes and the
  teacher hardly ever says is missing from nearly all sets of draws, and has a weight of q/p ≫ 1 in the
  others; in the bucket it counts each time. So S has also the answer's own token, which on a student's
  text is one that the student liked.
- The sum over S alone, Σ_S q log(q/p): its gradient for equals is Σ_S ∇q, which is not 0 and drives
  the student out of S. This is the bias of "top-k reverse KL" (arXiv 2605.11182, 2603.25562); with the
  bucket no stop-gradient is needed.
"""

from typing import Literal

Estimate = Literal["exact", "unbiased", "bucket"]

UNBIASED_OF_DRAWS = ("forward_kl",)
UNBIASED_OF_SCORED_DRAWS = ("forward_kl", "skew_kl")  # their log-probs are stored


def estimate_of(divergence: str, signal: str, *, draw_log_probs: bool = False) -> Estimate | None:
    """Return what a divergence is on a signal (dense, top_k or sampled); None: it is refused.

    draw_log_probs: a sampled signal has the log-probs of the ids drawn.
    """
    if signal == "dense":
        return "exact"
    if signal == "top_k":
        return "bucket"
    if draw_log_probs:
        return "unbiased" if divergence in UNBIASED_OF_SCORED_DRAWS else "bucket"
    return "unbiased" if divergence in UNBIASED_OF_DRAWS else None


def signal_problem(
    field: str, divergence: str, signal: str, *, draw_log_probs: bool = False
) -> str | None:
    """Return why the divergence that `field` names cannot be had of a signal, with the way out.

    field: its name in the recipe, such as train.divergence. None where it can.
    """
    if estimate_of(divergence, signal, draw_log_probs=draw_log_probs) is not None:
        return None
    return (
        f"{field} {divergence} needs more than draws: set capture.draw_log_probs to true, "
        f"capture.signal to top_k or dense, or {field} to forward_kl"
    )
