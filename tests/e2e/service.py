"""The processes of the tests: pipe itself, Mosquitto, the S3 API server; where the lake is; and the directory they work in."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from kafka import wait_for_port

HERE = pathlib.Path(__file__).resolve().parent


def run_in_workplace(name, args, work):
    """Calls `work(args, directory)` and ends the process: 0 if the answer is true. The directory is new and the working
    directory; it stays if not all went well, or `args.keep` says so. `args.pipe` becomes the path of a binary."""
    args.pipe = str(pathlib.Path(args.pipe or default_pipe()).resolve())
    directory = pathlib.Path(tempfile.mkdtemp(prefix=f"pipe-{name}-"))
    os.chdir(directory)  # chdb reads files below the working directory only
    good = False
    try:
        good = work(args, directory)
    finally:
        if good and not args.keep:
            shutil.rmtree(directory)
        else:
            print(f"logs and data: {directory}")
    sys.exit(0 if good else 1)


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


def default_pipe():
    """The binary of the cargo target directory."""
    target = os.environ.get("CARGO_TARGET_DIR") or str(HERE.parent.parent / "target")
    return str(pathlib.Path(target) / "debug" / "pipe")


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
        self.binary, self.config = binary, str(config)
        self.command = [binary, "serve", "--config", self.config]
        self.http, self.log, self.environment = http, log, os.environ | environment
        self.process, self.log_begin = None, 0

    def start(self):
        log = open(self.log, "ab")
        self.log_begin = log.tell()
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

    def said(self):
        """What the last start has logged so far, without colours."""
        text = pathlib.Path(self.log).read_bytes()[self.log_begin :].decode(errors="replace")
        return re.sub(r"\x1b\[[0-9;]*m", "", text)

    def tail(self):
        return pathlib.Path(self.log).read_text(errors="replace")[-4000:]

    def kill(self):
        self.must_run()
        self.process.kill()
        self.process.wait()

    def stop(self):
        return end(self.process, 40)

    def replay(self):
        """What `pipe dlq replay` says of itself."""
        command = [self.binary, "dlq", "replay", "--config", self.config, "--json"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            raise SystemExit(f"the replay ended with exit code {done.returncode}\n{done.stderr[-4000:]}")
        return json.loads(done.stdout)

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


class Local:
    """The lake and the records on local disk."""

    def __init__(self, directory):
        self.lake = str(directory / "lake")
        self.lake_files, self.record_files = directory / "lake", directory / "data" / "checkpoint"

    def start(self):
        pass

    def end(self):
        pass

    def environment(self):
        return {}

    def checkpoint_lines(self):
        return ""

    def sink_lines(self):
        return ""

    def delta_options(self):
        return None

    def chdb_table(self, table):
        return f"deltaLakeLocal('{self.lake}/{table}')"


class S3:
    """The lake and the records in a bucket. With `faults`, a share of pipe's own requests fails (`faulty_s3.py`); other
    readers ask the server itself."""

    lake = "s3://pipe/lake"

    def __init__(self, directory, port, faults=0.0, seed=0):
        self.directory, self.port, self.process = pathlib.Path(directory), port, None
        self.faults, self.seed, self.proxy, self.proxy_port = faults, seed, None, free_port() if faults else port
        # The server keeps objects as files.
        self.lake_files, self.record_files = self.directory / "data/pipe/lake", self.directory / "data/pipe/records"

    def start(self):
        self.directory.mkdir()
        log = open(self.directory / "s3.log", "ab")
        command = ["bash", str(HERE / "s3.sh"), "run", str(self.port), str(self.directory)]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        # The first run builds the server.
        wait_for_port(self.port, self.process, "the S3 server", self.directory / "s3.log", patience_seconds=300)
        if self.faults:
            log = open(self.directory / "faults.log", "ab")
            options = ["--share", str(self.faults), "--seed", str(self.seed)]
            command = [sys.executable, str(HERE / "faulty_s3.py"), str(self.proxy_port), str(self.port), *options]
            self.proxy = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            wait_for_port(self.proxy_port, self.proxy, "the faulty S3 server", self.directory / "faults.log")

    def go_away(self):
        """For some seconds, as pipe sees it."""
        self.proxy.send_signal(signal.SIGUSR1)

    def environment(self):
        """Of pipe."""
        return self._environment(self.proxy_port)

    def _environment(self, port):
        lines = subprocess.run(
            ["bash", str(HERE / "s3.sh"), "env", str(port)], check=True, capture_output=True, text=True
        ).stdout
        words = lines.replace("export ", " ").split()
        return dict(word.split("=", 1) for word in words)

    def checkpoint_lines(self):
        return 'location = "s3://pipe/records"\n' + self.sink_lines()

    def sink_lines(self):
        return "options = " + toml(options(self.environment())) + "\n"

    def delta_options(self):
        """Of readers that are not pipe."""
        return options(self._environment(self.port))

    def chdb_table(self, table):
        o = self.delta_options()
        url = f"{o['aws_endpoint']}/pipe/lake/{table}"
        return f"deltaLake('{url}', '{o['aws_access_key_id']}', '{o['aws_secret_access_key']}')"

    def end(self):
        end(self.proxy)
        end(self.process)


def options(environment):
    keys = ("AWS_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ALLOW_HTTP")
    return {key.lower(): environment[key] for key in keys}


def toml(table):
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + " }"
