"""Generalized advantage estimation (Schulman et al., arXiv 1506.02438, equation 16)."""

import torch


def generalized_advantages(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, *, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each token's advantage and return (advantage plus value); all arrays have the shape (B, T).

    Args:
        rewards: The reward received after each token.
        values: The value before each token. After the last token it is 0.
        mask: 1 for the policy's own tokens. Other tokens (padding, tool results) are skipped and get 0.
        gamma: The discount factor.
        lam: The lambda of the estimator.
    """
    mask = mask.bool()
    advantages = torch.zeros_like(values)
    carry = torch.zeros_like(values[:, 0])
    after = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * after - values[:, t]
        carry = torch.where(mask[:, t], delta + gamma * lam * carry, carry)
        after = torch.where(mask[:, t], values[:, t], after)
        advantages[:, t] = torch.where(mask[:, t], carry, 0.0)
    return advantages, (advantages + values) * mask


def at_the_end(rewards: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Place each row's reward (B,) at its last token (B, T); a row without tokens gets none."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (mask.long() * positions).argmax(1)
    placed = torch.zeros(mask.shape, dtype=rewards.dtype, device=rewards.device)
    placed.scatter_(1, last[:, None], rewards[:, None])
    return placed * mask.bool()


def whitened(values: torch.Tensor, mask: torch.Tensor, moments: torch.Tensor | None = None) -> torch.Tensor:
    """Return the values scaled to mean 0 and variance 1 over the mask.

    `moments` are those of `moments_of`, summed over processes; by default those of `values`.
    """
    count, total, squares = moments_of(values, mask) if moments is None else moments
    mean = total / count.clamp(min=1)
    variance = (squares / count.clamp(min=1) - mean**2).clamp(min=0)
    return (values - mean) * torch.rsqrt(variance + 1e-8) * mask


def moments_of(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the count, sum and sum of squares over the mask."""
    kept = values * mask
    return torch.stack([mask.sum().to(values.dtype), kept.sum(), (kept**2).sum()])
