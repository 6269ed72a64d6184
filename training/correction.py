"""The correction for tokens that an engine samples with probabilities that differ from the trainer's.

It is TRL's (1.16), for turns that TRL does not know of: the ratio of the trainer's probability to the engine's, of each
token or of the whole turn, cut at the bounds. With it, the gradient is that of PPO's surrogate around the policy of the
engine: what a turn is worth, and the state it is taken in, remain those of the engine.
"""

import torch
from trl import GRPOConfig


def importance_ratio(old: torch.Tensor, sampled: torch.Tensor, args: GRPOConfig) -> torch.Tensor:
    """Return the ratios (T,) of a turn's tokens, or the ratio (1,) of the turn, as the arguments choose.

    Args:
        old: The log-probabilities (T,) of its tokens by the trainer, before it learns from them.
        sampled: Those by the engine, NaN where unknown. Such tokens are not corrected.
        args: The `vllm_importance_sampling_...` options.
    """
    difference = torch.nan_to_num(old - sampled, nan=0.0)
    level, _, bound = args.vllm_importance_sampling_mode.partition("_")
    ratio = torch.exp(difference.sum(dim=-1, keepdim=True) if level == "sequence" else difference)
    low, high = args.vllm_importance_sampling_clip_min, args.vllm_importance_sampling_clip_max
    if bound == "truncate":
        return ratio.clamp(min=low, max=high)
    outside = (ratio < (-torch.inf if low is None else low)) | (ratio > (torch.inf if high is None else high))
    return ratio.masked_fill(outside, 0.0)
