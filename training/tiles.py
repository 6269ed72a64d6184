"""The size of the tiles in which TRL computes log-probabilities over the vocabulary.

TRL (1.16) uses tiles of 4,096 tokens x 32,768 entries, which suits an accelerator. On a CPU, each of the dozen
temporaries of a tile takes 512 MB, which the system has to allocate again each time, and a step takes about twice as
long. Tiles that stay in the CPU's cache have the same sums.
"""

import trl.kernels.chunked_logprob as kernel
import trl.trainer.utils as callers

TOKENS, ENTRIES = 256, 4096


def fit_tiles() -> None:
    """Use small tiles in trainers that this process builds from now on."""
    kernel.TOKEN_CHUNK_SIZE = TOKENS
    callers._CHUNKED_LOGPROB_CHUNK_SIZE = ENTRIES
