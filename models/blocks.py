"""A block of small convolutional networks."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Residual"]


class Residual(nn.Module):
    """Two normalised convolutions beside the identity; `last` is the second one's kernel size."""

    def __init__(self, width: int, last: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, last, padding=last // 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape (N, width, H, W)."""
        found: Tensor = x + self.body(x)
        return found
