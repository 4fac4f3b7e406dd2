"""Lists as published, as CSV, and wrong in every way that a line can be."""

import pytest

from pavdm.batch.clip_names import ClipName
from pavdm.batch.items import COLUMNS, FLAGS, choose
from pavdm.batch.prompt_list import Problems, read_list
from pavdm.errors import InputError
from pavdm.options import parser


def read(path, text):
    path.write_text(text, encoding="utf-8")
    return read_list(path, COLUMNS, Problems(path))


def test_the_published_form_and_open_sora_s_json_suffix(tmp_path):
    lines = read(
        tmp_path / "list.txt",
        "Tour of an art gallery, in styles.||sora/artgallery_s0_16f_320x176.mp4\n"
        "\n"
        'a lake{"reference_path": "lake.mp4", "mask_strategy": "0,0,0,0,5,0"}\n'
        "|0| sun |3| rain||a b.mp4\n"
        "from text alone {of a kind}\n".replace(" {of a kind}", ""),
    )
    assert [line.options for line in lines] == [
        {"prompt": "Tour of an art gallery, in styles.", "clip": "sora/artgallery_s0_16f_320x176.mp4"},
        {"prompt": "a lake", "clip": "lake.mp4", "mask_strategy": "0,0,0,0,5,0"},
        {"prompt": "|0| sun |3| rain", "clip": "a b.mp4"},
        {"prompt": "from text alone"},
    ]
    assert [(line.index, line.number) for line in lines] == [(0, 1), (2, 3), (3, 4), (4, 5)]
    assert [line.index for line in choose(lines, 2, 4)] == [2, 3]  # a slice of the file's lines, as published
    with pytest.raises(InputError, match="no line"):
        choose(lines, 5, None)


def test_every_bad_line_is_named_by_its_number_at_once(tmp_path):
    bad = {
        2: ("||clip.mp4", "the prompt is empty"),
        3: ("a||b.mp4||c.mp4", "2 times"),
        4: ("a||", "no video file"),
        5: ('a{"reference_path": }', "no JSON"),
        6: ('a{"seed": "3"}', "'seed'"),
        7: ('a{"reference_path": "a.mp4;b.mp4"}', "one clip"),
        8: ("a | clip.mp4", "without ||"),
        9: ('a{"reference_path": 3}', "must be texts"),
        10: ('a||b.mp4{"mask_strategy": "0,0,0,0,5,0"}', "as reference_path"),
    }
    with pytest.raises(InputError) as error:
        read(tmp_path / "list.txt", "\n".join(["good", *(text for text, _ in bad.values())]))
    told = dict(line.strip().removeprefix("line ").split(": ", 1) for line in str(error.value).splitlines()[1:])
    assert list(told) == [str(number) for number in bad]
    for number, (_, reason) in bad.items():
        assert reason in told[str(number)]


def test_a_csv_holds_settings_of_every_line(tmp_path):
    text = 'prompt,clip,seed,no-overlap\n"a, b\nc",clip.mp4,7,yes\nplain,,,\n'
    first, second = read(tmp_path / "list.csv", text)
    assert first.options == {"prompt": "a, b\nc", "clip": "clip.mp4", "seed": "7", "no_overlap": "yes"}
    assert second.options == {"prompt": "plain"} and second.number == 4
    with pytest.raises(InputError, match="'sed'"):
        read(tmp_path / "list.csv", "prompt,sed\na,1\n")
    with pytest.raises(InputError, match="line 3: 3 fields, but 2"):
        read(tmp_path / "list.csv", "prompt,seed\na,1\nb,c,1\n")
    with pytest.raises(InputError, match="line 2: the prompt"):
        read(tmp_path / "list.csv", "prompt,seed\n,1\n")


def test_unreadable_and_empty_lists_are_named(tmp_path):
    for content, reason in ((b"\xff\xfe\x00", "UTF-8"), (b"\n \n", "empty")):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(InputError, match=reason):
            read_list(tmp_path / "list.txt", COLUMNS, Problems(tmp_path))
    with pytest.raises(InputError, match="No such file"):
        read_list(tmp_path / "absent.txt", COLUMNS, Problems(tmp_path))


def test_columns_are_options_of_extend():
    options = vars(parser().parse_args(["extend", "clip", "--prompt", "", "--seconds", "1", "--out", ""]))
    assert set(COLUMNS) <= set(options)
    assert {name for name in COLUMNS if options[name] is False} == set(FLAGS)


@pytest.mark.parametrize(
    ("path", "meaning"),
    [
        ("a/artgallery_s0_16f_320x176.mp4", ClipName("artgallery", 0, 16, 320, 176)),
        ("cat-in-the-sun_s120_17f_424x240.webm", ClipName("cat-in-the-sun", 120, 17, 424, 240)),
        ("take_s1_s2_16f_8x4.mp4", ClipName("take_s1", 2, 16, 8, 4)),
        ("artgallery.mp4", None),
        ("artgallery_s0_16f.mp4", None),
    ],
)
def test_a_clip_s_name_says_where_it_begins_and_how_large_it_is(path, meaning):
    assert ClipName.parse(path) == meaning
    if meaning is not None:
        assert f"{meaning}." in path
