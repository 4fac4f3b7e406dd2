"""What is shown of a batch: readable on a terminal and in a file, whoever makes what."""

import io
import time
from pathlib import Path

import pytest

from pavdm.batch import show
from pavdm.batch.claims import Work
from pavdm.batch.items import Item
from pavdm.batch.member import Launch, Member, write_json
from pavdm.batch.results import MOST_ROWS, Result, table
from pavdm.batch.show import Display, member_lines
from pavdm.batch.work import Job
from pavdm.prompts import PromptSchedule
from pavdm.settings import Settings


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture
def jobs(tmp_path):
    """Two videos: one finished before, one to make."""
    made = []
    for index in range(2):
        settings = Settings(PromptSchedule(("a lake",)), Path(), seconds=1)
        work = Work(tmp_path, f"v_{index}")
        work.folder.mkdir(parents=True)
        made.append(Job(Item(work.name, index + 1, 0, settings), work, {}))
    finish(made[0])
    return made


def finish(job):
    job.work.video.write_text("")
    write_json(job.work.folder / "done.json", {"frames": 24, "seconds": 2.0, "by": "rank 1"})


@pytest.mark.parametrize("terminal", [True, False])
def test_news_and_one_line_for_each_process(tmp_path, jobs, terminal):
    stream = Stream(terminal)
    with Member(tmp_path / "members", Launch(run="r"), {"rank": 3}) as member:
        member.report("rank 3", doing="sampling", video="v_1", chunk=2, call=3, calls=12, fps=1.5)
        with Display(jobs, member, stream):
            while "rank 3 on" not in stream.getvalue():
                time.sleep(0.01)
            finish(jobs[1])
    shown = stream.getvalue()
    assert "1 of 2 done, 0 failed, 1 to make" in shown
    assert "v_1 |#####---------------| 25%, chunk 2, 1.50 frames/s" in shown
    assert f"{jobs[1].work.video}: 24 frames in 2.0 s by rank 1\n" in shown
    assert str(jobs[0].work.video) not in shown  # finished before
    assert ("\x1b" in shown) is terminal


def test_lines_never_break_or_scroll_on_a_small_terminal(tmp_path, jobs, monkeypatch):
    stream = Stream(True)
    monkeypatch.setattr(Display, "_size", lambda display: (40, 7))
    with Member(tmp_path / "members", Launch(run="r"), {"rank": 0}) as member:
        for number in range(9):
            member.report(f"server {number}", doing="sampling", video="v_1", chunk=2, call=3, calls=12, fps=1.5)
        with Display(jobs, member, stream):
            while stream.getvalue().count("\n") < 5:
                time.sleep(0.01)
    lines = stream.getvalue().partition("\x1b")[0].splitlines()
    assert len(lines) == 5 and max(map(len, lines)) == 39
    assert lines[-1] == "  and 6 more"  # of ten lines
    assert f"\x1b[{len(lines)}F" in stream.getvalue()


def test_a_folder_that_is_away_for_a_moment_does_not_end_what_is_shown(tmp_path, jobs, monkeypatch):
    stream, looks = Stream(True), []
    everyone = Member.everyone

    def failing_first(member):
        looks.append(1)
        if len(looks) == 1:
            raise OSError("Stale file handle")
        return everyone(member)

    monkeypatch.setattr(Member, "everyone", failing_first)
    monkeypatch.setattr(show, "REDRAW_SECONDS", 0.01)
    with Member(tmp_path / "members", Launch(run="r"), {"rank": 3}) as member, Display(jobs, member, stream) as display:
        while "1 of 2 done" not in stream.getvalue():
            assert display._thread.is_alive()
            time.sleep(0.01)


def test_news_of_many_videos_come_in_portions_and_all_at_the_end(tmp_path, jobs):
    with Member(tmp_path / "members", Launch(run="r"), {"rank": 3}) as member:
        display = Display([jobs[1], *several(tmp_path, 3)], member, Stream(False))
        for job in display._open.values():
            finish(job)
        assert len(display._news(most=2)) == 2 and len(display._news(most=2)) == 2 and not display._news(most=2)


def several(folder, count):
    made = []
    for index in range(count):
        settings = Settings(PromptSchedule(("a lake",)), Path(), seconds=1)
        work = Work(folder, f"more_{index}")
        work.folder.mkdir(parents=True)
        made.append(Job(Item(work.name, index + 1, 0, settings), work, {}))
    return made


def test_members_without_work_and_with_several_are_shown(tmp_path):
    lines = member_lines(
        [
            {"host": "a", "rank": 0, "tasks": {}},
            {
                "host": "b",
                "rank": 1,
                "tasks": {"http://x": {"doing": "waiting"}, "http://y": {"doing": "Load", "video": "v"}},
            },
        ]
    )
    assert lines == ["  rank 0 on a: starting", "  http://x on b: waiting", "  http://y on b: v Load"]


def test_a_long_table_names_only_what_is_not_done(jobs):
    done, still = (Result.of(job) for job in jobs)
    assert [line.split()[:2] for line in table([done, still])[1:3]] == [["v_0", "done"], ["v_1", "open"]]
    lines = table([done] * MOST_ROWS + [still])
    assert [line.split()[0] for line in lines] == ["video", "v_1", str(MOST_ROWS)]
    assert lines[-1] == f"{MOST_ROWS} of {MOST_ROWS + 1} done, 1 still to make"
