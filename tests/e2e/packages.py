"""The Python packages of these scripts, in a virtual environment of their own.

Run by itself it makes the environment and prints its Python."""

import os
import pathlib
import subprocess
import sys

VENV = pathlib.Path.home() / ".cache" / "pipe-e2e" / "venv"
PACKAGES = ["deltalake", "chdb", "pyarrow", "adbc-driver-flightsql", "adbc-driver-manager", "confluent-kafka", "paho-mqtt"]


def enter():
    """Runs the script again inside the virtual environment, which is made when it is not complete."""
    if pathlib.Path(sys.prefix) == VENV:
        return
    complete = VENV / "complete"
    if not complete.exists() or complete.read_text() != " ".join(PACKAGES):
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        subprocess.run([str(VENV / "bin" / "pip"), "-q", "install", *PACKAGES], check=True)
        complete.write_text(" ".join(PACKAGES))
    python = str(VENV / "bin" / "python3")
    os.execv(python, [python, str(pathlib.Path(sys.argv[0]).resolve()), *sys.argv[1:]])


if __name__ == "__main__":
    enter()
    print(sys.executable)
