"""Image and phrases → scores, by a trained model that the user has: a second opinion on labels.

    labeller = open_labeller("clipseg", "/models/clipseg")
    found = labeller.find(image, ["a red car", "a tree"])

Each kind is a model of transformers in a local directory of safetensors.
"""

from models.labellers.checks import LabellerError, check_labeller, labeller_digest
from models.labellers.found import Found, Labeller
from models.labellers.loading import open_labeller

__all__ = [
    "Found",
    "Labeller",
    "LabellerError",
    "check_labeller",
    "labeller_digest",
    "open_labeller",
]
