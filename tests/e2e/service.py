"""The processes of the test: pipe itself, Mosquitto, the S3 API server."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

from kafka import wait_for_port

HERE = pathlib.Path(__file__).resolve().parent


def free_port(pair=False):
    """A port that is free now; with `pair`, so is the next one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            if not pair:
                return port
            try:
                second.bind(("127.0.0.1", port + 1))
                return port
            except OSError:
                continue


def get(url, patience_seconds=10, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=patience_seconds) as answer:
        return answer.read()


def end(process, patience_seconds=20):
    """SIGTERM, then SIGKILL; the exit code."""
    if process is None or process.poll() is not None:
        return process and process.returncode
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(patience_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


class Pipe:
    def __init__(self, binary, config, http, log, environment):
        self.command = [binary, "serve", "--config", str(config)]
        self.http, self.log, self.environment = http, log, os.environ | environment
        self.process = None

    def start(self):
        log = open(self.log, "ab")
        self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=self.environment, start_new_session=True)

    def wait_ready(self, patience_seconds=120):
        until, why = time.monotonic() + patience_seconds, "no answer"
        while time.monotonic() < until:
            self.must_run()
            try:
                get(f"http://127.0.0.1:{self.http}/readyz")
                return
            except urllib.error.HTTPError as e:
                why = e.read().decode(errors="replace")
            except OSError:
                pass
            time.sleep(0.2)
        raise SystemExit(f"pipe was not ready after {patience_seconds} s: {why}\n{self.tail()}")

    def must_run(self):
        if self.process.poll() is not None:
            raise SystemExit(f"pipe ended with exit code {self.process.returncode}\n{self.tail()}")

    def tail(self):
        return pathlib.Path(self.log).read_text(errors="replace")[-4000:]

    def kill(self):
        self.must_run()
        self.process.kill()
        self.process.wait()

    def stop(self):
        return end(self.process, 40)

    def end(self):
        end(self.process)


class Mosquitto:
    """Keeps everything for a client that is away, without a bound, as an IoT broker is set up."""

    def __init__(self, directory, port):
        self.directory, self.port, self.process = pathlib.Path(directory), port, None

    def start(self):
        self.directory.mkdir()
        config = self.directory / "mosquitto.conf"
        config.write_text(
            f"""listener {self.port} 127.0.0.1
allow_anonymous true
persistence true
persistence_location {self.directory}/
autosave_interval 1
max_inflight_messages 100
max_queued_messages 0
"""
        )
        binary = next(p for p in ("/usr/sbin/mosquitto", "mosquitto") if p == "mosquitto" or os.path.exists(p))
        log = open(self.directory / "mosquitto.log", "ab")
        command = [binary, "-c", str(config)]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_for_port(self.port, self.process, "Mosquitto", self.directory / "mosquitto.log")

    def end(self):
        end(self.process)


class S3:
    """The lake and the records in a bucket."""

    lake = "s3://pipe/lake"

    def __init__(self, directory, port):
        self.directory, self.port, self.process = pathlib.Path(directory), port, None

    def start(self):
        self.directory.mkdir()
        log = open(self.directory / "s3.log", "ab")
        command = ["bash", str(HERE / "s3.sh"), "run", str(self.port), str(self.directory)]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        # The first run builds the server.
        wait_for_port(self.port, self.process, "the S3 server", self.directory / "s3.log", patience_seconds=300)

    def environment(self):
        lines = subprocess.run(
            ["bash", str(HERE / "s3.sh"), "env", str(self.port)], check=True, capture_output=True, text=True
        ).stdout
        words = lines.replace("export ", " ").split()
        return dict(word.split("=", 1) for word in words)

    def checkpoint_lines(self):
        return 'location = "s3://pipe/records"\n' + self.sink_lines()

    def sink_lines(self):
        return "options = " + toml(self.delta_options()) + "\n"

    def delta_options(self):
        environment = self.environment()
        keys = ("AWS_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ALLOW_HTTP")
        return {key.lower(): environment[key] for key in keys}

    def chdb_table(self, table):
        o = self.delta_options()
        url = f"{o['aws_endpoint']}/pipe/lake/{table}"
        return f"deltaLake('{url}', '{o['aws_access_key_id']}', '{o['aws_secret_access_key']}')"

    def end(self):
        end(self.process)


def toml(table):
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + " }"
