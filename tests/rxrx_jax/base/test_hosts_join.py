"""Finding the first host: what listens at its port may be another program, or nothing."""

import socket
import threading

import pytest

from rxrx_jax.base import hosts
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.hosts import arrival


@pytest.fixture
def listening():
    """A socket that listens, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server, server.getsockname()[1]


def answer(server, text):
    """Answers the next connection in a thread."""

    def run():
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            connection.sendall(text)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def environment(monkeypatch, port, index):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", f"127.0.0.1:{port}")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", str(index))


def test_the_first_host_is_told_that_its_port_is_in_use(listening, monkeypatch):
    environment(monkeypatch, listening[1], 0)
    with pytest.raises(UserError, match=f"port {listening[1]} of this machine is not free .*; choose another"):
        hosts.join(False)


def test_another_host_knows_another_program_by_its_answer(listening, monkeypatch):
    environment(monkeypatch, listening[1], 1)
    thread = answer(listening[0], b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(UserError, match="another program listens there"):
        hosts.join(False)
    thread.join()


def test_another_host_knows_another_program_by_its_silence(listening, monkeypatch):
    monkeypatch.setattr(arrival, "SILENT_SECONDS", 0)
    environment(monkeypatch, listening[1], 1)
    answer(listening[0], b"")
    with pytest.raises(UserError, match="another program listens there"):
        hosts.join(False)


def test_a_first_host_that_never_comes_ends_the_others_for_a_restart(monkeypatch, capsys):
    monkeypatch.setattr(arrival, "FIRST_SECONDS", 0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment(monkeypatch, free.getsockname()[1], 1)
        with pytest.raises(SystemExit, match="75"):
            hosts.join(False)
    err = capsys.readouterr().err
    assert err.startswith("error: no first host at 127.0.0.1:") and err.count("\n") == 1


def test_a_coordinator_of_jax_is_known(listening):
    """The frame is that of gRPC's servers: length 24, kind 4, settings."""
    thread = answer(listening[0], b"\0\0\x18\4\0\0\0\0\0" + bytes(24))
    arrival._await_first("127.0.0.1", listening[1])
    thread.join()


@pytest.mark.parametrize("address", ["", "here", "here:", ":80", "here:port", "here:65536", "here:\u00b2"])
def test_an_address_without_host_or_port_is_one_line(address, monkeypatch):
    environment(monkeypatch, 1, 0)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", address)
    with pytest.raises(UserError, match="JAX_COORDINATOR_ADDRESS=HOST:PORT"):
        hosts.join(False)
