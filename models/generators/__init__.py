"""Text → image and attention, from any Stable Diffusion directory that diffusers wrote.

The embedded model is one of them:

    pipeline = load_pipeline("embedded")
    sampling = Sampling(num_inference_steps=25, guidance_scale=7.5, guidance_rescale=0.8)
    made = generate(pipeline, [Request("a red car on sand", ["car"], seed=7)], sampling)
"""

from models.generators.checks import PipelineError, check_pipeline, pipeline_digest
from models.generators.loading import (
    fastest_dtype,
    load_pipeline,
    pipeline_folder,
    resolve_device,
    resolve_dtype,
)
from models.generators.sampling import Generated, Request, Sampling, generate

__all__ = [
    "Generated",
    "PipelineError",
    "Request",
    "Sampling",
    "check_pipeline",
    "fastest_dtype",
    "generate",
    "load_pipeline",
    "pipeline_digest",
    "pipeline_folder",
    "resolve_device",
    "resolve_dtype",
]
