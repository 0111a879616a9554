"""Frames compared with a question: CLIP, SigLIP and their like, for `frame_policy=query:MODEL`.

The rule is transformers': `get_image_features` and `get_text_features` of the model, inputs of its
own processor, cosine of the two. Always in float32.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor

from longva_eval.errors import EvaluationError, SettingsError
from longva_eval.families.loading import find_checkpoint
from longva_eval.media.frames import Looks, Read
from longva_eval.media.probe import VideoInfo
from longva_eval.model.files import check_weights, hash_weights

__all__ = ["Selector", "load_selector"]

Vectors = npt.NDArray[np.float32]


class Selector:
    """A model that says how similar pictures are to a text.

    Args:
        pretrained: A folder or hub id.
        device: Where it computes.

    Raises:
        SettingsError: If it cannot be loaded, or gives no features of texts and pictures.
    """

    def __init__(self, pretrained: str, device: torch.device) -> None:
        try:
            folder, self._revision = find_checkpoint(pretrained)
            config = AutoConfig.from_pretrained(folder)
            model, report = AutoModel.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True
            )
            check_weights({**report, "unexpected_keys": ()}, Path(folder), type(model).__name__)
            processor = AutoProcessor.from_pretrained(folder)
            self._length = int(config.text_config.max_position_embeddings)
            missing = [name for name in ("get_text_features", "get_image_features")
                       if not hasattr(model, name)]  # fmt: skip
            if missing:
                raise ValueError(f"{type(model).__name__} has no {' and no '.join(missing)}")
        except (EvaluationError, OSError, ValueError, AttributeError, KeyError) as error:
            raise SettingsError(
                f"frame_policy=query: {pretrained} is no model that compares frames with a text, "
                f"such as openai/clip-vit-large-patch14-336 or google/siglip-so400m-patch14-384 "
                f"({type(error).__name__}: {error})."
            ) from error
        self._name, self._hash = pretrained, hash_weights(folder)
        self._model, self._processor = model.eval().to(device), processor
        # SigLIP was trained with texts filled up to their length, all of it attended to.
        pads = str(config.model_type).startswith("siglip")
        self._text: dict[str, Any] = {
            "padding": "max_length" if pads else False, "truncation": True,
            "max_length": self._length, "return_tensors": "pt", "return_attention_mask": not pads,
        }  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """For the recipe."""
        return {
            "model": self._name,
            "revision": self._revision,
            "class": type(self._model).__name__,
            "weights_fingerprint": self._hash,
            "text_tokens": self._length,
        }

    @torch.inference_mode()
    def text(self, text: str) -> tuple[Vectors, int]:
        """(size,) of length 1 for a text, and how many of its tokens did not fit."""
        tokenizer = self._processor.tokenizer
        inputs = tokenizer(text, **self._text).to(self._model.device)
        whole = len(tokenizer(text, truncation=False, verbose=False)["input_ids"])
        return self._unit(self._model.get_text_features(**inputs))[0], max(0, whole - self._length)

    @torch.inference_mode()
    def pictures(self, blocks: Iterable[Any]) -> Vectors:
        """(pictures, size) of length 1, for blocks of (height, width, 3) uint8 RGB."""
        found = []
        for block in blocks:
            inputs = self._processor.image_processor(list(block), return_tensors="pt")
            inputs = inputs.to(self._model.device)
            found.append(self._unit(self._model.get_image_features(**inputs)))
        return np.concatenate(found)

    def frames(self, info: VideoInfo, indices: Sequence[int], read: Read, looks: Looks) -> Vectors:
        """`pictures` of frames of a video, which are looked at once."""
        places = hashlib.sha256(np.array(indices, dtype="<i8").tobytes()).hexdigest()[:16]
        return looks(
            f"{info.digest}/frames {places}/{self._hash}",
            lambda: self.pictures(read(info, indices)),
        )

    def _unit(self, output: Any) -> Vectors:
        vectors = output.pooler_output.float()
        unit: Vectors = torch.nn.functional.normalize(vectors, dim=-1).cpu().numpy()
        return unit


@functools.lru_cache(maxsize=2)
def load_selector(pretrained: str, device: torch.device) -> Selector:
    """As `Selector`; the last two stay loaded."""
    return Selector(pretrained, device)
