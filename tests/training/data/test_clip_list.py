"""Lists of captioned clips as people write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pavdm.errors import InputError
from pavdm.training.data.clip_list import CaptionedClip, read_clip_list


def test_open_soras_csv_is_read_with_its_other_columns_quotes_and_byte_order_mark(tmp_path):
    text = 'path,id,text,num_frames\na.mp4,1,"A dog, running.",51\nsub/b.mp4,2," Two\nlines ",16\n'
    (tmp_path / "clips.csv").write_text(text, encoding="utf-8-sig")
    clips, skipped = read_clip_list(tmp_path / "clips.csv")
    assert clips == [
        CaptionedClip(tmp_path / "a.mp4", "A dog, running."),
        CaptionedClip(tmp_path / "sub/b.mp4", "Two\nlines"),
    ]
    assert skipped == []


def test_json_lines_are_read(tmp_path):
    rows = [{"path": "a.mp4", "text": "Grüße"}, {"text": "x", "path": "/data/b.mp4", "fps": 24}]
    (tmp_path / "clips.jsonl").write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    clips, _ = read_clip_list(tmp_path / "clips.jsonl")
    assert clips == [CaptionedClip(tmp_path / "a.mp4", "Grüße"), CaptionedClip(Path("/data/b.mp4"), "x")]


def test_relative_paths_start_at_the_list_and_only_then_where_the_user_stands(tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    (tmp_path / "here").mkdir()
    for name in ("lists/a.mp4", "here/a.mp4", "here/b.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "lists" / "clips.csv").write_text("path,text\na.mp4,x\nb.mp4,y\nc.mp4,z\n")
    monkeypatch.chdir(tmp_path / "here")
    clips, _ = read_clip_list(tmp_path / "lists" / "clips.csv")
    assert [clip.path for clip in clips] == [tmp_path / "lists/a.mp4", Path("b.mp4"), tmp_path / "lists/c.mp4"]


def test_a_folder_gives_each_clip_the_text_beside_it_and_lists_those_without(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.mp4", "deep/a.MOV", "lonely.webm", ".hidden.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "b.txt").write_text("bee\n")
    (tmp_path / "deep" / "a.txt").write_text("ay")
    clips, skipped = read_clip_list(tmp_path)
    assert clips == [CaptionedClip(tmp_path / "b.mp4", "bee"), CaptionedClip(tmp_path / "deep/a.MOV", "ay")]
    assert [(s.path.name, s.reason) for s in skipped] == [("lonely.webm", "no caption: lonely.txt is not beside it")]
    (tmp_path / "b.txt").write_bytes("caf\xe9".encode("latin-1"))
    clips, skipped = read_clip_list(tmp_path)
    assert [clip.text for clip in clips] == ["ay"]
    assert next((s.path.name, s.reason) for s in skipped) == ("b.mp4", "its caption b.txt is not text in UTF-8")


def test_a_caption_in_the_place_of_a_path_is_a_file_that_is_not_there(tmp_path):
    (tmp_path / "a.csv").write_text("path,text\n" + "a long caption " * 40 + ",x.mp4\n")
    ((clip,), _) = read_clip_list(tmp_path / "a.csv")
    assert clip.text == "x.mp4" and clip.path.parent == tmp_path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "file,text\nx.mp4,y\n", "must name the columns, path and text among them: got 'file', 'text'"),
        ("a.csv", "x.mp4,y\n", "got 'x.mp4', 'y'"),
        ("a.csv", "path;text\nx.mp4;y\n", "got 'path;text'"),
        ("a.csv", "", "got nothing"),
        ("a.csv", "path,text\nx.mp4,y\nz.mp4\n", "line 3: expected the fields path and text"),
        ("a.csv", "path,text\n", "names no clip"),
        ("a.jsonl", '{"path": "x.mp4", "text": "y"}\n{"path": ', "line 2: not JSON"),
        ("a.jsonl", '["x.mp4", "y"]', "line 1: expected the fields"),
        ("a.jsonl", '{"path": "x.mp4", "text": 3}', "line 1: expected the fields"),
        ("a.csv", b"path,text\n\xff\xfe,\x00\n", "not text in UTF-8"),
        ("a.xls", "", "expected a .csv or .jsonl file, or a folder"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_with_the_place(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        read_clip_list(path)


def test_a_list_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_clip_list(tmp_path / "none.csv")
