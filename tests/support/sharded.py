"""Importing this lets accelerate shard models (FSDP) on processors too, as PyTorch does. By itself, it needs GPUs."""

from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

_built = AcceleratorState.__init__


def _init(self: Any, *args: Any, fsdp_plugin: Any = None, **options: Any) -> None:
    _built(self, *args, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None:
        if self.mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self.mixed_precision)
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


AcceleratorState.__init__ = _init
