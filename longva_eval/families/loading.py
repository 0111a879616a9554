"""Loading a checkpoint, from a folder or from the hub.

Nothing is guessed from a name: the class comes from `config.json`, the prompt template from the
tokenizer or processor. Weights are read from safetensors alone; no pickle and no remote code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from loguru import logger

from longva_eval.embedded import check_pretrained, embedded_checkpoint
from longva_eval.errors import CheckpointError, EvaluationError, SettingsError
from longva_eval.families.layout import FAMILIES, family_kind, is_family, load_family
from longva_eval.model.checkpoint import LONGVA, Checkpoint, Origin
from longva_eval.model.config_files import check_sizes, read_json
from longva_eval.model.files import hash_weights
from longva_eval.model.llava_next_layout import ARCHITECTURES, is_llava_next, load_llava_next
from longva_eval.model.longva_layout import load_longva
from longva_eval.model.settings import LoadSettings

__all__ = ["find_checkpoint", "load_checkpoint"]

_HUB_PATTERNS = [
    "*.safetensors",
    "*.json",
    "*.jinja",
    "merges.txt",
    "vocab.txt",
    "*.model",
    "vision_tower/*",
]


def load_checkpoint(pretrained: str | Path, settings: LoadSettings) -> Checkpoint:
    """Load a checkpoint of LongVA, LLaVA-NeXT, or one of transformers' families.

    Args:
        pretrained: A folder, a hub id such as `lmms-lab/LongVA-7B`, or an embedded checkpoint
            such as `longva-tiny`.
        settings: How.

    Raises:
        CheckpointError: If files are missing, unreadable, or hold another model.
        SettingsError: If a setting is unknown or contradicts the checkpoint.
    """
    settings.options()  # what is wrong with them is said before 16 GB are downloaded
    folder, commit = find_checkpoint(pretrained, revision=settings.revision, weights=False)
    raw = read_json(folder / "config.json")
    _check_wanted(raw, folder, settings.architectures)
    if is_family(raw):
        family_kind(raw, folder)  # what is not run is said before 16 GB are downloaded
    if commit is not None:
        find_checkpoint(pretrained, revision=commit)
    began = time.perf_counter()
    parts = [raw, raw.get("text_config")]
    if not is_family(raw):  # their towers say some sizes by side
        parts.append(raw.get("vision_config"))
    for part in parts:
        if isinstance(part, Mapping):
            check_sizes(part, folder / "config.json")
    load: Callable[[dict[str, Any], Origin, LoadSettings], Checkpoint]
    load = load_family if is_family(raw) else load_longva
    if is_llava_next(raw):
        load = load_llava_next
    origin = Origin(
        folder=folder, source=str(pretrained), revision=commit, fingerprint=hash_weights(folder)
    )
    try:
        checkpoint = load(raw, origin, settings)
    except (EvaluationError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # transformers raises many types for values it did not expect
        raise CheckpointError(
            f"{folder} cannot be loaded ({type(error).__name__}: {str(error)[:300]}). Are its "
            "files those of one checkpoint, unchanged?"
        ) from error
    model = checkpoint.model
    num_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    logger.info(
        "Loaded {} ({:.2f} GB, {}) in {:.1f} s",
        pretrained,
        num_bytes / 1e9,
        str(model.dtype).removeprefix("torch."),
        time.perf_counter() - began,
    )
    return checkpoint


def find_checkpoint(
    pretrained: str | Path, *, revision: str | None = None, weights: bool = True
) -> tuple[Path, str | None]:
    """The folder that holds a checkpoint, downloading it if it is a hub id.

    Args:
        pretrained: A folder, a hub id, or an embedded checkpoint.
        revision: Of a hub id.
        weights: Whether weights are downloaded, too.

    Returns:
        The folder, and the commit of the hub repository (None for a local folder).

    Raises:
        CheckpointError: If there is no such folder and the hub cannot give it.
    """
    folder = Path(pretrained).expanduser()
    if not folder.is_dir():
        folder = embedded_checkpoint(pretrained) or folder
    if folder.is_dir():
        if revision is not None:
            raise SettingsError(f"revision={revision} belongs to a hub id; {folder} is a folder.")
        return folder, None
    name = str(pretrained)
    check_pretrained(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        patterns = _HUB_PATTERNS if weights else _HUB_PATTERNS[1:]
        path = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (OSError, HfHubHTTPError, ValueError) as error:
        # LocalEntryNotFoundError (offline, nothing cached) is an OSError too.
        raise CheckpointError(
            f"The checkpoint {name} is neither a folder here nor in the local hub cache, and the "
            f"hub could not be asked ({type(error).__name__}: {str(error).splitlines()[0]}).\n"
            f"Where there is a network:  hf download {name}  (about 16 GB for a 7B model; to plan, "
            "--exclude '*.safetensors').\n"
            f"Then copy the folder here and pass pretrained=/path/to/{name.split('/')[1]}."
        ) from error
    return path, path.name


def _check_wanted(raw: Mapping[str, Any], folder: Path, wanted: Sequence[str] | None) -> None:
    """Refuse a known model that is not the one asked for, before its weights are read."""
    families = [name for family in FAMILIES for name in family.architectures]
    known = (LONGVA, *ARCHITECTURES, *families)
    found = [name for name in raw.get("architectures") or [] if name in known]
    if wanted is not None and found and not set(found) & set(wanted):
        raise CheckpointError(
            f"{folder}/config.json describes {found[0]}, and this model is for "
            f"{', '.join(wanted)}. --model longva is for {LONGVA}; longva_llava_next and "
            "longva_llava_next_video are for LLaVA-NeXT (docs/baselines.md), longva_hf for other "
            "classes of transformers (docs/models.md)."
        )
