"""Small data sets in the schemas of the hub's, drawn and written by hand, for the task tests.

Pictures are embedded in parquet as the hub's are; the questions are our own. `write_nltk_data`
writes a WordNet of a dozen words in WordNet's file format, with a tokenizer and a tagger in NLTK's.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, Value
from PIL import Image as PillowImage
from PIL import ImageDraw

from longva_eval.tasks.mini.mini_benchmark import encode_video

TEXT, NUMBER, PICTURE, TEXTS = Value("string"), Value("int64"), Image(), [Value("string")]


@dataclass(frozen=True)
class HubData:
    """A split of a data set: where it belongs, its columns and its rows."""

    path: str
    config: str | None
    split: str
    features: dict[str, Any]
    rows: Sequence[Mapping[str, Any]]

    def dataset(self, rows: Sequence[Mapping[str, Any]] | None = None) -> Dataset:
        """The rows, or others of the same columns, as `datasets` hands them to a task."""
        chosen = list(map(dict, self.rows if rows is None else rows))
        return Dataset.from_list(chosen, features=Features(self.features))

    def write(self, folder: Path) -> Path:
        """The split as the hub's parquet file."""
        place = folder / (self.config or "data")
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"{self.split}-00000-of-00001.parquet"
        self.dataset().to_parquet(path)
        return path


def picture(number: int, *, size: tuple[int, int] = (120, 80), kind: str = "PNG") -> dict[str, Any]:
    """A drawn picture as the hub embeds it."""
    image = PillowImage.new("RGB", size, (30 * (number % 8), 120, 200 - 20 * (number % 9)))
    draw = ImageDraw.Draw(image)
    draw.rectangle((10 + number, 10, 40 + number, 60), fill=(250, 40 * (number % 6), 10))
    draw.text((50, 30), f"No {number}", fill=(255, 255, 255))
    stream = io.BytesIO()
    image.save(stream, kind)
    return {"bytes": stream.getvalue(), "path": f"{number}.{kind.lower()}"}


def ai2d() -> HubData:
    rows = [
        {
            "question": f"Which part of the plant does the label {letter} show?",
            "options": ["root", "stem", "leaf", "flower"],
            "answer": str(number),
            "image": picture(number // 2),  # two questions a diagram
        }
        for number, letter in enumerate("WXYZ")
    ]
    features = {"question": TEXT, "options": TEXTS, "answer": TEXT, "image": PICTURE}
    return HubData("lmms-lab-encoder/ai2d", None, "test", features, rows)


def chartqa() -> HubData:
    asked = [
        ("human_test", "What is the highest value of the blue line?", "40"),
        ("human_test", "Does the red bar rise after 2015?", "Yes"),
        ("augmented_test", "What share of people had a radio in 2004?", "12.5%"),
        ("augmented_test", "Which country sold the most rice?", "Thailand"),
    ]
    rows = [
        {"type": kind, "question": question, "answer": answer, "image": picture(number)}
        for number, (kind, question, answer) in enumerate(asked)
    ]
    features = {"type": TEXT, "question": TEXT, "answer": TEXT, "image": PICTURE}
    return HubData("lmms-lab-encoder/ChartQA", None, "test", features, rows)


def docvqa(split: str = "validation") -> HubData:
    asked = [
        ("What is the date of the letter?", ["May 4, 1998", "4 May 1998"], ["handwritten", "form"]),
        ("Who signed the memo?", ["J. Harper"], ["layout"]),
        ("What is the total of the second column?", ["1,204"], ["table/list"]),
    ]
    rows = [
        {
            "questionId": str(49153 + number + 10_000 * (split == "test")),
            "question": question,
            "question_types": kinds,
            "image": picture(number, size=(170, 220)),
            "docId": 14465 + number // 2,
            "ucsf_document_id": "snbx0223",
            "ucsf_document_page_no": "5",
            "answers": answers if split == "validation" else None,
            "data_split": "val" if split == "validation" else "test",
        }
        for number, (question, answers, kinds) in enumerate(asked)
    ]
    features = {
        "questionId": TEXT, "question": TEXT, "question_types": TEXTS, "image": PICTURE,
        "docId": NUMBER, "ucsf_document_id": TEXT, "ucsf_document_page_no": TEXT, "answers": TEXTS,
        "data_split": TEXT,
    }  # fmt: skip
    return HubData("lmms-lab-encoder/DocVQA", "DocVQA", split, features, rows)


def infovqa(split: str = "validation") -> HubData:
    asked = [
        ("How many glasses of water a day does it advise?", ["8", "eight"], ["single span"]),
        ("Which city is named first?", ["Lima"], ["question span"]),
    ]
    rows = [
        {
            "questionId": str(65718 + number + 10_000 * (split == "test")),
            "question": question,
            "answers": answers if split == "validation" else None,
            "answer_type": kinds if split == "validation" else None,
            "image": picture(number, size=(90, 260), kind="JPEG"),
            "image_url": f"https://example.org/{number}.jpeg",
            "operation/reasoning": None,
            "ocr": "[]",
            "data_split": "val" if split == "validation" else "test",
        }
        for number, (question, answers, kinds) in enumerate(asked)
    ]
    features = {
        "questionId": TEXT, "question": TEXT, "answers": TEXTS, "answer_type": TEXTS,
        "image": PICTURE, "image_url": TEXT, "operation/reasoning": TEXTS, "ocr": TEXT,
        "data_split": TEXT,
    }  # fmt: skip
    return HubData("lmms-lab-encoder/DocVQA", "InfographicVQA", split, features, rows)


def realworldqa() -> HubData:
    letter = "Please answer directly with only the letter of the correct option and nothing else."
    word = "Please answer directly with a single word or number."
    asked = [
        (f"In which direction is the car turning?\n\nA. Left\nB. Right\nC. Ahead\n{letter}", "B"),
        (f"How many lanes are there? {word}", "2"),
        (f"Which animal is nearer?\n\nA. The dog.\nB. The cat.\n{letter}", "A"),
        (f"Is the road going uphill or downhill? {word}", "Downhill"),
    ]
    rows = [
        {
            "image": picture(number, kind="WEBP"),
            "image_path": f"{number}.webp",
            "question": question,
            "answer": answer,
        }
        for number, (question, answer) in enumerate(asked)
    ]
    features = {"image": PICTURE, "image_path": TEXT, "question": TEXT, "answer": TEXT}
    return HubData("lmms-lab-encoder/RealWorldQA", None, "test", features, rows)


def mmmu(split: str = "validation") -> HubData:
    asked = [
        ("Accounting_1", "<image 1> What is the profit?", "['$6', '$7', '$8', '$9']", "B"),
        ("Music_7", "Which of <image 2> and <image 1> is a canon?",
         "['<image 3>', 'both', 'none']", "A"),
        ("Math_15", "<image 1> What is the slope?", "[]", "['24/7', '3.429']"),
        ("Geography_4", "<image 1> Which city is meant?", "[]", "Tampa"),
    ]  # fmt: skip
    rows = []
    for number, (name, question, options, answer) in enumerate(asked):
        row: dict[str, Any] = {
            "id": f"{split}_{name}",
            "question": question,
            "options": options,
            "explanation": "",
            "img_type": "['Tables']",
            "answer": answer if split == "validation" else "?",
            "topic_difficulty": "Easy",
            "question_type": "multiple-choice" if options != "[]" else "open",
            "subfield": "General",
        }
        pictures = {"Music_7": 3}.get(name, 1)
        for place in range(1, 8):
            row[f"image_{place}"] = picture(10 * number + place) if place <= pictures else None
        rows.append(row)
    texts = ("id", "question", "options", "explanation", "img_type", "answer", "topic_difficulty",
             "question_type", "subfield")  # fmt: skip
    features: dict[str, Any] = dict.fromkeys(texts, TEXT)
    features |= {f"image_{place}": PICTURE for place in range(1, 8)}
    return HubData("lmms-lab-encoder/MMMU", None, split, features, rows)


def nextqa_mc() -> HubData:
    rows = [
        {
            "video": 4882821564 + number // 2,
            "frame_count": 60,
            "width": 64,
            "height": 64,
            "question": ["why did the boy pick up the ball", "what does the dog do at the end",
                         "how many people are there"][number],
            "answer": [2, 0, 4][number],
            "qid": number % 2,
            "type": ["CW", "TN", "DC"][number],
            **{f"a{place}": f"{word} {number}"
               for place, word in enumerate(["run", "sit down", "throw it", "eat", "sleep"])},
        }
        for number in range(3)
    ]  # fmt: skip
    numbers = ("video", "frame_count", "width", "height", "answer", "qid")
    features: dict[str, Any] = dict.fromkeys(numbers, NUMBER)
    features |= dict.fromkeys(("question", "type", "a0", "a1", "a2", "a3", "a4"), TEXT)
    return HubData("lmms-eval/NExTQA", "MC", "test", features, rows)


def nextqa_oe(split: str = "test") -> HubData:
    asked = [
        ("what is the boy playing with", "dog", "TN", "cat"),
        ("how many dogs are there", "two", "DC", None),
        ("why is the dog running", "to get the ball", "CW", None),
    ]
    rows = [
        {
            "video": 4882821564 + number // 2,
            "frame_count": 60,
            "width": 64,
            "height": 64,
            "question": question,
            "answer": answer,
            "qid": number % 2,
            "type": kind,
            "additional_ref_answer": other,
        }
        for number, (question, answer, kind, other) in enumerate(asked)
    ]
    numbers = ("video", "frame_count", "width", "height", "qid")
    features: dict[str, Any] = dict.fromkeys(numbers, NUMBER)
    features |= dict.fromkeys(("question", "answer", "type", "additional_ref_answer"), TEXT)
    return HubData("lmms-eval/NExTQA", "OE", split, features, rows)


def activitynetqa() -> HubData:
    rows = [
        {
            "video_name": "1QIUV7WYKXg",
            "question_id": f"v_1QIUV7WYKXg_{number}",
            "question": question,
            "answer": answer,
            "type": "3",
        }
        for number, (question, answer) in enumerate(
            [("is the athlete wearing trousers", "yes"), ("what is he holding", "a ball")]
        )
    ]
    features = dict.fromkeys(("video_name", "question_id", "question", "answer", "type"), TEXT)
    return HubData("lmms-eval/ActivityNetQA", None, "test", features, rows)


def videochatgpt(config: str = "Generic") -> HubData:
    pairs = config == "Consistency"
    rows = [
        {
            "video_name": f"v_p1QGn0IzfW0_{number // 2 if pairs else number}",
            "question": "None" if pairs else "What is happening in the video?",
            "question_1": "What does the man hold?" if pairs and number % 2 == 0 else "None",
            "question_2": "Which thing is in his hand?" if pairs and number % 2 == 1 else "None",
            "answer": "A man throws a ball.",
        }
        for number in range(4 if pairs else 2)
    ]
    names = ("video_name", "question", "question_1", "question_2", "answer")
    return HubData(
        "lmms-eval/VideoChatGPT", config, "test", dict.fromkeys(names, TEXT), rows
    )  # fmt: skip


def video_dd() -> HubData:
    rows = [
        {
            "video_name": "v_p1QGn0IzfW0_0",
            "question": "Please provide a detailed description of the video.",
            "answer": "A man throws a ball.",
        }
    ]
    names = ("video_name", "question", "answer")
    return HubData(
        "lmms-lab/VideoDetailDescription", None, "test", dict.fromkeys(names, TEXT), rows
    )  # fmt: skip


def write_video(path: Path, *, num_frames: int = 12) -> None:
    """A tiny H.264 file."""
    frames = [np.full((48, 64, 3), 20 * number, dtype=np.uint8) for number in range(num_frames)]
    path.parent.mkdir(parents=True, exist_ok=True)
    encode_video(path, frames, frame_rate=2)


def write_nltk_data(folder: Path) -> None:
    """NLTK's data for WUPS, of a dozen words."""
    parents = {
        "entity": None, "animal": "entity", "dog": "animal", "cat": "animal", "thing": "entity",
        "ball": "thing", "toy": "thing", "boy": "animal", "two": "entity", "three": "entity",
    }  # fmt: skip
    wordnet = folder / "corpora" / "wordnet"
    wordnet.mkdir(parents=True)
    _write_nouns(wordnet, parents)
    _write_verbs(wordnet, ("play", "get", "run"))
    for name in ("cntlist.rev", "index.sense", "index.adj", "index.adv", "data.adj", "data.adv",
                 "adj.exc", "adv.exc", "noun.exc"):  # fmt: skip
        (wordnet / name).write_text("")
    (wordnet / "verb.exc").write_text("ran run\n")
    names = [f"{number:02d}\tgroup.{number}\t1" for number in range(45)]
    (wordnet / "lexnames").write_text("\n".join(names) + "\n")
    punkt = folder / "tokenizers" / "punkt_tab" / "english"
    punkt.mkdir(parents=True)
    (punkt / "collocations.tab").write_text("mr\tsmith\n")
    (punkt / "sent_starters.txt").write_text("the\n")
    (punkt / "abbrev_types.txt").write_text("mr\n")
    (punkt / "ortho_context.tab").write_text("the\t46\n")
    tagger = folder / "taggers" / "averaged_perceptron_tagger_eng"
    tagger.mkdir(parents=True)
    tags = dict.fromkeys(("dogs", "cats", "balls"), "NNS") | dict.fromkeys(parents, "NN")
    tags |= {"playing": "VBG", "ran": "VBD", "with": "IN", "the": "DT", "a": "DT", "to": "TO"}
    stem = "averaged_perceptron_tagger_eng"
    (tagger / f"{stem}.weights.json").write_text(json.dumps({"bias": {"NN": 1.0}}))
    (tagger / f"{stem}.tagdict.json").write_text(json.dumps(tags))
    (tagger / f"{stem}.classes.json").write_text(json.dumps(sorted({*tags.values(), "NN"})))


def _write_nouns(folder: Path, parents: Mapping[str, str | None]) -> None:
    def lines(offsets: Mapping[str, int]) -> list[str]:
        return [
            f"{offsets[word]:08d} 03 n 01 {word} 0 "
            + (f"001 @ {offsets[parent]:08d} n 0000" if parent else "000")
            + f" | {word}"
            for word, parent in parents.items()
        ]

    _write_synsets(folder, "noun", "n", list(parents), lines)


def _write_verbs(folder: Path, words: Sequence[str]) -> None:
    def lines(offsets: Mapping[str, int]) -> list[str]:
        return [f"{offsets[word]:08d} 29 v 01 {word} 0 000 01 + 02 00 | {word}" for word in words]

    _write_synsets(folder, "verb", "v", words, lines)


def _write_synsets(
    folder: Path, name: str, part: str, words: Sequence[str], lines: Any
) -> None:  # fmt: skip
    """`data.noun` finds a synset by its place in the file, so lines are laid out twice."""
    offsets = dict.fromkeys(words, 0)
    places = dict(offsets)
    position = 0
    for word, line in zip(words, lines(offsets), strict=True):
        places[word] = position
        position += len(line) + 1
    (folder / f"data.{name}").write_text("".join(f"{line}\n" for line in lines(places)))
    index = [f"{word} {part} 1 0 1 0 {places[word]:08d}  \n" for word in sorted(words)]
    (folder / f"index.{name}").write_text("".join(index))
