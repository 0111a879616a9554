"""The words LongVA-tiny knows, and the tokenizer made of them.

A word-level tokenizer keeps one word in one token, so an answer is one token and the aligned
visual tokens can be compared with word embeddings. Words are case-sensitive: the option letter
``A`` and the article ``a`` are different tokens.
"""

# ruff: noqa: SIM905  a list of a hundred quoted words is not easier to read
import re
from functools import cache
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence as PreTokenizerSequence
from tokenizers.pre_tokenizers import Split

from longva_eval.needle.scenes import COLORS, DISTRACTORS, LOCATORS

__all__ = [
    "CHATML_END",
    "CHATML_START",
    "COLOR_WORDS",
    "LETTERS",
    "NOUNS",
    "NUMBER_WORDS",
    "SECOND_WORDS",
    "encode",
    "save_tokenizer",
    "token_id",
    "vocabulary",
]

END_OF_TEXT: Final = "<|endoftext|>"
IM_START: Final = "<|im_start|>"
IM_END: Final = "<|im_end|>"
UNKNOWN: Final = "<unk>"
SPECIAL_TOKENS: Final = (END_OF_TEXT, IM_START, IM_END, UNKNOWN)

LETTERS: Final = ("A", "B", "C", "D")
COLOR_WORDS: Final = tuple(COLORS)
NUMBER_WORDS: Final = tuple("0123456789")

CHATML_START: Final = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
)
CHATML_END: Final = "<|im_end|>\n<|im_start|>assistant\n"

_PUNCTUATION = "\n . , : ; ? ! ( ) - '".split(" ")
_CHAT_WORDS = "system user assistant You are a helpful".split()
_QUESTION_WORDS = """
Select the best answer to following multiple choice question based on video Respond with only
letter part or of correct option The is Answer using single word phrase option s from given choices
directly Find find frame frames line What what color number it in shown Which which object has
this and for Question Option Options Choose your Based These are Please respond This that was
seen Look at picture image Video subtitles Carefully watch paying attention cause sequence
events detail movement objects action pose persons your observations select best accurately
addresses question
""".split()
# Nouns that never appear in a picture: they keep text retrieval general.
_OTHER_NOUNS = """
apple bear bird book bottle bread bridge brush bucket candle carpet castle cat chair clock cloud
coat coin cow crab desk dog door dress drum duck eagle egg engine farm feather fence fire flower
forest frog garden gate glass glove goat guitar hat hill horse island jar kite knife lake lamp
leaf lemon letter lion map market mask mirror monkey mountain mouse nest net onion owl paper
pencil phone piano pig pillow plane plate pond potato rabbit radio rice river road robot rock
rope sailor salt scarf sheep shell ship shoe snail snake soap sofa spider spoon stone stove
table tent tiger tower towel toy train truck turtle vase violin wagon wall whale wheel window
wolf wood yard zebra
""".split()
_FILLER_WORDS = """
we walk along old path while morning light falls over quiet town people talk about weather some
children play near market others wait friend nobody today time passes slowly then night
comes soft music sounds from house far away someone sings song here there many days after long
winter spring brings new hope small things change but life goes on as before every evening they
sit together tell stories laugh again  dust rests upon shelf wind turns pages
""".split()

SECOND_WORDS: Final = {
    "names": "number",
    "first": "What",
    "How": "What",
    "show": "shown",
    "comes": "is",
    "dark": "color",
    "object": "objects",
    "small": "the",
    "one": "it",
    "its": "the",
    "corner": "frame",
    "that": "This",
}
"""The words that longva-tiny-2 has beyond longva-tiny, and which known word each begins as."""

NOUNS: Final = tuple(dict.fromkeys((*LOCATORS, *DISTRACTORS, "nothing", *_OTHER_NOUNS)))
"""Every noun a fact can be about; the first ones can also be drawn."""
FILLERS: Final = tuple(word for word in dict.fromkeys(_FILLER_WORDS) if word not in NOUNS)

_WORD_PATTERN = r"\n|\w+|[^\w\s]"


@cache
def vocabulary(generation: int = 1) -> dict[str, int]:
    """All tokens in id order; those of the second generation follow those of the first."""
    words = [
        *SPECIAL_TOKENS,
        *_PUNCTUATION,
        *LETTERS,
        *COLOR_WORDS,
        *NUMBER_WORDS,
        "none",
        *NOUNS,
        *_CHAT_WORDS,
        *_QUESTION_WORDS,
        *FILLERS,
    ]
    if generation == 2:
        words += SECOND_WORDS
    return {word: index for index, word in enumerate(dict.fromkeys(words))}


def token_id(word: str, generation: int = 1) -> int:
    """The id of a word that must be known.

    Raises:
        KeyError: If the word is not in the vocabulary.
    """
    return vocabulary(generation)[word]


def encode(text: str, generation: int = 1) -> list[int]:
    """Token ids of a text, as the exported tokenizer gives them, for text the model must know.

    Raises:
        KeyError: If a word is not in the vocabulary.
    """
    pattern = "|".join(map(re.escape, SPECIAL_TOKENS)) + "|" + _WORD_PATTERN
    return [token_id(word, generation) for word in re.findall(pattern, text)]


def save_tokenizer(folder: Path, *, model_max_length: int, generation: int = 1) -> None:
    """Write tokenizer files that `AutoTokenizer.from_pretrained` reads without a network.

    Args:
        folder: Folder of the checkpoint.
        generation: Whose words.
        model_max_length: Longest sequence, in tokens, that the model was made for.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel(vocabulary(generation), unk_token=UNKNOWN))
    # Two steps, as only "removed" drops the white space between words; a newline is a word.
    tokenizer.pre_tokenizer = PreTokenizerSequence(
        [
            Split(Regex(r"[^\S\n]+"), behavior="removed"),
            Split(Regex(_WORD_PATTERN), behavior="isolated"),
        ]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        pad_token=END_OF_TEXT,
        eos_token=IM_END,
        additional_special_tokens=[IM_START, IM_END],
        model_max_length=model_max_length,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
