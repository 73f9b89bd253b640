"""One rank of the doctor's all-reduce: `python -m distft.doctor.rank FOLDER --parent PID`.

Its progress is in FOLDER/rank-N.json, so that a hang leaves a trace.
"""

import argparse
import json
import os
import platform
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import torch
from torch.distributed.rendezvous import rendezvous

from distft.doctor.network import listen, own_address, unreachable
from distft.run import write_json
from distft.runtime.logs import silence
from distft.runtime.process import die_with_parent, leave
from distft.runtime.process_group import BACKENDS, all_reduce_sum, device_of, process_group

_SECONDS_TO_COME = 30


def main() -> None:
    """Connects to every other rank over plain sockets, then all-reduces a tensor with them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parent", type=int, required=True)
    given = parser.parse_args()
    die_with_parent(given.parent)
    silence()
    rank = int(os.environ["RANK"])
    backend = BACKENDS[device_of(int(os.environ["LOCAL_RANK"])).type]
    me, file = Progress(rank, platform.node(), backend), given.folder / f"rank-{rank}.json"
    write_json(file, asdict(me))
    try:
        interface, address = own_address(backend)
        me = replace(me, interface=interface)
        me = replace(me, failed=reach_all(me, address), stage="waits for the others in the all-reduce")
        write_json(file, asdict(me))
        if not me.failed:
            started = time.monotonic()
            me = replace(me, failed=add_up(), stage="done", seconds=time.monotonic() - started)
    except Exception as error:  # of sockets, the store or the collective: the doctor reports it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        me = replace(me, failed=[f"rank {rank} on {me.host}: {reason}"])
    write_json(file, asdict(me))


@dataclass(frozen=True)
class Progress:
    """How far a rank has come."""

    rank: int
    host: str
    backend: str
    interface: str = "none"
    failed: list[str] = field(default_factory=list)  # reasons
    stage: str = "started"
    seconds: float = 0.0  # of the all-reduce


def reach_all(me: Progress, address: str) -> list[str]:
    """Returns the pairs of ranks, of all ranks, that could not connect."""
    store, rank, world = next(iter(rendezvous("env://", timeout=timedelta(seconds=_SECONDS_TO_COME))))
    listening, port = listen(address)
    name = f"rank {rank} on {me.host}"
    store.set(f"doctor/place/{rank}", json.dumps([name, address, port]))
    others = [json.loads(store.get(f"doctor/place/{other}")) for other in range(world)]
    lost = unreachable({each[0]: (each[1], each[2]) for each in others})
    pairs = [f"{name} ({me.interface}) cannot reach {other} ({reason})" for other, reason in lost.items()]
    store.set(f"doctor/lost/{rank}", json.dumps(pairs))
    everyones = [pair for other in range(world) for pair in json.loads(store.get(f"doctor/lost/{other}"))]
    listening.close()
    return everyones


def add_up() -> list[str]:
    """Sums a tensor over all ranks; returns a message if the sum is wrong."""
    with process_group() as world:
        numbers = torch.arange(2**16, dtype=torch.float32, device=world.device) % 7 + world.rank
        total = all_reduce_sum(numbers)
        right = (torch.arange(2**16, device=world.device) % 7) * world.size + world.size * (world.size - 1) // 2
        wrong = int((total != right).sum())
    return [f"rank {world.rank} got {wrong} of {2**16} sums wrong"] if wrong else []


if __name__ == "__main__":
    main()
    leave()
