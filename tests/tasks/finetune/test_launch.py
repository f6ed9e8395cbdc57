"""How the launcher's agents meet and part."""

from __future__ import annotations

import socket
import time

import psutil
import pytest
import torch.distributed as dist
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.utils.store import barrier

from tasks.finetune.launch import _Settled
from tasks.finetune.meeting import LOOPBACK, Place, Session, open_store


def handler(session: Session | None) -> _Settled:
    return _Settled(RendezvousParameters("graft", "", "1", 1, 2, session=session))


def test_one_machine_has_a_store_on_its_loopback_address_alone():
    info = handler(None).next_rendezvous()
    port = info.bootstrap_store_info.master_port
    found = {
        line.laddr.ip
        for line in psutil.Process().net_connections("inet")
        if line.status == psutil.CONN_LISTEN and line.laddr.port == port
    }
    assert found == {LOOPBACK}
    assert (info.rank, info.world_size) == (0, 1)
    info.store.set("a", "b")
    assert info.store.get("a") == b"b"


def test_an_agent_does_not_wait_for_one_that_is_gone():
    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]
    place = Place(host=LOOPBACK, port=port, nodes=2, patience=9, silence=2)
    store = open_store(place, listener)
    agents = [
        handler(Session(place=place, number=0, node=node)).next_rendezvous().store
        for node in (0, 1)
    ]
    began = time.monotonic()
    with pytest.raises(dist.DistStoreError):
        barrier(agents[0], 2, "end", barrier_timeout=300)
    assert time.monotonic() - began < 4
    barrier(agents[1], 2, "end", barrier_timeout=300)  # the two share what they wrote
    assert store.num_keys() > 0
