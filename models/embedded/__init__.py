"""The small diffusion model that ships with segmint, and the drawn world it was trained on."""
