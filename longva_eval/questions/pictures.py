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
from longva_eval.questions.documents import check_documents, file_of

__all__ = ["open_picture", "picture_documents", "require_text"]


def picture_documents(
    dataset: Any,
    read: Callable[[Mapping[str, Any], int], Mapping[str, Any]],
    *,
    task: str,
    columns: Sequence[str],
    pictures: Sequence[str] = ("image",),
    needed: Callable[[Mapping[str, Any]], Sequence[str]] | None = None,
) -> Any:
    """The rows of a data set as checked documents, for a task's `process_docs`.

    A question without a text or a picture that it needs cannot be asked: `unaskable` says so.

    Args:
        dataset: A `datasets.Dataset`.
        read: Turns a row without its pictures, and its number, into a document with at least
            `question_id` and `question`; raises ValueError if it can't. Without a `picture` in
            it, the document gets the digest of the first picture.
        task: For the message.
        columns: That the rows must have.
        pictures: Columns of pictures that they must have too.
        needed: The columns of a document's pictures; by default the first of all.

    Returns:
        A `datasets.Dataset` of the documents, with their pictures undecoded.

    Raises:
        DataError: If columns, options or pictures are missing, an answer is no option, or two rows
            have the same question id; names the file and the rows.
    """
    from datasets import Dataset, Image, concatenate_datasets

    present = list(dataset.column_names)
    name = f"{task}: {file_of(dataset)}"
    found = [column for column in pictures if column in present]
    undecoded = dataset.select_columns(found)
    for column in found:
        undecoded = undecoded.cast_column(column, Image(decode=False))
    cells = undecoded.with_format("arrow")  # nothing is read that is not looked at
    number = iter(range(len(dataset)))

    def read_row(row: Mapping[str, Any]) -> Mapping[str, Any]:
        place = next(number)
        document = dict(read(row, place))
        columns = pictures[:1] if needed is None else needed(document)
        missing = [repr(c) for c in columns if not _is_there(cells[place][c][0])]
        reason = f"the column {', '.join(missing)} holds no picture" if missing else ""
        if not document["question"].strip():
            reason = "the question is empty"
        if "picture" not in document:
            document["picture"] = _digest(cells[place][pictures[0]][0])
        return document | {"unaskable": reason}

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


def _is_there(cell: Any) -> bool:
    """Whether an Arrow scalar of `bytes` and `path` is a picture."""
    return cell.is_valid and (cell["bytes"].is_valid or bool(cell["path"].as_py()))


def _digest(cell: Any) -> str:
    """Of a picture's bytes, or of its path; all that are not there are the same."""
    if not _is_there(cell):
        return "none"
    data = cell["bytes"].as_buffer() if cell["bytes"].is_valid else cell["path"].as_py().encode()
    return hashlib.sha256(data).hexdigest()[:16]


def require_text(row: Mapping[str, Any], *columns: str) -> None:
    """Refuse a row whose columns hold no text.

    Raises:
        ValueError: Names the column and what it holds.
    """
    for column in columns:
        if not isinstance(row[column], str) or not row[column].strip():
            raise ValueError(f"the column {column!r} holds {row[column]!r} instead of a text")
