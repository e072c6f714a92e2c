"""The recorder: attention maps of a prompt's words, read while an unchanged pipeline samples.

    with AttentionRecorder(pipeline, prompts, phrases, self_attention=True) as recorder:
        images = pipeline(prompt=prompts, generator=generators).images
    recorder.cross[16]  # (images, phrases, 16, 16), mean over steps, layers and heads

Attention processors are replaced by diffusers' own `set_attn_processor`; the images stay
bit-identical.
"""

from models.attention.excitation import Excitation
from models.attention.recorder import AttentionRecorder, UnsupportedPipelineError
from models.attention.spans import Spans, locate_phrases

__all__ = ["AttentionRecorder", "Excitation", "Spans", "UnsupportedPipelineError", "locate_phrases"]
