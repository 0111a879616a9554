"""Questions about pictures: rows of a data set, checked, with pictures that are still files.

lmms-eval decodes a picture when it touches the row, where a damaged one ends the run without saying
which it was. Here the columns stay undecoded until `doc_to_visual` asks (`open_picture`), so that
the message names task, row and question, and a run that may skip can skip one question. A picture's
digest is the cluster of its questions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from longva_eval.errors import MediaError
from longva_eval.media.images import open_image, whole_pictures_only
from longva_eval.questions.documents import check_documents

__all__ = ["open_picture", "picture_documents", "require_text"]


def picture_documents(
    dataset: Any,
    read: Callable[[Mapping[str, Any], int], Mapping[str, Any]],
    *,
    task: str,
    columns: Sequence[str],
    pictures: Sequence[str] = ("image",),
) -> Any:
    """The rows of a data set as checked documents, for a task's `process_docs`.

    Args:
        dataset: A `datasets.Dataset`.
        read: Turns a row without its pictures, and its number, into a document with at least
            `question_id`; raises ValueError if it can't. Without a `picture` in it, the document
            gets the digest of the first picture.
        task: For the message.
        columns: That the rows must have.
        pictures: Columns of pictures that they must have too; the first may not be empty.

    Returns:
        A `datasets.Dataset` of the documents, with their pictures undecoded.

    Raises:
        DataError: If columns, options or pictures are missing, an answer is no option, or two rows
            have the same question id; names the file and the rows.
    """
    from datasets import Dataset, Image, concatenate_datasets

    present = list(dataset.column_names)
    name = f"{task}: {_files(dataset)}"
    found = [column for column in pictures if column in present]
    undecoded = dataset.select_columns(found)
    for column in found:
        undecoded = undecoded.cast_column(column, Image(decode=False))
    digests = _Digests(undecoded, pictures[0]) if pictures[0] in found else None
    number = iter(range(len(dataset)))

    def read_row(row: Mapping[str, Any]) -> Mapping[str, Any]:
        place = next(number)
        document = dict(read(row, place))
        assert digests is not None  # a missing column is found before any row is read
        if "picture" not in document:
            document["picture"] = digests.of(place)
        return document

    documents = check_documents(
        dataset.remove_columns(found), read_row, name=name, columns=[*columns, *pictures],
        present=present,
    )  # fmt: skip
    return concatenate_datasets([Dataset.from_list(documents), undecoded], axis=1)


def open_picture(value: Any, *, where: str) -> PillowImage.Image:
    """A picture of an undecoded column, as RGB.

    Args:
        value: `{"bytes": ..., "path": ...}`, or None.
        where: Task, row and question, for the message.

    Raises:
        MediaError: If there is no picture, or Pillow cannot read it to the end.
    """
    from datasets import Image

    if value is None:
        raise MediaError(f"{where} has no picture where its text speaks of one.")
    if isinstance(value, PillowImage.Image):  # a copy whose column was decoded by somebody
        return open_image(value)
    mend = "Fetch the file of this row again."
    try:
        with whole_pictures_only():
            # As the host decodes it: turned as the camera's note says.
            return open_image(Image().decode_example(value))
    except UnidentifiedImageError as error:
        size = len(value.get("bytes") or b"")
        raise MediaError(
            f"{where}: the picture is no picture that Pillow knows ({size:,} bytes). {mend}"
        ) from error
    except (
        MediaError, OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError,
    ) as error:  # fmt: skip
        raise MediaError(f"{where}: the picture cannot be read: {error} {mend}") from error


class _Digests:
    """Digests of a column's pictures, read one at a time."""

    def __init__(self, undecoded: Any, column: str) -> None:
        self._rows = undecoded
        self._column = column

    def of(self, number: int) -> str:
        value = self._rows[number][self._column]
        if value is None or (value.get("bytes") is None and not value.get("path")):
            raise ValueError(f"the column {self._column!r} holds no picture")
        data = value.get("bytes")
        return hashlib.sha256(str(value["path"]).encode() if data is None else data).hexdigest()[
            :16
        ]


def _files(dataset: Any) -> str:
    files = [entry["filename"] for entry in getattr(dataset, "cache_files", [])]
    return ", ".join(files) if files else "the data set"


def require_text(row: Mapping[str, Any], *columns: str) -> None:
    """Refuse a row whose columns hold no text.

    Raises:
        ValueError: Names the column and what it holds.
    """
    for column in columns:
        if not isinstance(row[column], str) or not row[column].strip():
            raise ValueError(f"the column {column!r} holds {row[column]!r} instead of a text")
