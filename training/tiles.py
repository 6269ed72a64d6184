"""How much of the vocabulary's scores TRL holds at once.

TRL (1.16) computes them in tiles of 4,096 tokens x 32,768 entries, which suits an accelerator. Without one, each of the
dozen temporaries of a tile takes 512 MB that the system has to hand out anew, and a step takes about twice
as long. Tiles that stay in a processor's cache have the same sums.
"""

import trl.kernels.chunked_logprob as kernel
import trl.trainer.utils as callers

TOKENS, ENTRIES = 256, 4096


def fit_tiles() -> None:
    """Small tiles, for the trainers of this process that follow."""
    kernel.TOKEN_CHUNK_SIZE = TOKENS
    callers._CHUNKED_LOGPROB_CHUNK_SIZE = ENTRIES
