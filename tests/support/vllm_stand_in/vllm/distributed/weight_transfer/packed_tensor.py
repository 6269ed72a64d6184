"""Tensors through the group, in order."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .nccl_common import Group


def packed_nccl_broadcast_producer(
    iterator: Iterator[Any], group: Group, src: int, post_iter_func: Callable[[Any], torch.Tensor]
) -> None:
    for item in iterator:
        buffer = io.BytesIO()
        torch.save(post_iter_func(item).detach().cpu().clone(), buffer)
        group.connection.sendall(len(buffer.getvalue()).to_bytes(8, "big") + buffer.getvalue())
