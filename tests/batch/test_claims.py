"""Claims in a shared folder: one process at most has a video, and what a dead one had is free again."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path

import pytest
import torch

from pavdm.batch import member as members
from pavdm.batch.claims import Work
from pavdm.batch.items import Item
from pavdm.batch.member import LEASE_SECONDS, Launch, Member, write_json
from pavdm.batch.results import Result, write_results
from pavdm.batch.work import Job
from pavdm.errors import InputError
from pavdm.prompts import PromptSchedule
from pavdm.sampling.state import save_tensors
from pavdm.settings import Settings


@pytest.fixture
def member(tmp_path):
    with Member(tmp_path / "members", Launch(run="one"), {"rank": 0}) as made:
        yield made


def elsewhere(folder, name, age):
    """The file of a process on another machine, last written `age` seconds ago."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"machine": "another", "pid": 1, "began": "1", "run": "one", "rank": 1}))
    os.utime(file, (time.time() - age,) * 2)
    return name


def claimed_by(work, owner):
    work.folder.mkdir(parents=True)
    work.claim_file(1).write_text(owner)


def test_only_one_of_many_at_once_gets_a_video(tmp_path, member):
    work = Work(tmp_path, "v")
    barrier = threading.Barrier(8)
    claims = []

    def take():
        barrier.wait()
        claims.append(work.claim(member, {}))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([claim for claim in claims if claim is not None]) == 1


def test_a_released_video_can_be_had_again_and_the_former_owner_knows(tmp_path, member):
    work = Work(tmp_path, "v")
    first = work.claim(member, {})
    assert first.holds and work.claim(member, {}) is None
    first.release()
    second = work.claim(member, {})
    assert second.take == 2 and second.holds and not first.holds


def test_a_process_elsewhere_keeps_its_video_until_its_lease_has_run_out(tmp_path, member):
    work = Work(tmp_path, "v")
    claimed_by(work, elsewhere(member.folder, "there", age=LEASE_SECONDS / 2))
    assert work.claim(member, {}) is None
    elsewhere(member.folder, "there", age=LEASE_SECONDS + 5)
    assert work.claim(member, {}).take == 2


def test_a_process_of_this_machine_loses_its_video_when_it_ends_and_not_while_it_is_stopped(tmp_path, member):
    code = (
        "import sys, time, pathlib; from pavdm.batch.member import *; from pavdm.batch.claims import Work\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "with Member(root / 'members', Launch(run='one'), {'rank': 1}) as m:\n"
        "    Work(root, 'v').claim(m, {}); print(m.token, flush=True); time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        token = process.stdout.readline().strip()
        work = Work(tmp_path, "v")
        assert work.claim_file(1).read_text() == token and member.lives(token)
        os.utime(member.folder / f"{token}.json", (0, 0))  # it may be stopped or swapped out, but it is there
        assert work.claim(member, {}) is None
    finally:
        process.kill()
        process.wait()
    assert not member.lives(token)
    assert work.claim(member, {}).take == 2


def test_who_comes_back_after_its_lease_does_not_write_over_who_took_over(tmp_path, member):
    work = Work(tmp_path, "v")
    lost = work.claim(member, {})
    lost.release()
    kept = work.claim(member, {})
    for claim, name in ((lost, "old"), (kept, "new")):
        made = work.folder / f"take-{claim.take:04d}.mp4"
        made.write_text(name)
        assert work.finish(claim, made, {"by": name}) is (claim is kept)
    assert work.video.read_text() == "new" and work.finished() == {"by": "new"}
    assert [path for path in work.folder.iterdir() if path.name.startswith("take-")] == []


def test_finished_and_failed_ones_are_left_alone_and_failed_ones_only_in_their_launch(tmp_path, member):
    work = Work(tmp_path, "v")
    work.claim(member, {}).release()
    work.fail({"run": "one", "error": "e"})
    assert work.is_settled("one") and work.claim(member, {}) is None
    assert not work.is_settled("another")


def test_a_folder_of_another_batch_is_refused_with_the_difference(tmp_path, member):
    work = Work(tmp_path, "v")
    work.check({"seed": "1"})
    work.claim(member, {"seed": "1"})
    work.check({"seed": "1"})
    with pytest.raises(InputError, match="seed: 1 then, 2 now"):
        work.check({"seed": "2"})
    other = Work(tmp_path, "w")
    other.video.write_text("mine")
    with pytest.raises(InputError, match="not made by a batch"):
        other.check({"seed": "1"})


def test_a_process_that_joins_belongs_to_the_launch_that_is_under_way(tmp_path, member):
    with Member(tmp_path / "members", Launch(run="two"), {"rank": 0}) as joined:
        assert joined.run == "one"
        member.report("rank 0", doing="sampling", video="v")
        assert len(member.everyone()) == 2
    assert len(member.everyone()) == 1


def test_torchrun_s_processes_know_that_they_are_one_launch(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert Launch.from_environment().run != Launch.from_environment().run
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    launch = Launch.from_environment()
    assert launch == Launch.from_environment()
    assert (launch.rank, launch.local_rank, launch.world_size) == (3, 1, 4)


def test_a_second_launch_under_a_fixed_rdzv_id_is_another_and_a_restarted_process_is_not(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job1")
    first = Launch.from_environment()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert Launch.from_environment().run == first.run
    monkeypatch.setattr(os, "getppid", lambda: -1)
    assert Launch.from_environment().run != first.run


@pytest.mark.parametrize("blind", [(0,), (1,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_processes_that_begin_at_the_same_moment_agree_on_one_launch(tmp_path, monkeypatch, blind):
    """Three, two of them of one launch; those that are `blind` look before the others have written."""
    monkeypatch.setattr(members, "BEAT_SECONDS", 0.05)
    for number, order in enumerate(permutations(range(3))):
        group = [Member(tmp_path / str(number), Launch(run=run), {"rank": 0}) for run in ("one", "two", "two")]
        early = [group[index] for index in blind]

        def see(self, others=Member.others, early=early):
            return [] if self in early and not self.file.exists() else others(self)

        with monkeypatch.context() as patched, ExitStack() as stack:
            patched.setattr(Member, "others", see)
            for index in order:
                stack.enter_context(group[index])
            deadline = time.monotonic() + 20
            while len({one.run for one in group}) > 1 and time.monotonic() < deadline:
                time.sleep(0.02)
            assert len({one.run for one in group}) == 1


def test_processes_of_one_number_in_two_containers_do_not_write_to_one_temporary_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 7)
    monkeypatch.setattr(threading, "get_ident", lambda: 7)
    written = []
    monkeypatch.setattr(Path, "replace", lambda self, target: written.append(self))
    for _ in range(2):
        write_json(tmp_path / "done.json", {})
        write_results([], tmp_path / "results.csv")
        save_tensors({"x": torch.zeros(1)}, tmp_path / "state.safetensors", {})
    assert len(written) == len(set(written)) == 6


@pytest.fixture
def stale(monkeypatch):
    """stale(name, times): reading files of this name fails so often, as on NFS while they are replaced."""
    monkeypatch.setattr(members, "RETRY_SECONDS", 0)
    read_text, left = Path.read_text, {}

    def reading(path, *args, **kwargs):
        if left.get(path.name, 0) > 0:
            left[path.name] -= 1
            raise OSError(errno.ESTALE, "Stale file handle")
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", reading)
    return left.__setitem__


@pytest.mark.parametrize("times", [1, 1000])
def test_a_file_that_cannot_be_read_for_a_moment_is_not_the_death_of_its_process(tmp_path, member, stale, times):
    work = Work(tmp_path, "v")
    claimed_by(work, elsewhere(member.folder, "there", age=LEASE_SECONDS / 2))
    stale("there.json", times)
    assert member.lives("there") and work.claim(member, {}) is None
    assert len(member.others()) == 1


def test_a_file_that_stays_unreadable_for_a_lease_is_that_of_a_dead_process(member, stale):
    elsewhere(member.folder, "there", age=LEASE_SECONDS + 5)
    stale("there.json", 1000)
    assert not member.lives("there")


def test_a_record_that_cannot_be_read_for_a_moment_is_read_again(tmp_path, member, stale):
    work = Work(tmp_path, "v")
    work.folder.mkdir(parents=True)
    work.video.write_text("")
    write_json(work.folder / "done.json", {"frames": 12})
    stale("done.json", 2)
    assert work.finished() == {"frames": 12}
    stale("done.json", 1000)
    with pytest.raises(InputError, match=r"done\.json cannot be read"):
        work.finished()


def test_a_list_that_was_edited_under_a_running_batch_is_noticed(tmp_path, member):
    work = Work(tmp_path, "v")
    work.claim(member, {"prompt": "a lake"}).release()
    with pytest.raises(InputError, match=r"prompt: a lake then, a hill now.*the list has changed"):
        work.claim(member, {"prompt": "a hill"})
    assert work.claim(member, {"prompt": "a lake"}) is not None  # nobody holds it
    work.video.write_text("")
    write_json(work.folder / "done.json", {"frames": 12})
    settings = Settings(PromptSchedule(("a hill",)), tmp_path / "v.mp4", seconds=1)
    result = Result.of(Job(Item("v", 1, 0, settings), work, {"prompt": "a hill"}))
    assert result.status == "failed" and "was begun otherwise" in str(result.record["error"])
