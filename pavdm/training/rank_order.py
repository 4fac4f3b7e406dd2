"""Gradients of processes on CPUs, added up in the order of the ranks, so that a resumed run adds as an unbroken one.

torch's DDP sorts gradients into buckets anew after its first step, and gloo adds what lies at one place of a bucket in
an order that depends on the place: from three processes on the sums round otherwise.
"""

# DDP looks at the hook's annotations, so they are not left as texts.
from functools import reduce
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel


def add_in_rank_order(model: DistributedDataParallel) -> None:
    """Let `model` average its gradients so. Takes the memory of one bucket for every process."""
    model.register_comm_hook(model.process_group, _averaged)


def _averaged(group: Any, bucket: dist.GradBucket) -> Future[Tensor]:  # type: ignore[name-defined]
    own = bucket.buffer()
    gathered = [torch.empty_like(own) for _ in range(group.size())]
    work = dist.all_gather(gathered, own, group=group, async_op=True)

    def added(_: Future[list[Tensor]]) -> Tensor:
        return own.copy_(reduce(torch.add, gathered)).div_(group.size())

    return work.get_future().then(added)
