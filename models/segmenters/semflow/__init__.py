"""SemFlow: one rectified flow between images and their masks, in both directions.

| file | what it does |
|---|---|
| architecture.py | the parts of a Stable Diffusion pipeline as numbers, and built from these |
| codes.py | label maps ↔ latents: colours through the image autoencoder, or learned codes |
| solvers.py | the flow's differential equation |
| segmentor.py | the mmsegmentation model, its losses, and images from masks |
| drawing.py | images of label maps with a seed each, and their masks read back |
"""

from models.segmenters.semflow.architecture import with_pipeline
from models.segmenters.semflow.segmentor import SemFlow

__all__ = ["SemFlow", "with_pipeline"]
