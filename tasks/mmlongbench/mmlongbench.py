"""MMLongBench: files of pictures and text become questions; generated text becomes a score.

"Benchmarking Long-Context Vision-Language Models Effectively and Thoroughly", arXiv 2505.10610;
data form, prompts and rules as in github.com/EdinburghNLP/MMLongBench, commit 22b9f27 (`data.py`,
`utils.py`), written anew. Every file holds one data set at one length. Which of its questions are
asked follows from the official seed, 42.

Two scores are kept. `score` reads letters and yes or no as this suite does: what cannot be read is
no answer, and wrong. `official_score` is the published rule: an unreadable yes-or-no question gets
one of the answers no, yes, yes, no in turn, and `Answer: A man` is A.

Rows are read again when a question is asked: a file at 128K holds hundreds of megabytes of text.
No torch.
"""

from __future__ import annotations

import functools
import json
import math
import random
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from longva_eval.errors import DataError
from longva_eval.questions.documents import letter_of
from longva_eval.questions.outcomes import FAILED, choice_record, scored_record

__all__ = [
    "SEED",
    "Part",
    "Question",
    "answer_record",
    "average",
    "category_mean",
    "document_score",
    "part_documents",
    "question_of",
]

SEED: Final = 42
"""The official one; it chooses which questions are asked."""

_PREFIXED = "Answer:"
_WRITE = "Write your answer in the following format:\nAnswer: [answer]\n\n{context}\n\nQuestion: "
_TEXT_AND_IMAGES = "You are given interleaved text and images. Please answer the question "
_HEADS: Final = {
    "rag": "Use the given documents to write a concise and short answer to the question about the "
    f"entity shown in the image. {_WRITE}",
    "haystack": "You are given a set of images. Please answer the question in Yes or No based on "
    f"the given images. {_WRITE}",
    "needle": f"{_TEXT_AND_IMAGES}based on the given text and images. {_WRITE}",
    "needle_choice": f"{_TEXT_AND_IMAGES}with the option's letter (A, B, etc.) based on the given "
    f"text and images. {_WRITE}",
    "document": "You are given a document with text and images, and a question. Answer the "
    "question as concisely as you can, using a single phrase or sentence if possible. If the "
    "question cannot be answered based on the information in the article, write 'Not answerable.' "
    f"{_WRITE}",
}
_LABELS = (
    "You need to recognize entities in images. Use the provided mapping from the image to label to "
    'assign a label to the test image. Only output "label: {{label}}" and nothing else.\n\n'
    "Training examples:\n{context}\n\nNow classify this image: "
)
_COLUMNS: Final = {
    "rag": ("id", "question", "image", "ctxs", "answer"),
    "haystack": ("id", "question", "ctxs", "answer"),
    "needle": ("id", "question", "ctxs", "image_list", "answer"),
    "needle_count": ("id", "question", "ctxs", "image_list", "needle_image_list", "answer"),
    "needle_choice": ("id", "question", "ctxs", "image_list", "choices_image", "answer"),
    "document": ("question", "page_list", "doc_name", "answer", "answer_format"),
}
_ANSWER_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "sub_em": (str, list),
    "soft_acc": (list,),
    "mc_acc": (int,),
    "cls_acc": (int,),
    "binary": (str,),
    "doc_qa": (str, int, float, list),
}
_NIAH_PAIRS = ("retrieval", "counting", "reasoning")
_HAYSTACK_DEFAULTS = (0, 1, 1, 0)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One data set at one length, as a task's data file lists it."""

    dataset: str
    """The official name, such as `mm_niah_counting-image`."""
    category: str
    """`vrag`, `niah`, `icl` or `doc_vqa`."""
    form: str
    """How its rows look: a key of the tables above, or `icl`."""
    metric: str
    """`sub_em`, `soft_acc`, `mc_acc`, `cls_acc`, `binary` or `doc_qa`."""
    file: str
    """Below the folder of the texts."""
    samples: int
    """Ids (or questions, for documents) that are asked, as officially."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked."""

    text: str
    """The whole prompt, with `<image>` at the place of each picture."""
    pictures: tuple[str, ...]
    """Paths below the folder of the pictures, in order."""
    question: str
    """The question alone, for people."""
    answer: Any
    answer_format: str = ""
    """Of a document's question: Integer, Float, String, List or None."""


def part_documents(part: Part, texts: Path) -> list[dict[str, Any]]:
    """Documents of the questions of a part that are asked; each says where its row is.

    Args:
        part: The data set and length.
        texts: The folder `mmlb_data`.

    Raises:
        DataError: If the file is missing, or a row is not of its form.
    """
    path = texts / part.file
    if not path.is_file():
        raise DataError(f"MMLongBench's {part.file} is not at {path}.")
    if part.form == "icl":
        return _icl_documents(part, path)
    documents: list[dict[str, Any]] = []
    problems: list[str] = []
    times: Counter[str] = Counter()
    for number, (offset, row) in enumerate(_lines(path)):
        missing = [column for column in _COLUMNS[_columns_of(part)] if column not in row]
        if missing:
            raise DataError(
                f"{path}, row {number} has no {', '.join(map(repr, missing))}; it has "
                f"{', '.join(map(repr, row))}. Is it the data of MMLongBench 1.0 or 1.1?"
            )
        name = str(row.get("id", number))
        try:
            _check(part, row)
        except ValueError as error:
            problems.append(f"row {number} (id {name}): {error}")
            continue
        documents.append(
            {
                "question_id": f"{part.dataset}/{name}/{times[name]}",
                # The same question at several depths, or several questions on one document.
                "cluster": f"{part.dataset}/{row.get('doc_name', name)}",
                "row_id": row.get("id", number),
                "offset": offset,
                "depth": None if row.get("depth") is None else str(row["depth"]),
                "asks_quote": part.form == "rag" and '"' in str(row["image"]),
            }
        )
        times[name] += 1
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise DataError(f"{path}: {'; '.join(problems[:5])}{more}.")
    kept = _chosen(part, documents)
    return [_document(part, texts, entry, number=number) for number, entry in enumerate(kept)]


def question_of(document: Mapping[str, Any]) -> Question:
    """The question of a document from `part_documents`."""
    part = _part_of(document)
    path = Path(document["texts"]) / part.file
    if part.form == "icl":
        return _icl_question(document, path)
    with path.open("rb") as file:
        file.seek(document["offset"])
        row = json.loads(file.readline())
    return _question(part, row)


def answer_record(document: Mapping[str, Any], text: str, pictures: Path) -> dict[str, Any]:
    """The record of an answer, with `official_score` beside `score`.

    Args:
        document: From `part_documents`.
        text: What the model said, or `FAILED`.
        pictures: The folder `mmlb_image`, for the record.
    """
    part, asked = _part_of(document), question_of(document)
    said = "" if text == FAILED else text
    reason = {}
    try:
        official = _official_score(part, asked, said, number=document["number"])
    except ValueError as error:  # 4 of MMLongBench-Doc's 1,082 answers are not of their format
        text, official, reason = FAILED, 0.0, {"reason": f"cannot be scored: {error}"}
    categories = {"category": part.category, "dataset": part.dataset}
    if document["depth"] is not None:
        categories["depth"] = document["depth"]
    common: dict[str, Any] = {
        "question_id": document["question_id"],
        "cluster": document["cluster"],
        "question": asked.question,
        "categories": categories,
        "media": [str(pictures / name) for name in asked.pictures],
        "metric": part.metric,
        "official_score": 0.0 if text == FAILED else official,
        "num_pictures": len(asked.pictures),
        **reason,
    }
    if part.metric == "mc_acc":
        letter = letter_of(int(asked.answer))
        num_options = asked.text.count("<image>", asked.text.rfind("\nA. <image>"))
        options = [f"<picture {number + 1}>" for number in range(num_options)]
        return choice_record(text, options=options, answer=letter, **common)
    # An empty text is the answer of the file and not a hidden one.
    plain = isinstance(asked.answer, str) and asked.answer
    answer = asked.answer if plain else json.dumps(asked.answer)
    if part.metric == "binary":
        label = _yes_or_no(said)
        record = scored_record(
            text, score=float(label == _yes_or_no(answer)), answer=answer, **common
        )
        unread = record["outcome"] == "wrong" and label is None
        return record | {"outcome": "no answer"} if unread else record
    return scored_record(text, score=official, answer=answer, **common)


def average(records: Sequence[Mapping[str, Any]], *, score: str = "score") -> float:
    """Mean over the categories; NaN of nothing.

    Summarisation, the paper's fifth category, needs a judge and is not among them.
    """
    names = dict.fromkeys(record["categories"]["category"] for record in records)
    means = [category_mean(records, name, score=score) for name in names]
    return math.fsum(means) / len(means) if means else math.nan


def category_mean(
    records: Sequence[Mapping[str, Any]], category: str, *, score: str = "score"
) -> float:
    """Mean over the data sets of a category, text and picture needles of a kind taken together.

    Args:
        records: From `answer_record`.
        category: As in `Part`.
        score: `score`, or `official_score`, where a yes-or-no accuracy below one half counts as its
            complement, as the official figures do; of the questions that could be asked, so that
            failures raise nothing.
    """
    groups: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for record in records:
        if record["categories"]["category"] == category:
            dataset = record["categories"]["dataset"]
            kind = next((k for k in _NIAH_PAIRS if f"niah_{k}" in dataset), dataset)
            groups.setdefault(kind, {}).setdefault(dataset, []).append(record)
    means = []
    for datasets in groups.values():
        inner = []
        for name, group in datasets.items():
            asked = [float(r[score]) for r in group if r.get("outcome") != "failed"]
            mean = math.fsum(asked) / len(asked) if asked else 0.0
            flip = score == "official_score" and name.startswith("vh_") and asked and mean < 0.5
            inner.append((1 - mean if flip else mean) * len(asked) / len(group))
        means.append(math.fsum(inner) / len(inner))
    return math.fsum(means) / len(means) if means else math.nan


# Rows


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a jsonl file, with the byte at which each begins."""
    with path.open("rb") as file:
        offset = 0
        for line in file:
            if line.strip():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise DataError(f"{path}, byte {offset}: {error}.") from error
                if not isinstance(row, dict):
                    raise DataError(f"{path}, byte {offset}: {line[:60]!r} is not a row.")
                yield offset, row
            offset += len(line)


def _chosen(part: Part, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries that are asked, in the order in which the official code asks them."""
    if part.form == "document":
        order = np.random.default_rng(SEED).permutation(len(entries))[: part.samples]
        return [entries[int(number)] for number in order]
    # The official code leaves these out before it draws: some file systems have no such names.
    entries = [entry for entry in entries if not entry["asks_quote"]]
    ids = sorted({entry["row_id"] for entry in entries})
    drawn = set(random.Random(SEED).sample(ids, min(part.samples, len(ids))))
    return [entry for entry in entries if entry["row_id"] in drawn]


def _document(
    part: Part, texts: Path, entry: Mapping[str, Any], *, number: int, domain: str = ""
) -> dict[str, Any]:
    return {
        "question_id": entry["question_id"],
        "cluster": entry["cluster"],
        "number": number,
        "offset": entry["offset"],
        "depth": entry["depth"],
        "domain": domain,
        "texts": str(texts),
        "part": json.dumps(part.__dict__),
    }


def _part_of(document: Mapping[str, Any]) -> Part:
    return Part(**json.loads(document["part"]))


def _columns_of(part: Part) -> str:
    if part.form == "needle" and part.dataset.endswith("counting-image"):
        return "needle_count"
    return part.form


def _check(part: Part, row: Mapping[str, Any]) -> None:
    answer: Any = row["answer"]
    if isinstance(answer, bool) or type(answer) not in _ANSWER_TYPES[part.metric]:
        raise ValueError(f"the answer is {answer!r}")
    if part.metric == "binary" and _yes_or_no(str(answer)) is None:
        raise ValueError(f"the answer is {answer!r}, neither yes nor no")
    if part.form == "needle_choice" and not 0 <= int(answer) < len(row["choices_image"]):
        raise ValueError(f"the answer {answer} is none of {len(row['choices_image'])} options")
    asked = _question(part, row)
    placed = asked.text.count("<image>")
    if placed != len(asked.pictures):
        raise ValueError(f"{placed} places for pictures, {len(asked.pictures)} pictures")


def _question(part: Part, row: Mapping[str, Any]) -> Question:
    question = str(row["question"])
    if part.form == "rag":
        context = "\n\n".join(f"Document (Title: {c['title']}): {c['text']}" for c in row["ctxs"])
        question, pictures = f"<image>{question}", [row["image"]]
    elif part.form == "haystack":
        context, pictures = "\n".join(["<image>"] * len(row["ctxs"])), row["ctxs"]
    elif part.form == "document":
        pictures = row["page_list"]
        context = "\n\n".join(f"Document {page.split('/')[-2]:.15}: <image>" for page in pictures)
        question = (
            f"Based on Document {row['doc_name']:.15}, answer the following question. {question}"
        )
    else:
        context = "\n\n".join(paragraph["text"] for paragraph in row["ctxs"])
        pictures = [*row["image_list"], *row.get("needle_image_list", ())]
        if part.form == "needle_choice":
            choices = row["choices_image"]
            question += "".join(f"\n{letter_of(n)}. <image>" for n in range(len(choices)))
            pictures = [*row["image_list"], *choices]
        elif _columns_of(part) != "needle_count":
            pictures = row["image_list"]
    head = _HEADS[part.form].replace("{context}", context)
    return Question(
        text=f"{head}{question}\n{_PREFIXED}",
        pictures=tuple(str(name) for name in pictures),
        question=question.replace("<image>", "").strip(),
        answer=row["answer"],
        answer_format=str(row.get("answer_format", "")),
    )


# Many-shot labels


@functools.lru_cache(maxsize=4)
def _icl_file(path: str, modified_ns: int) -> dict[str, Any]:
    del modified_ns  # part of the key: a changed file is read again
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON: {error}.") from error
    for domain, content in data.items() if isinstance(data, dict) else [("", None)]:
        if not isinstance(content, dict) or not {"exemplar_list", "test_example"} <= set(content):
            raise DataError(f"{path}: {domain!r} has no 'exemplar_list' and 'test_example'.")
    return dict(data)


def _icl_documents(part: Part, path: Path) -> list[dict[str, Any]]:
    data = _icl_file(str(path), path.stat().st_mtime_ns)
    examples = [
        (domain, number)
        for domain, content in data.items()
        for number in range(len(content["test_example"]))
    ]
    random.Random(SEED).shuffle(examples)
    texts = path.parents[len(Path(part.file).parts) - 1]
    documents = []
    for number, (domain, place) in enumerate(examples[: part.samples]):
        example = data[domain]["test_example"][place]
        if isinstance(example.get("answer"), bool) or not isinstance(example.get("answer"), int):
            raise DataError(f"{path}: example {place} of {domain!r} has no whole number as answer.")
        name = f"{part.dataset}/{domain}/{place}"
        entry = {"question_id": name, "cluster": name, "offset": place, "depth": None}
        documents.append(_document(part, texts, entry, number=number, domain=domain))
    return documents


def _icl_question(document: Mapping[str, Any], path: Path) -> Question:
    content = _icl_file(str(path), path.stat().st_mtime_ns)[document["domain"]]
    example = content["test_example"][document["offset"]]
    # The official draw depends on how many worker processes it has; this one on the question only.
    draw = random.Random(f"{SEED}/{document['question_id']}")
    rounds = draw.choice(content["exemplar_list"])
    shots = [shot for one in rounds for shot in draw.sample(one, len(one))]
    context = "\n\n".join(f"<image>\nlabel: {shot['id']}" for shot in shots)
    head = _LABELS.replace("{{label}}", "{label}").replace("{context}", context)
    return Question(
        text=f"{head}<image>\nlabel:",
        pictures=(*(str(shot["image"]) for shot in shots), str(example["image"])),
        question="Which label has this picture?",
        answer=example["answer"],
    )


# Scores


def _official_score(part: Part, asked: Question, said: str, *, number: int) -> float:
    """The published rule, on what the model said after the prefix it was given."""
    prefix = "label:" if part.form == "icl" else _PREFIXED
    whole = prefix + said
    after = re.sub(rf"^{re.escape(prefix)}", "", said.strip(), flags=re.IGNORECASE).strip()
    if part.metric == "doc_qa":
        return document_score(asked.answer, after, asked.answer_format)
    if part.metric == "binary":
        label = _yes_or_no(whole, digits=True)
        default = _HAYSTACK_DEFAULTS[number % len(_HAYSTACK_DEFAULTS)]
        return float((default if label is None else label) == _yes_or_no(str(asked.answer)))
    rule: dict[str, Callable[[str, Any], float]] = {
        "sub_em": _contains,
        "soft_acc": lambda said, answer: float(sum(_counts(said)) == sum(answer)),
        "mc_acc": _letter,
        "cls_acc": _label,
    }
    return max(rule[part.metric](reading, asked.answer) for reading in (whole, after))


def _contains(said: str, answers: Any) -> float:
    flat: list[str] = []
    for answer in [answers] if isinstance(answers, str) else answers:
        flat.extend(answer if isinstance(answer, list) else [answer])
    return float(any(_normal(str(answer)) in _normal(said) for answer in flat))


def _counts(said: str) -> list[float]:
    """The last list in brackets, else every number."""
    text = _without_articles(said)
    for pattern in (r"\[[\d\s,]+\]", r"\[.*?\]"):
        found = re.findall(pattern, text, re.DOTALL)
        if found:
            try:
                values = json.loads(found[-1])
            except (ValueError, RecursionError):
                continue
            return [float(n) for n in map(_whole_number, values) if n is not None]
    return [float(number) for number in re.findall(r"\d+", text)]


def _whole_number(value: Any) -> int | None:
    """None also of `²`, which is a digit, of infinity, and of more digits than Python reads."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _letter(said: str, answer: int) -> float:
    text = " ".join(said.split())
    found = re.search(r"answer is \(?([A-J])\)?", text) or re.search(r"[aA]nswer:\s*([A-J])", text)
    if found is None:
        alone = re.findall(r"\b([A-J])\b", text)
        return float(bool(alone) and ord(alone[-1]) - ord("A") == answer)
    return float(ord(found[1]) - ord("A") == answer)


def _label(said: str, answer: int) -> float:
    text = " ".join(said.split())
    found = re.search(r"label:\s*(\d+)", text, re.IGNORECASE)
    if found:
        return float(_whole_number(found[1]) == answer)
    alone = re.findall(r"\b(\d+)\b", text)
    if alone:
        return float(_whole_number(alone[-1]) == answer)
    some = re.findall(r"\d+", text)
    return float(bool(some) and _whole_number(some[0]) == answer)


def _yes_or_no(said: str, *, digits: bool = False) -> int | None:
    """1 for the last `yes`, 0 for the last `no`, None for neither."""
    text = _without_articles(said)
    found = re.findall(r"\b(yes|no)\b", text)
    if found:
        return int(found[-1] == "yes")
    return _whole_number(text) if digits and text.isdigit() else None


def document_score(answer: Any, said: str, answer_format: str) -> float:
    """The rules for questions on documents: numbers within 1 %, texts by F1 of their words.

    Args:
        answer: As the file has it; a List as JSON.
        said: The answer without its prefix.
        answer_format: Integer, Float, String, None or List.

    Raises:
        ValueError: If the format is none of these, or the answer is not of it.
    """
    if answer_format == "Integer":
        wanted = float(_clean(answer))
        if wanted != int(wanted):
            raise ValueError(f"the answer {answer!r} is no whole number")
        return float(any(number == wanted for number in _numbers(_clean(said))))
    if answer_format == "Float":
        wanted = float(_clean(answer))
        values = (wanted / 100, wanted, wanted * 100)
        return float(
            any(math.isclose(v, n, rel_tol=0.01) for n in _numbers(_clean(said)) for v in values)
        )
    if answer_format in ("String", "None"):
        if _is_verbatim(str(answer)):
            return float(str(answer) in said)
        return _word_f1(said, str(answer))
    if answer_format == "List":
        items = json.loads(answer) if isinstance(answer, str) else list(answer)
        # Texts are scored together: word by word, one of several would have little precision.
        together = [
            item
            for item in items
            if isinstance(item, str) and _kind(item) == "String" and not _is_verbatim(item)
        ]
        rest = [item for item in items if item not in together]
        joined = " ".join(together).strip()
        scored = ([joined] if joined else []) + rest
        if not scored:
            raise ValueError(f"the answer {answer!r} is an empty list")
        scores = [document_score(item, said, _kind(item)) for item in scored]
        return math.fsum(scores) / len(scores)
    raise ValueError(f"the answer format {answer_format!r} is unknown")


def _kind(item: Any) -> str:
    if isinstance(item, float):
        return "Float"
    if isinstance(item, int):
        return "Integer"
    try:
        number = float(_clean(item))
        return "Integer" if number == int(number) and "%" not in item else "Float"
    except (ValueError, OverflowError):
        return "String"


_UNITS = ("kg", "meters", "acres", "minutes", "miles", "mile", "feet", "million", "thousand",
          "billion", "mm", "m")  # fmt: skip
_VERBATIM = (
    r"https://", r".*\.(py|ipynb)$", r"^page", r"^\d+(-\d+|\s\d+)?$", r"(a\.m\.|p\.m\.)",
    r"^\d{4}[-/\s]\d{1,2}[-/\s]\d{1,2}$", r"^\d{1,2}[-/\s]\d{1,2}[-/\s]\d{2,4}$",
    r"^\d{4}[-/\s]\d{1,2}$", r"^[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}$",
)  # fmt: skip


def _clean(value: Any) -> str:
    """A text without separators, units at its end, quotes and signs of money or percent."""
    text = str(value).lower().strip().replace(",", "")
    for unit in _UNITS:
        text = text.removesuffix(unit).strip()
    text = re.sub(r"^['\"]|['\"]$", "", text).strip()
    for sign in "$£%":
        text = text.strip(sign).strip()
    return text


def _numbers(text: str) -> list[float]:
    found = re.findall(r"-?\d+(?:\.\d*)?|-?\.\d+", text.replace(",", ""))
    return [number for number in map(float, found) if math.isfinite(number)]


def _is_verbatim(answer: str) -> bool:
    """Whether an answer is right only as it stands: a date, an address, a page."""
    return any(re.search(pattern, answer) for pattern in _VERBATIM)


def _word_f1(said: str, answer: str) -> float:
    ours, theirs = _normal(said).split(), _normal(answer).split()
    same = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * same / (len(ours) + len(theirs)) if same else 0.0


def _without_articles(text: str) -> str:
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower()).split())


def _normal(text: str) -> str:
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return _without_articles(bare)
