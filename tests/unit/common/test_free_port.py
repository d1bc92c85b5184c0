"""Ports for servers of this machine."""

import socket

from flawsmith.local.processes import free_port


def test_no_port_is_given_twice_nor_one_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        ports = [free_port() for _ in range(1000)]
        assert len(set(ports)) == len(ports)
        assert taken.getsockname()[1] not in ports
