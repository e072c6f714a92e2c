"""Text → picture and attention, from any Stable Diffusion directory that diffusers wrote, the
embedded one included.

pipeline = load_pipeline("embedded") made = generate(pipeline, ["a red car on sand"], [["car"]],
seeds=[7], num_inference_steps=25, guidance_scale=3)
"""

from models.generators.checks import PipelineError, check_pipeline, pipeline_digest
from models.generators.loading import (
    fastest_dtype,
    load_pipeline,
    pipeline_folder,
    resolve_device,
    resolve_dtype,
)
from models.generators.sampling import Generated, generate

__all__ = [
    "Generated",
    "PipelineError",
    "check_pipeline",
    "fastest_dtype",
    "generate",
    "load_pipeline",
    "pipeline_digest",
    "pipeline_folder",
    "resolve_device",
    "resolve_dtype",
]
