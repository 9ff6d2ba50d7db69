"""What a user asked of a server; the plan decides the rest."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was asked for; None leaves the choice to the plan.

    Attributes:
        model: short name, repository or folder.
        context: tokens, prompt and completion together.
        quantization: "fp8" or "none".
        kv_cache: "fp8" or "auto" (the type that is computed in).
        gpus: how many GPUs share one copy of the model.
        pipeline_parallel: into how many stages these GPUs are split; the GPUs of one stage share each layer.
        data_parallel: how many copies of the model answer, each on GPUs of its own.
        ray: spread over the machines of a Ray cluster.
        speculative: "ngram", or the repository or folder of a draft model.
        images: take images as well.
        sleepable: can give its GPU's memory back for a while.
        engine_args: raw vLLM flags, handed on last, so that they win.
    """

    model: str | None = None
    context: int | None = None
    quantization: str | None = None
    kv_cache: str | None = None
    gpus: int | None = None
    pipeline_parallel: int = 1
    data_parallel: int = 1
    ray: bool = False
    speculative: str | None = None
    images: bool = False
    sleepable: bool = False
    engine_args: tuple[str, ...] = ()

    @staticmethod
    def typed(chosen: argparse.Namespace, engine_args: tuple[str, ...]) -> Wishes:
        """What was typed: `options.serve_options`, and raw flags."""
        named = {field.name: getattr(chosen, field.name) for field in fields(Wishes) if field.name != "engine_args"}
        return Wishes(**named, engine_args=engine_args)

    def words(self) -> list[str]:
        """What would have to be typed behind %magistral_serve for the same wishes.

        Example:
            >>> Wishes(model="2509", context=8192, images=True, engine_args=("--seed", "3")).words()
            ['2509', '--context', '8192', '--images', '--', '--seed', '3']
        """
        words = [self.model] if self.model else []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in {"model", "engine_args"} and value != field.default:
                words.append(f"--{field.name.replace('_', '-')}")
                words += [] if value is True else [str(value)]
        return [*words, "--", *self.engine_args] if self.engine_args else words
