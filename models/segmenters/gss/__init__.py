"""GSS: segmentation as the generation of a picture of the mask.

Chen et al. 2023, "Generative Semantic Segmentation". A label map is painted in one colour per class
(a "maskige"); a frozen discrete autoencoder turns it into tokens. The network predicts the tokens
of an image's maskige; they are decoded to a picture, and the picture is read as a label map.

| file | what it does |
|---|---|
| palettes.py | the colours: by hand, random, far apart, or what the autoencoder reproduces |
| nearest.py | colours → class scores |
| autoencoders.py, dalle.py | the discrete autoencoders: the embedded one, and DALL·E's dVAE |
| posterior.py | label map ↔ tokens by way of colours (stage I) |
| inverses.py | learned readings of a decoded maskige |
| bits.py | label map ↔ tokens without colours: bit codes |
| targets.py | the labels that tokens are made from |
| head.py | the network from features to tokens (stage II) |
| segmentor.py | all of it as an mmsegmentation model, and the variants by name |
"""

from models.segmenters.gss.segmentor import GSS

__all__ = ["GSS"]
