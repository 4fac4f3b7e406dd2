from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from pavdm.captions import add_scores, clean_caption, preprocess
from pavdm.errors import InputError

GOLDEN = json.loads((Path(__file__).parent / "golden" / "text_cleaning.json").read_text(encoding="utf-8"))

# Texts for every rule, and what the published function, run twice, makes of them (ftfy 6.3.1, bs4 4.15.0).
PUBLISHED = [
    ("<PERSON> on a bike", "person on a bike"),
    ("https:example.com now", "now"),
    ("see https:///example.com/a_b-c/ and user@mail.com", "see and user"),
    ("it:foo.co.uk.org/x www:/y", "it: y"),
    ("http://a.com@b.net x.it/", "a. com"),
    ("mail me @a_b1 or @@x", "mail me or"),
    ("\u32ff\u337f\u3400\u4dc0\u9fa5 x \u31f0\u3002\u30ab", "x \u3002\u30ab"),
    ("a \u2010\u2013\u2014\u2015\u2e17\u301c\u3030\u30a0\ufe31\ufe63\uff0d\u05be b", "a - b"),
    (
        "the `old\u00b4 \u00abbig\u00bb \u201csea\u201d\u00a8 and \u2018wind\u2019",
        'the "old" "big" "sea" and \'wind',
    ),
    ("a \u2019\u2018 b", 'a " b'),
    ("x &amp;quot; y &amp;quot z &amp;amp w", "x y z w"),
    ("from 10.0.0.255 to 1.2.3.4.5", "from to 5"),
    ("starts at 9:45 \n", "starts at 9:45"),
    ("starts at 9:45 &#32;", "starts at"),
    ("one\\ntwo", "one two"),
    ("#1 #1234 #123456 #12_", "1234 12"),
    ("call 5551234567 or 55512", "call or 55512"),
    ("see my.holiday.jpeg.bak for more", "see bak for more"),
    ("wait \"''no''\" .... stop", 'wait "no" stop'),
    ("a ~tilde~ \u00a75 [x] {y} a|b c\\d e/f \u00bd \u00be \u00bf\u00a1", "a tilde 5 x y a b c d e f"),
    ("left . right", "left right"),
    ("a-b_c-d", "a-b_c-d"),
    ("a-b_c-d-e", "a b c d e"),
    ("ab123 abcd1234 x99999", "abcd1234"),
    ("ab12cd in 4k", "in 4k"),
    ("12ab34 wins", "wins"),
    ("free  worldwide shipping and worldwide free shipping", "free and"),
    ("free download free", ""),
    ("Click on this, click for that, clicked on it", "clicked on it"),
    ("png images and a jpg image, apk", "and a"),
    ("page 12 of pages 3", "of pages 3"),
    ("x1y2z3 and 9a8b7c", "and"),
    ("a 1920x1080 and 3.5\u04454 and 2\u00d72.5 screen", "a and and screen"),
    ("red : green :blue", "red: green :blue"),
    ("one,two.three/four", "one, two. three four"),
    ("3.5 and a.5", "3.5 and a. 5"),
    ("\"'whole'\"", "whole"),
    ("'front only", "front only"),
    ("- back -", "back"),
    ("+end+", "end"),
    ("; semicolon", "semicolon"),
    (".htaccess", ""),
    ("%41%2C+b%zz", "a, b%zz"),
    ("&amp;amp;#67;D12E", ""),
    (
        "sch\u00c3\u00b6n \u00e2\u20ac\u0153quoted\u00e2\u20ac\u009d &amp;amp;lt;b&amp;amp;gt;",
        'sch\u00e3\u00b6n "quoted" ;lt;b;gt;',
    ),
    ("<script>var x</script>y<style>z</style><!-- c -->", "y"),
    ("a < b > c <d", "a < b > c <d"),
    ("free\u00a0shipping", ""),
    ("\u0130stanbul STRASSE \ufb01 \uff21\uff22\uff23", "i\u0307stanbul strasse fi abc"),
    (
        "\U0001f469\u200d\U0001f469\u200d\U0001f467 family \U0001f600",
        "\U0001f469\u200d\U0001f469\u200d\U0001f467 family \U0001f600",
    ),
]


@pytest.mark.parametrize("case", GOLDEN, ids=range(len(GOLDEN)))
def test_prompts_come_out_as_published(case: dict[str, str]) -> None:
    prompt = case["prompt"]
    assert clean_caption(clean_caption(prompt)) == case["cleaned"]
    assert preprocess(prompt) == case["with_scores"]
    assert add_scores(prompt, aesthetic=5.2, motion=3.0, camera="pan left") == case["with_all"]


@pytest.mark.parametrize(("text", "cleaned"), PUBLISHED)
def test_every_cleaning_rule_acts_as_published(text: str, cleaned: str) -> None:
    assert clean_caption(clean_caption(text)) == cleaned


def test_scores_that_the_prompt_names_itself_are_not_added_again() -> None:
    text = "a cat. aesthetic score: 4.0. motion score: 1.0. camera motion: zoom in."
    assert add_scores(text, aesthetic=6.5, motion=9.0, camera="pan left") == text


def test_no_score_is_added_when_all_are_off() -> None:
    assert preprocess("A cat", aesthetic=None) == "a cat"


def test_a_prompt_that_cleaning_empties_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pavdm.captions"):
        assert preprocess("雨中的灯塔") == "aesthetic score: 6.5."
        assert len(caplog.records) == 1 and "雨中的灯塔" in caplog.text
        preprocess("a lighthouse in the rain 雨")
        preprocess("")
    assert len(caplog.records) == 1


@pytest.mark.parametrize("text", ["https://example.com/clip", "clip.mp4", "a/b"])
def test_a_prompt_that_looks_like_a_file_raises_no_parser_warning(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clean_caption(text)


@pytest.mark.parametrize(("text", "says"), [("a cat <![ sleeps", "<!["), ("a \ud800 cat", "UTF-8")])
def test_a_prompt_the_html_parser_refuses_is_an_input_error(text: str, says: str) -> None:
    with pytest.raises(InputError, match="expected a prompt") as caught:
        clean_caption(text)
    assert says in str(caught.value)


def test_importing_captions_and_prompts_stays_light() -> None:
    check = "import sys, pavdm.captions, pavdm.prompts; print({'bs4', 'ftfy', 'torch'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "set()"
