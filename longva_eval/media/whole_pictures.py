"""Pictures that are cut off are errors, whatever others tell Pillow. No torch.

Importing lmms-eval's tasks sets `ImageFile.LOAD_TRUNCATED_IMAGES` for the whole process: Pillow
then fills up what is missing with grey, and says nothing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from PIL import ImageFile

__all__ = ["whole_pictures_only"]

_lock = threading.Lock()
_inside = 0
_outside = False


@contextlib.contextmanager
def whole_pictures_only() -> Iterator[None]:
    """Let Pillow refuse pictures that are cut off.

    Several threads may be inside at once; the last one that leaves puts the setting back. Threads
    that decode pictures of their own meanwhile get an error where they would have got grey.
    """
    global _inside, _outside
    with _lock:
        if _inside == 0:
            _outside = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = _outside
