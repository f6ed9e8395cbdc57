"""Run a Python command with a cluster of local processes under it, which ends with the command.

Run as ``python -m tests.benchmarks.scale_cluster ray N -m MODULE …``, which starts a Ray cluster of
N nodes of one processor each and names it in RAY_ADDRESS, or as ``… nodes N -m MODULE …``, where
the command is run by the first of N nodes that train together.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

from tests.benchmarks.scale_job import mark

WAIT_SECONDS = 60  # for the other nodes to end, which they do with the first


def on_ray(nodes: int, command: list[str]) -> int:
    """Run ``command`` with a Ray cluster of ``nodes`` nodes, one processor each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        mark("cluster")
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        code = subprocess.run(command, env=environment).returncode
        mark("command")
        return code
    finally:
        cluster.shutdown()


def on_nodes(nodes: int, command: list[str]) -> int:
    """Run ``command`` as the first of ``nodes`` nodes of this machine."""
    place = ["--nodes", str(nodes), "--host", "127.0.0.1", "--port", str(_free_port())]
    module = [sys.executable, "-m", "tasks.finetune.node", *place, "--rank"]
    others = [subprocess.Popen([*module, str(rank)]) for rank in range(1, nodes)]
    try:
        code = subprocess.run([*module, "0", "--", *command]).returncode
        return code or max((other.wait(WAIT_SECONDS) for other in others), default=0)
    finally:
        for other in others:
            if other.poll() is None:
                other.send_signal(signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


if __name__ == "__main__":
    kind, count, *arguments = sys.argv[1:]
    sys.exit({"ray": on_ray, "nodes": on_nodes}[kind](int(count), [sys.executable, *arguments]))
