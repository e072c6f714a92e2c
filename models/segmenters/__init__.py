"""Image → label: mmsegmentation's models, trained through mmengine's Runner and kept as
safetensors.

samples.py   any labelled set as augmented training batches     sources.py    the drawn world, arrays, VOC folders
networks.py  names and config files → networks ↔ safetensors    head.py       SegFormer's head, sooner done
training.py  the training                                       hooks.py      rate, curve, resuming
precision.py fp32, bf16 or fp16, by measuring                   inference.py  whole pictures → softmax
copies.py    objects of other samples, pasted
openmmlab.py mmengine and mmsegmentation without their noise
"""

from models.segmenters.copies import paste_object
from models.segmenters.hooks import Snapshots, TrainingError
from models.segmenters.inference import batches_of_one_size, predict_probabilities
from models.segmenters.networks import (
    DEFAULT,
    PRESETS,
    Segmenter,
    build_segmenter,
    load_segmenter,
    pack_segmenter,
    save_segmenter,
    unpack_segmenter,
)
from models.segmenters.samples import Augmentation, LabelledItem
from models.segmenters.sources import ArraySet, DrawnScenes
from models.segmenters.training import Trained, TrainingRecipe, train_segmenter

__all__ = [
    "DEFAULT",
    "PRESETS",
    "ArraySet",
    "Augmentation",
    "DrawnScenes",
    "LabelledItem",
    "Segmenter",
    "Snapshots",
    "Trained",
    "TrainingError",
    "TrainingRecipe",
    "batches_of_one_size",
    "build_segmenter",
    "load_segmenter",
    "pack_segmenter",
    "paste_object",
    "predict_probabilities",
    "save_segmenter",
    "train_segmenter",
    "unpack_segmenter",
]
