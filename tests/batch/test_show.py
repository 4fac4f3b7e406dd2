"""What is shown of a batch: readable on a terminal and in a file, whoever makes what."""

import io
import time
from pathlib import Path

import pytest

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
