"""Tokens: the length of prompts, which a generator's text encoder limits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from tasks.plan.prompts import PlanError

__all__ = ["CLIP_TOKENS", "PromptLengths", "TokenCounter", "load_tokenizer"]

CLIP_TOKENS = 77  # positions of Stable Diffusion's text encoder

TokenCounter = Callable[[list[str]], Sequence[int]]  # lengths of prompts, begin and end included


class PromptLengths:
    """Finds prompts that are too long for a tokenizer by the lengths of their words.

    There may be millions of prompts, but there are few words. CLIP's tokenizer splits at spaces
    first, so a prompt has at most the tokens of its words. Only prompts over the limit by that
    count are tokenized.
    """

    def __init__(self, count_tokens: TokenCounter, max_tokens: int) -> None:
        self._count = count_tokens
        self._most = max_tokens
        (self._ends,) = count_tokens([""])
        self._words: dict[str, int] = {}

    def check(self, prompts: Collection[str]) -> None:
        """Raise `PlanError` with the longest of these prompts if it is too long."""
        split = {prompt: prompt.split() for prompt in prompts}
        new = sorted({word for words in split.values() for word in words} - self._words.keys())
        self._words |= zip(new, self._count(new) if new else [], strict=True)
        inner = self._most - self._ends
        long = [
            prompt
            for prompt, words in split.items()
            if sum(self._words[word] - self._ends for word in words) > inner
        ]
        longest, prompt = max(zip(self._count(long), long, strict=True)) if long else (0, "")
        if longest > self._most:
            raise PlanError(
                f"prompt {prompt!r} takes {longest} tokens, the generator's tokenizer "
                f"{self._most}; shorten the vocabulary's templates and phrases"
            )


def load_tokenizer(path: str) -> tuple[TokenCounter, int]:
    """Token counter of the generator at `path`, and the most tokens its text encoder takes.

    Raises `PlanError` if there is no tokenizer or it cannot be loaded.
    """
    from transformers import CLIPTokenizer

    from models.generators import pipeline_folder  # imports torch, which takes seconds
    from models.guard import guarded

    folder = pipeline_folder(path) / "tokenizer"
    if not folder.is_dir():
        raise PlanError(
            f"{folder} is missing; generator.path needs a whole diffusers pipeline directory, "
            f"or 'embedded'"
        )
    try:
        with guarded(folder):
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        if not isinstance(tokenizer.model_max_length, int):
            raise TypeError(f"model_max_length is {tokenizer.model_max_length!r}")
    except Exception as error:  # two libraries, with errors of every kind
        raise PlanError(
            f"{folder} cannot be opened ({error}); copy the whole pipeline directory again"
        ) from error

    def count(prompts: list[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(prompts)["input_ids"]]

    return count, tokenizer.model_max_length
