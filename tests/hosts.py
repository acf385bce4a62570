"""Several hosts on one machine: network namespaces on a bridge, each with its own name and its own /tmp/ray."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PORT, CLIENT_PORT = 6379, 10001
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": 64 * "7"}
RAY = str(Path(sys.executable).parent / "ray")
CHECKOUT = Path(__file__).parent.parent


def why_not() -> str:
    """Why there can be no such hosts here, or nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    missing = [tool for tool in ("ip", "nsenter", "unshare", "mount") if not shutil.which(tool)]
    return f"{', '.join(missing)} isn't installed" if missing else ""


def wait_for(what: Callable[[], object], seconds: float, why: str) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, why
        time.sleep(0.2)


@dataclass
class Host:
    """A host.

    Attributes:
        name: of its namespace, and its own.
        ip: its address.
        keeper: the process that keeps its namespaces.
        environment: further variables of what runs there.
    """

    name: str
    ip: str
    keeper: subprocess.Popen[bytes]
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, words: Sequence[str]) -> list[str]:
        """What runs a command there."""
        return ["nsenter", "-t", str(self.keeper.pid), "-m", "-u", "-n", *words]

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command there."""
        known = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", **TOKEN, **self.environment}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(self.command(words), env=known, text=True, cwd="/", **pipes)  # type: ignore[call-overload, no-any-return]

    def run(self, *words: str, seconds: float = 240) -> subprocess.CompletedProcess[str]:
        """Run a command there."""
        started = self.start(*words)
        try:
            out, said = started.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            started.kill()
            raise
        return subprocess.CompletedProcess(list(words), started.returncode, out, said)

    def fungi_seg(self, *words: str, seconds: float = 240) -> subprocess.CompletedProcess[str]:
        """Run the command line there."""
        return self.run(sys.executable, "-m", "fungi_seg", *words, seconds=seconds)

    def pids(self) -> list[int]:
        """All processes there but the keeper."""
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
        return [int(pid) for pid in found.stdout.split() if int(pid) != self.keeper.pid]

    def kill(self) -> None:
        """End all processes there at once."""
        for _ in range(5):  # some start others meanwhile
            for pid in self.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@dataclass
class Cluster:
    """Hosts with a Ray on each; the first is the head."""

    hosts: list[Host]

    @property
    def head(self) -> Host:
        return self.hosts[0]

    @property
    def address(self) -> str:
        return f"{self.head.ip}:{PORT}"

    def start(self, host: Host) -> None:
        """Start Ray on a host."""
        quiet = ["--disable-usage-stats", "--object-store-memory=100000000", "--num-cpus=1"]
        role = [f"--address={self.address}"]
        if host is self.head:
            role = ["--head", f"--port={PORT}", f"--ray-client-server-port={CLIENT_PORT}", "--include-dashboard=false"]
        done = host.run(RAY, "start", f"--node-ip-address={host.ip}", *role, *quiet, seconds=120)
        assert done.returncode == 0, done.stdout + done.stderr

    def alive(self) -> int:
        """Machines that the head thinks are there."""
        look = (
            "import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR'); "
            "print('alive', sum(node['Alive'] for node in ray.nodes()))"
        )
        done = self.head.run(sys.executable, "-c", look, self.address, seconds=60)
        return int(done.stdout.split("alive")[-1]) if done.returncode == 0 else 0


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def cluster_of(count: int) -> Iterator[Cluster]:
    """A cluster of so many hosts with a core each; all of it is gone afterwards."""
    mark = f"fs{random.SystemRandom().randrange(16**6):06x}"
    hub, hosts = f"{mark}hub", list[Host]()
    try:
        _ip("netns", "add", hub)
        _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", hub, "link", "set", "bridge", "up")
        for number in range(count):
            hosts.append(_host(mark, hub, number))
        cluster = Cluster(hosts)
        cluster.start(hosts[0])
        for host in hosts[1:]:
            cluster.start(host)
        yield cluster
    finally:
        for host in hosts:
            host.kill()
            host.keeper.kill()
            host.keeper.wait()
        for name in (*(host.name for host in hosts), hub):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _host(mark: str, hub: str, number: int) -> Host:
    name, ip = f"{mark}h{number}", f"10.77.0.{number + 1}"
    _ip("netns", "add", name)
    _ip("link", "add", f"{mark}v{number}", "netns", hub, "type", "veth", "peer", "name", "eth0", "netns", name)
    _ip("-n", hub, "link", "set", f"{mark}v{number}", "master", "bridge", "up")
    for words in (
        ["addr", "add", f"{ip}/24", "dev", "eth0"],
        ["link", "set", "eth0", "up"],
        ["link", "set", "lo", "up"],
    ):
        _ip("-n", name, *words)
    _ip("-n", name, "route", "add", "default", "dev", "eth0")
    own = f"hostname {name[-2:]}; mkdir -p /tmp/ray; mount -t tmpfs none /tmp/ray; echo there; exec sleep infinity"
    words = ["ip", "netns", "exec", name, "unshare", "-m", "-u", "sh", "-c", own]
    keeper = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert keeper.stdout is not None
    assert keeper.stdout.readline() == b"there\n"
    return Host(name, ip, keeper)
