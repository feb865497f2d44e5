"""run_pretraining.py under configs/accelerate/fsdp.yaml, on CPU processes, for which Accelerate has no sharding: it
takes them for GPUs here. Started by test_processes.py through the launcher, with the script's options."""

import os
import sys
from importlib.resources import files

import torch
import torch.distributed as dist
import yaml
from accelerate.state import DistributedType, PartialState

from span_electra.run_pretraining import main

RENAMED = {"fsdp_transformer_layer_cls_to_wrap": "FSDP_TRANSFORMER_CLS_TO_WRAP"}


def as_gpus(begin):
    """`PartialState.__init__`, which is called again and again, and sets up the state the first time."""

    def begin_as_gpus(state, *args, **kwargs):
        is_first = not PartialState._shared_state
        begin(state, *args, **kwargs)
        if is_first:
            PartialState._shared_state.update(
                distributed_type=DistributedType.MULTI_GPU,
                device=torch.device("cpu"),
                backend="gloo",
                num_processes=dist.get_world_size(),
                process_index=dist.get_rank(),
                local_process_index=dist.get_rank(),
            )

    return begin_as_gpus


if __name__ == "__main__":
    recipe = yaml.safe_load((files("span_electra.configs") / "accelerate" / "fsdp.yaml").read_text())
    for name, value in recipe["fsdp_config"].items():  # as `accelerate launch` does
        os.environ[RENAMED.get(name, name.upper())] = str(value).lower() if isinstance(value, bool) else str(value)
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    dist.init_process_group("gloo")
    PartialState.__init__ = as_gpus(PartialState.__init__)
    main(sys.argv[1:])
