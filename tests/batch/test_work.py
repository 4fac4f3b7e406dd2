"""Who makes a video and who is blamed, with makers that break in every way."""

import pytest

from pavdm.batch import work
from pavdm.batch.claims import Work
from pavdm.batch.items import Item
from pavdm.batch.member import Launch, Member
from pavdm.batch.work import Job, NobodyLeft, work_through
from pavdm.engine import Outcome
from pavdm.errors import InputError
from pavdm.prompts import PromptSchedule
from pavdm.sampling.progressive import Interrupted
from pavdm.settings import Settings


class Maker:
    """fit: what it answers, one after the other, the last one for ever. fails: videos that it breaks on."""

    task = "maker"

    def __init__(self, fit=(True,), fails=0):
        self._fit, self._fails, self.made = list(fit), fails, 0

    def prepare(self):
        pass

    def make(self, settings, monitor):
        if self._fails:
            self._fails -= 1
            raise InputError("another process of the team was lost")
        settings.out.write_bytes(b"a video")
        self.made += 1
        return Outcome(settings.out, 12, 12, 24.0)

    def is_fit(self):
        return self._fit.pop(0) if len(self._fit) > 1 else self._fit[0]

    def is_alone(self):
        return True


@pytest.fixture
def member(tmp_path):
    with Member(tmp_path / "work/members", Launch(run="one"), {"rank": 0}) as made:
        yield made


@pytest.fixture
def job(tmp_path):
    settings = Settings(PromptSchedule(("a lake",)), tmp_path / "v.mp4", seconds=1)
    return Job(Item("v", 1, 0, settings), Work(tmp_path, "v"), {})


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(work, "WAIT_SECONDS", 0)
    monkeypatch.setattr(work, "GIVE_UP_SECONDS", -1)


class Limit:
    """should_stop that gives up after some looks, so that a loop without end fails instead of hanging."""

    def __init__(self, looks):
        self._looks = looks

    def __call__(self):
        self._looks -= 1
        return self._looks < 0


def test_a_maker_that_broke_is_to_blame_and_not_the_video(job, member):
    maker = Maker(fit=(False, True), fails=1)
    work_through([job], maker, member, lambda: False)
    assert job.work.finished()["take"] == 2 and job.work.failed() is None


def test_a_maker_that_is_fit_leaves_the_failure_with_the_video(job, member):
    work_through([job], Maker(fails=1), member, lambda: False)
    assert "team was lost" in job.work.failed()["error"]


def test_a_video_that_breaks_every_maker_is_given_up(job, member):
    work_through([job], Maker(fit=(False, True) * 3, fails=9), member, lambda: False)
    assert job.work.failed()["error"].startswith("3 times its maker broke")


def test_a_maker_that_is_not_fit_at_the_start_takes_no_video(job, member):
    with pytest.raises(NobodyLeft):
        work_through([job], Maker(fit=(False,)), member, lambda: False, fit=False)
    assert not list(job.work.folder.glob("claim-*"))


def test_two_that_are_out_of_order_do_not_wait_for_each_other_for_ever(job, member, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "_sleep", _look)
    with Member(tmp_path / "work/members", Launch(run="one"), {"rank": 1}) as other:
        for doing, end in (("out of order", NobodyLeft), ("sampling", Interrupted)):
            other.report("there", doing=doing)
            other._write()  # not at its next heartbeat
            with pytest.raises(end):
                work_through([job], Maker(fit=(False,)), member, Limit(5), fit=False)


def _look(seconds, should_stop):
    if should_stop():
        raise Interrupted


def test_a_video_that_kills_its_makers_is_given_up_until_the_next_launch(job, member, tmp_path):
    for take in (1, 2, 3):
        assert job.work.claim(member, {}).take == take
        job.work.claim_file(take).write_text("a process that died without a word")
    maker = Maker()
    work_through([job], maker, member, lambda: False)
    assert maker.made == 0 and job.work.failed()["error"].startswith("3 times its maker died")
    with Member(tmp_path / "later", Launch(run="two"), {"rank": 0}) as later:
        work_through([job], maker, later, lambda: False)
    assert maker.made == 1 and job.work.finished() is not None
