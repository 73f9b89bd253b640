"""torch's elastic agent: keywords that torch 2.13 has and 2.11 has not.

`launchers.elastic.Agent` overrides the four methods below, which torch documents as the way to write an agent.
"""

from torch.distributed.elastic.agent.server.api import SimpleElasticAgent
from torch.distributed.launcher.api import LaunchConfig

from distft.compat.reach import Keywords, Reach, known

_AGENT = "torch.distributed.elastic.agent.server.api.SimpleElasticAgent"
_SEEN = "torch 2.11 to 2.13"
REACHES = (
    Reach(_AGENT, _SEEN, "keeps a node's ranks", takes=("spec",), younger=("shutdown_timeout",)),
    Reach(f"{_AGENT}._start_workers", _SEEN, "overridden: ranks are forked", takes=("worker_group",)),
    Reach(f"{_AGENT}._stop_workers", _SEEN, "overridden", takes=("worker_group",)),
    Reach(f"{_AGENT}._monitor_workers", _SEEN, "overridden: all end as soon as one failed", takes=("worker_group",)),
    Reach(f"{_AGENT}._shutdown", _SEEN, "overridden: no core files", takes=("death_sig",), younger=("timeout",)),
    Reach(
        "torch.distributed.launcher.api.LaunchConfig",
        _SEEN,
        "the doctor's all-reduce starts ranks as torchrun does",
        takes=("rdzv_configs", "local_addr", "logs_specs"),
        younger=("shutdown_timeout",),
    ),
)


def agent_options(seconds: int) -> Keywords:
    """Returns the keywords with which an agent gives its ranks `seconds` from SIGTERM to SIGKILL.

    Empty in torch 2.11, whose agent calls `_shutdown` without a time.
    """
    return known(SimpleElasticAgent, shutdown_timeout=seconds)


def launch_options(seconds: int) -> Keywords:
    """Returns the same for `LaunchConfig`; torch 2.11 has 30 seconds there, without a keyword."""
    return known(LaunchConfig, shutdown_timeout=seconds)
