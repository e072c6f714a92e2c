"""The frozen discrete autoencoders that maskiges are encoded with.

Each has `stride` and `codes`, and turns images (N, 3, H, W) in [0, 1] into tokens and back:
`encode`, `decode_tokens`, `decode_expected` (the picture of a distribution over tokens) and
`round_trip`, which lets gradients pass.
"""

from __future__ import annotations

from typing import Any

from models.embedded.tokens import TokenAutoencoder, load_tokens
from models.segmenters.gss.dalle import DalleTokens
from models.segmenters.openmmlab import MODELS

__all__ = ["DalleTokens", "EmbeddedTokens", "build_autoencoder"]


@MODELS.register_module(force=True)
class EmbeddedTokens(TokenAutoencoder):
    """The autoencoder that ships with the project, with its weights; they go into checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.load_state_dict(load_tokens().state_dict())


MODELS.register_module(module=DalleTokens, force=True)
_KINDS = ("EmbeddedTokens", "DalleTokens")


def build_autoencoder(config: dict[str, Any]) -> EmbeddedTokens | DalleTokens:
    """Return a frozen autoencoder. Raises `ValueError` if `type` is none of the two."""
    if config.get("type") not in _KINDS:
        raise ValueError(
            f"autoencoder.type={config.get('type')!r} is no discrete autoencoder; "
            f"give one of {', '.join(_KINDS)}"
        )
    built: EmbeddedTokens | DalleTokens = MODELS.build(config)
    return built.requires_grad_(False).eval()
