"""Today's families of transformers for lmms-eval, under the same rules as LongVA.

`lmms-eval --model longva_hf --model_args pretrained=Qwen/Qwen3-VL-8B-Instruct,max_frames_num=128`
runs Qwen2-VL, Qwen2.5-VL, Qwen3-VL, GLM-4.1V to 4.6V, InternVL3 and 3.5 (`-hf` checkpoints), and
LLaVA-OneVision. Weights, processor and network are transformers' own; shared prefixes, frames and
times, journal and scoring are this suite's (docs/models.md).
"""

from __future__ import annotations

# The installed name of this folder, which mypy sees by its own.
from longva_eval.families.layout import FAMILIES
from longva_eval.model_adapters.arguments import Arguments, FamilyArguments
from longva_eval.model_adapters.longva import LongVA

__all__ = ["TransformersModel"]


class TransformersModel(LongVA):
    """A checkpoint of one of the families, as an lmms-eval model."""

    model_id = "longva_hf"
    arguments: type[Arguments] = FamilyArguments
    architectures = tuple(name for family in FAMILIES for name in family.architectures)
    default_checkpoint = "Qwen/Qwen3-VL-8B-Instruct"
