"""Image → label: mmsegmentation's models, trained by mmengine's Runner, stored as safetensors.

| file | what it does |
|---|---|
| presets.py, configs.py, fitting.py | named models and config files, fitted to a list of classes |
| checks.py | what a config may hold; everything else is refused |
| weight_files.py, weights.py | initial weights from files, whatever their tensors' names |
| networks.py | builds networks, packs them as safetensors and JSON, and opens those |
| sources.py | labelled sets: the drawn world, arrays, VOC folders |
| draws.py | the order of samples, evenly by sample or by class |
| samples.py, distortions.py, copies.py | labelled sets as augmented training batches |
| schedules.py | the optimiser, schedule and augmentations of a config |
| recipe.py, training.py | what decides a training, and the training |
| running.py, sharing.py | what each process of it does; a batch that several processes share |
| averaging.py | the average of the weights, and the choice between it and the last ones |
| rates.py, hooks.py, snapshots.py | optimisers and learning rates, curve, resuming |
| precision.py | fp32, bf16 or fp16, whichever is faster here |
| inference.py, memory.py | whole images → softmax, and the memory that takes |
| head.py | SegFormer's head, faster |
| segmentor.py | what models of our own have in common |
| queries.py, mask_losses.py | what Mask2Former and EoMT share: losses, semantic inference |
| hugging_face.py, backbones.py | directories of Hugging Face as models; their backbones |
| mask2former.py, eomt.py | the two as mmsegmentation models |
| gss/, semflow/ | GSS: label maps as tokens; SemFlow: a flow between images and masks |
| openmmlab.py | mmengine and mmsegmentation without their side effects |
"""

from models.segmenters.copies import Objects, paste_object
from models.segmenters.draws import even_shares, shares_of
from models.segmenters.hooks import TrainingError
from models.segmenters.inference import Inference, batches_of_one_size, predict_probabilities
from models.segmenters.memory import bytes_to_predict, peak_bytes
from models.segmenters.networks import (
    Segmenter,
    build_segmenter,
    load_segmenter,
    pack_segmenter,
    save_segmenter,
    unpack_segmenter,
)
from models.segmenters.presets import PRESETS
from models.segmenters.recipe import Execution, Trained, TrainingRecipe
from models.segmenters.samples import Augmentation, LabelledItem
from models.segmenters.schedules import read_schedule
from models.segmenters.semflow.drawing import Drawn, draw_images, is_flow
from models.segmenters.snapshots import Snapshots
from models.segmenters.sources import ArraySet, DrawnScenes
from models.segmenters.training import train_segmenter
from models.segmenters.weight_files import WeightsFile, initial_weights
from models.segmenters.weights import load_weights

__all__ = [
    "PRESETS",
    "ArraySet",
    "Augmentation",
    "Drawn",
    "DrawnScenes",
    "Execution",
    "Inference",
    "LabelledItem",
    "Objects",
    "Segmenter",
    "Snapshots",
    "Trained",
    "TrainingError",
    "TrainingRecipe",
    "WeightsFile",
    "batches_of_one_size",
    "build_segmenter",
    "bytes_to_predict",
    "draw_images",
    "even_shares",
    "initial_weights",
    "is_flow",
    "load_segmenter",
    "load_weights",
    "pack_segmenter",
    "paste_object",
    "peak_bytes",
    "predict_probabilities",
    "read_schedule",
    "save_segmenter",
    "shares_of",
    "train_segmenter",
    "unpack_segmenter",
]
