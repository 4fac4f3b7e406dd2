"""Prompt text as the network was trained to read it: a score suffix, then caption cleaning applied twice.

Open-Sora cleaned every training caption with the rules below (they go back to PixArt's), so a prompt has to
go through the same rules, oddities included, to give the tokens the network knows. The text must come out
equal to the published one, character by character; the order of the rules is part of that. Two things a
reader may trip over:

- Chinese and Japanese (kanji) characters are removed altogether: such a prompt has to be translated first.
- The last whitespace is only stripped after the rules for the text's edges, so those rules do not see through
  a space that an earlier removal left at an edge. The second pass does.
"""

from __future__ import annotations

import html
import logging
import re
import warnings
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote_plus

from pavdm.errors import InputError

logger = logging.getLogger(__name__)


class Rule(NamedTuple):
    """Every match of `pattern` becomes `replacement`."""

    name: str
    pattern: re.Pattern[str]
    replacement: str


def _rule(name: str, pattern: str, replacement: str = "") -> Rule:
    return Rule(name, re.compile(pattern), replacement)


_HOST = r"[a-z0-9.\-]+\.(?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
_FILE_TYPES = r"(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"

# Before tags are parsed, while `<` still means markup. The text is in lower case by then.
ADDRESS_RULES: tuple[Rule, ...] = (
    _rule("anonymised person", r"<person>", "person"),
    _rule("web address", rf"\b(?:https?:(?:/{{1,3}}|[a-z0-9%])|{_HOST})"),
    # Hosts that the rule above uncovered, by removing what stood in front of them.
    _rule("web address left over", rf"\b(?:www:(?:/{{1,3}}|[a-z0-9%])|{_HOST})"),
)

# What scraped captions carry besides the description.
CLUTTER_RULES: tuple[Rule, ...] = (
    _rule("nickname", r"@\w+"),
    _rule("Chinese characters, enclosed and compatibility forms", r"[\u31c0-\u9fff]+"),
    _rule(
        "dashes of all scripts",
        r"[\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40"
        r"\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d]+",
        "-",
    ),
    _rule("double quotes", r"[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]", '"'),
    _rule("single quotes", r"[\u2018\u2019]", "'"),
    _rule("entity of a double quote", r"&quot;?"),
    _rule("entity of an ampersand", r"&amp"),
    _rule("IP address", r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),
    _rule("clock time before a line's end", r"\d:\d\d\s+$"),
    _rule("written-out line break", r"\\n", " "),
    _rule("hash and number", r"#(?:\d{1,3}|\d{5,})\b"),  # not of four digits: that may be a year
    _rule("long number", r"\b\d{6,}\b"),
    _rule("file name", rf"\S+\.{_FILE_TYPES}"),
    _rule("repeated quotes", r"[\"']{2,}", '"'),
    _rule("repeated dots", r"\.{2,}", " "),
    _rule("symbols and brackets", r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]+", " "),
    _rule("lone dot", r"\s+\.\s+", " "),
)

_WORD_JOINER = re.compile(r"[-_]")
_MOST_JOINERS = 3  # with more of them, the caption is a name such as this-is-my-cute-cat

# Product codes and shop phrases, then spacing. Capitals can be back by now, out of doubly escaped entities.
CATALOGUE_RULES: tuple[Rule, ...] = (
    _rule("code such as jc6640", r"\b[a-zA-Z]{1,3}\d{3,15}\b"),
    _rule("code such as jc6640vc", r"\b[a-zA-Z]+\d+[a-zA-Z]+\b"),
    _rule("code such as 6640vc231", r"\b\d+[a-zA-Z]+\d+\b"),
    _rule("shipping", r"(?:worldwide\s+)?(?:free\s+)?shipping"),
    _rule("download", r"(?:free\s)?download(?:\sfree)?"),
    _rule("click for, click on", r"\bclick\s(?:for|on)\s\w+"),
    _rule("file type", rf"\b{_FILE_TYPES}(?:\simages?)?"),
    _rule("page number", r"\bpage\s+\d+\b"),
    _rule("code such as j2d1a2a", r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    _rule("size such as 1024x768", r"\b\d+\.?\d*[x\u0445\u00d7]\d+\.?\d*\b"),  # or a Cyrillic x, or a times sign
    _rule("space before a colon", r"\b\s+:\s+", ": "),
    _rule("no space after punctuation", r"(\D[,./])\b", r"\1 "),
    _rule("run of spaces", r"\s+", " "),
)

EDGE_RULES: tuple[Rule, ...] = (
    _rule("quotes around everything", r"^[\"'](.+)[\"']$", r"\1"),
    _rule("punctuation in front", r"^['_,\-:;]"),
    _rule("punctuation at the end", r"['_,\-:+]$"),
    _rule("nothing but an extension", r"^\.\S+$"),
)


def clean_caption(text: str) -> str:
    """One pass of caption cleaning, equal to Open-Sora v1.2's (`opensora/models/text_encoder/t5.py`).

    Raises InputError for the few texts that its HTML parser refuses.
    """
    import ftfy

    text = unquote_plus(text).strip().lower()
    text = _apply(ADDRESS_RULES, text)
    text = _without_tags(text)
    text = _apply(CLUTTER_RULES, text)
    if len(_WORD_JOINER.findall(text)) > _MOST_JOINERS:
        text = _WORD_JOINER.sub(" ", text)
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    text = _apply(CATALOGUE_RULES, text)
    return _apply(EDGE_RULES, text).strip()


def add_scores(text: str, aesthetic: float | None = 6.5, motion: float | None = None, camera: str | None = None) -> str:
    """`text` with the suffix that Open-Sora was trained to be steered by. A score is left out when it is
    None, or when the text already names one of its kind.

    aesthetic: 1 to 10, where 6.5 counts as high. motion: mean optical flow, 0 is a still picture. camera:
    "pan left". Source: `opensora/utils/inference_utils.py`, append_score_to_prompts.
    """
    suffix = ""
    if aesthetic is not None and "aesthetic score:" not in text:
        suffix += f" aesthetic score: {aesthetic:.1f}."
    if motion is not None and "motion score:" not in text:
        suffix += f" motion score: {motion:.1f}."
    if camera is not None and "camera motion:" not in text:
        suffix += f" camera motion: {camera}."
    return text + suffix


def preprocess(text: str, aesthetic: float | None = 6.5, motion: float | None = None, camera: str | None = None) -> str:
    """What the text encoder gets for a prompt: scores added, then cleaned twice, as in training.

    Logs a warning when the rules leave nothing of a prompt that was not blank.
    """
    if text.strip() and not clean_caption(clean_caption(text)):
        logger.warning(
            "nothing is left of the prompt %r after cleaning, which removes Chinese characters, links, "
            "file names and product codes: describe the video in English words",
            text,
        )
    return clean_caption(clean_caption(add_scores(text, aesthetic, motion, camera)))


def _apply(rules: Iterable[Rule], text: str) -> str:
    for rule in rules:
        text = rule.pattern.sub(rule.replacement, text)
    return text


def _without_tags(text: str) -> str:
    from bs4 import BeautifulSoup
    from bs4.exceptions import ParserRejectedMarkup

    with warnings.catch_warnings():
        # A prompt that looks like a file name or a link is still a prompt.
        warnings.simplefilter("ignore", UserWarning)
        try:
            return BeautifulSoup(text, features="html.parser").text
        except ParserRejectedMarkup:
            raise InputError(
                f"expected a prompt in plain words, got a broken HTML declaration: take '<![' out of {text!r}"
            ) from None
        except UnicodeEncodeError:
            raise InputError(
                f"expected a prompt in valid Unicode, got {text!r}: save it as UTF-8, or type it anew"
            ) from None
