"""Federated rounds by real processes: exact weights, fewer bytes, and clients that misbehave."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.federated import experiment as federated
from experiments.federated import report
from experiments.federated.fleet import Fleet
from experiments.federated.messages import FederatedError, Message
from experiments.federated.server import Round
from experiments.federated.zipnn_baseline import zipnn_rounds
from tests.commands import READS_EXECUTABLES

ROOT = Path(__file__).parents[2]


def experiment(**changes):
    config = federated.network_config("digits", batch_size=64)
    variants = ("p2u", "p2u_delta", "fp32")
    fields = {"clients": 2, "rounds": 2, "local_epochs": 1, "variants": variants, **changes}
    return federated.Experiment(config=config, **fields)


def pids(line):
    return [int(number) for number in re.findall(r"\d+", line.partition(":")[2])]


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
def test_two_clients_train_from_the_servers_bits_with_fewer_bytes():
    said = []
    outcome = federated.run(experiment(local_epochs=3), said.append)
    p2u, fp32 = outcome.rounds["p2u"], outcome.rounds["fp32"]
    delta = outcome.rounds["p2u_delta"]
    for found in (p2u, delta, fp32):
        assert [(one.number, one.clients, one.exact) for one in found] == [
            (1, 2, True),
            (2, 2, True),
        ]
    raw = len(fp32[0].bodies[0])
    for low, full in zip(p2u, fp32, strict=True):
        assert full.start_bytes == full.down_bytes > raw
        assert low.start_bytes < full.start_bytes / 6
        assert low.start_bytes < low.down_bytes < full.down_bytes
        assert low.up_bytes < full.up_bytes / 6
    # Two passes from nothing: both learn, and neither by far more than the other.
    assert fp32[-1].top1 > fp32[0].top1 > 0.2
    assert p2u[-1].top1 >= fp32[-1].top1 - 0.05
    assert delta[-1].top1 >= fp32[-1].top1 - 0.05
    # Before there is an earlier round the two are the same.
    assert (delta[0].down_bytes, delta[0].top1) == (p2u[0].down_bytes, p2u[0].top1)
    assert delta[1].down_bytes < 0.98 * p2u[1].down_bytes
    assert delta[1].start_bytes < fp32[1].start_bytes / 6
    assert abs(delta[1].base_top1 - delta[0].top1) <= 0.02
    assert p2u[0].delta_bytes is None and 0 < p2u[1].delta_bytes < raw
    clients = pids(said[0])
    assert len(set(clients)) == 2 and os.getpid() not in clients
    assert all(gone(pid) for pid in clients)


@pytest.fixture
def killed(monkeypatch):
    """For tests that kill clients, which inherit this."""
    for name, value in READS_EXECUTABLES.items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
@pytest.mark.usefixtures("killed")
def test_a_killed_client_ends_the_command_with_one_line(tmp_path):
    command = [sys.executable, "-m", "experiments.federated_round", "--clients=2", "--rounds=400"]
    process = subprocess.Popen(
        [*command, "--variants=fp32", f"--name={tmp_path / 'x'}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    clients = pids(process.stdout.readline())
    assert process.stdout.readline().startswith("fp32 round 1 of 400")
    os.kill(clients[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == ("experiments.federated_round: client 1 was ended by signal 9; the run ends\n")
    assert all(gone(pid) for pid in clients)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("killed")
def test_the_run_goes_on_without_a_client_that_may_be_lost():
    clients = []

    def kill_in_passing(line):
        if not clients:
            clients.extend(pids(line))
        elif line.startswith("fp32 round 1"):
            os.kill(clients[0], signal.SIGKILL)

    outcome = federated.run(
        experiment(clients=3, rounds=2, variants=("fp32",), allow_lost=1), kill_in_passing
    )
    assert [one.clients for one in outcome.rounds["fp32"]] == [3, 2]
    assert outcome.notes == ["lost: client 0 was ended by signal 9"]


def run_client(program, timeout=20.0, **options):
    """A fleet of two whose second client is a program that is given its socket as `s`."""
    head = "import socket, sys, time; s = socket.socket(fileno=int(sys.argv[1]));"
    patient = f"{head} s.recv(1); time.sleep(60)"
    return Fleet(
        2,
        timeout=timeout,
        command=lambda fd, n: [sys.executable, "-c", head + program if n else patient, str(fd)],
        **options,
    )


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("s.sendall(b'\\x80\\x04garbage' * 10)", r"client 1 sent b'\\x80\\x04ga' where"),
        ("time.sleep(60)", "client 1 sent no whole message within 1 s"),
        ("sys.exit(3)", "client 1 ended with status 3"),
        ("raise RuntimeError('no memory')", "client 1 ended with status 1: RuntimeError: no mem"),
        (
            "sys.path.append(''); from experiments.federated.messages import *;"
            "s.sendall(Message('error', {'message': 'bad\\nupdate'}).to_bytes())",
            "client 1 gave up: bad update",
        ),
        (
            "sys.path.append(''); from experiments.federated.messages import *;"
            "s.sendall(Message('hello', {}).to_bytes()); time.sleep(60)",
            "client 1 sent 'hello'; expected ready",
        ),
    ],
)
def test_a_client_that_misbehaves_is_named_and_nothing_hangs(program, says):
    begun = time.monotonic()
    timeout = 1.0 if "no whole" in says else 20.0
    with (
        pytest.raises(FederatedError, match=f"{says}.*; the run ends"),
        run_client(program, timeout) as fleet,
    ):
        processes = [client.process for client in fleet.clients]
        fleet.each(lambda client: client.receive("ready", 1000), fleet.clients[1:])
    assert all(process.poll() is not None for process in processes)
    assert time.monotonic() - begun < 15


def test_a_client_that_reads_nothing_is_lost_and_the_others_go_on():
    with run_client("time.sleep(60)", timeout=1.0, allow_lost=1) as fleet:
        large = Message("weights", {}, bytes(1 << 22))
        message = {0: Message("x", {}), 1: large}
        answers = fleet.each(lambda client: client.send(message[client.number]))
        assert list(answers) == [0] and [client.number for client in fleet.clients] == [0]
        assert fleet.lost == ["client 1 read nothing for 1 s"]
        with pytest.raises(FederatedError, match=r"client 0 sent no .* \(and 1 before\); the run"):
            fleet.each(lambda client: client.receive("ready", 1000))


def a_round(variant, number, body, **changes):
    fields = {
        "variant": variant,
        "number": number,
        "start_bytes": 1100.0,
        "down_bytes": 1100.0,
        "up_bytes": 1200.0,
        "delta_bytes": None,
        "base_top1": None,
        "top1": 0.9,
        "seconds": 1.5,
        "waited": 0,
        "exact": True,
        "clients": 1,
        "bodies": (body, body),
    }
    return Round(**{**fields, **changes})


def test_without_zipnn_its_column_says_so_and_is_left_out():
    body = np.random.default_rng(0).normal(0, 0.1, 1000).astype("<f4").tobytes()
    rounds = [a_round("fp32", 1, body)]
    packed, note = zipnn_rounds(rounds, None)
    if packed is None:
        assert note == "zipnn is not importable here; name an interpreter by --zipnn_python"
    else:
        saved = 1100 - packed[0].down_bytes
        assert 0 < saved == 1200 - packed[0].up_bytes
    with pytest.raises(FederatedError, match="ZipNN by '/no/python'"):
        zipnn_rounds(rounds, "/no/python")
    with pytest.raises(FederatedError, match="expected fp32 among the variants"):
        federated.run(experiment(variants=("p2u", "zipnn")))


def test_the_report_compares_and_judges():
    low = {"start_bytes": 100.0, "down_bytes": 900.0, "up_bytes": 200.0, "top1": 0.89}
    rounds = {
        "p2u": [a_round("p2u", 1, b"", **low), a_round("p2u", 2, b"", **low, delta_bytes=800)],
        "fp32": [a_round("fp32", 1, b""), a_round("fp32", 2, b"")],
    }
    assert len(report.table(rounds).splitlines()) == 2 + 4
    assert report.summary(rounds)[-2] == (
        "p2u to fp32: bytes until the start 0.09x, down 0.82x, up 0.17x, both ways 0.48x; "
        "top-1 after the last round -1.00 points"
    )
    judged = {row.metric: row.met for row in report.rows(rounds) if row.target}
    assert all(judged.values()) and len(judged) == 4
    rounds["p2u"][1] = dataclasses.replace(rounds["p2u"][1], exact=False, top1=0.8, up_bytes=9e9)
    judged = {row.metric: row.met for row in report.rows(rounds) if row.target}
    assert [metric for metric, met in judged.items() if met] == ["bytes until start"]
