"""Give back the memory of a model that is needed no more."""

import gc


def free_memory() -> None:
    """Give back what a model took before the next one is loaded: some are rings of references."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
