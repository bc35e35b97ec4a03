#!/usr/bin/env python3
"""A real Apache Kafka for tests: fetched from Maven Central once, run as a single KRaft node.

    python3 tests/e2e/kafka.py DIR PORT      # runs one in DIR until Ctrl-C (controller on PORT + 1)

Needs java (17 or later) and mvn. The jars are kept in ~/.cache/pipe-kafka.
"""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

VERSION = "4.1.1"
CACHE = pathlib.Path.home() / ".cache" / "pipe-kafka" / VERSION
CLUSTER = "5L6g3nShT-eMCtK--X86sw"  # any base64 uuid

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>pipe.e2e</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""


def install():
    """The directory of the jars; fetched when it is not complete."""
    libs, complete = CACHE / "libs", CACHE / "complete"
    if complete.exists():
        return libs
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            raise SystemExit(f"kafka: {tool} is missing: apt-get install -y maven default-jre-headless")
    shutil.rmtree(libs, ignore_errors=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE / "pom.xml").write_text(POM)
    # Runtime scope: kafka_2.13 names its server and storage modules there.
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={libs}"]
    subprocess.run(["mvn", "-q", "-B", *goal], cwd=CACHE, check=True)
    complete.touch()
    return libs


class Kafka:
    """One node. `kill` is SIGKILL; `start` after it goes on with the same data."""

    def __init__(self, directory, port):
        self.directory = pathlib.Path(directory)
        self.port = port
        self.process = None
        self.libs = install()

    @property
    def bootstrap(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        properties = self.directory / "server.properties"
        if not properties.exists():
            self._format(properties)
        log = open(self.directory / "kafka.log", "ab")
        java = ["java", "-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-cp", f"{self.libs}/*", "kafka.Kafka", str(properties)]
        self.process = subprocess.Popen(java, stdout=log, stderr=log, start_new_session=True)
        wait_for_port(self.port, self.process, "Kafka", self.directory / "kafka.log")
        return self

    def _format(self, properties):
        self.directory.mkdir(parents=True, exist_ok=True)
        controller = f"127.0.0.1:{self.port + 1}"
        properties.write_text(
            f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{controller}
listeners=PLAINTEXT://{self.bootstrap},CONTROLLER://{controller}
advertised.listeners=PLAINTEXT://{self.bootstrap}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={self.directory}/logs
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
num.network.threads=1
num.io.threads=2
log.retention.check.interval.ms=1000
"""
        )
        tool = ["java", "-cp", f"{self.libs}/*", "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(properties)]
        subprocess.run(tool, check=True, stdout=subprocess.DEVNULL)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


def wait_for_port(port, process, name, log, patience_seconds=300):
    end = time.monotonic() + patience_seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    tail = pathlib.Path(log).read_text(errors="replace")[-2000:] if os.path.exists(log) else ""
    raise SystemExit(f"{name} did not open port {port} (log: {log})\n{tail}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    node = Kafka(sys.argv[1], int(sys.argv[2])).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(node.end()))
    print(f"Kafka {VERSION} on {node.bootstrap}; Ctrl-C stops it", flush=True)
    try:
        node.process.wait()
    except KeyboardInterrupt:
        node.end()
