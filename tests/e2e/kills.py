"""When to kill: at any time, and aimed at the steps of a checkpoint, which are watched from outside as files."""

import json
import os
import time

PATIENCE_SECONDS = 20
POLL_SECONDS = 0.0005

# What is waited for, and how long after it the kill may come. "start" is a second kill, while the process recovers from one.
MOMENTS = {
    "any": 0.0,
    "segment": 0.02,  # a state segment: the epoch is prepared, in part, and not decided
    "record": 0.04,  # decided; no table has it yet, or some have
    "commit": 0.01,  # one table has it
    "start": 1.5,
}
WEIGHTS = [35, 10, 30, 10, 15]


class Evidence:
    """The chain and the tables as files: nothing of pipe is asked."""

    def __init__(self, store):
        self.records, self.states = store.record_files / "records", store.record_files / "state"
        self.lake = store.lake_files

    def head(self):
        return max((int(name[:20]) for name in names(self.records) if name.endswith(".json")), default=0)

    def record(self, epoch):
        return json.loads((self.records / f"{epoch:020}.json").read_text())

    def landings(self, epoch):
        """Tables the record of `epoch` has files for."""
        return [table for table in self.record(epoch)["tables"] if table["adds"]] if epoch else []

    def segments(self):
        return sum(len(names(self.states / view)) for view in names(self.states))

    def version(self, table):
        return max((int(name[:20]) for name in self._commits(table)), default=-1)

    def _commits(self, table):
        return sorted(name for name in names(self.lake / table / "_delta_log") if len(name) == 25 and name.endswith(".json"))

    def applied(self, landing):
        """The newest epoch in the table's log."""
        table = landing["table"]
        for name in reversed(self._commits(table)):
            for line in (self.lake / table / "_delta_log" / name).read_text().splitlines():
                txn = json.loads(line).get("txn", {})
                if txn.get("appId") == landing["app_id"]:
                    return txn["version"]
        return 0

    def undone(self):
        """(the newest epoch, the tables it has files for and that lack it): what the next start must roll forward."""
        epoch = self.head()
        return epoch, [t["table"] for t in self.landings(epoch) if self.applied(t) < epoch]


def names(directory):
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def wait_for(moment, evidence, random, window_seconds):
    """Returns when it is time to kill. False: what was waited for did not come."""
    time.sleep(random.uniform(0, window_seconds))
    seen = WATCHED.get(moment)
    came = seen is None or watch(seen(evidence))
    if moment != "start":
        time.sleep(random.uniform(0, MOMENTS[moment]))
    return came


def watch(happened):
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        if happened():
            return True
        time.sleep(POLL_SECONDS)
    return False


def next_record(evidence):
    # Claims and epochs without rows have nothing to apply: they are passed over.
    expected = [evidence.head() + 1]

    def happened():
        path = evidence.records / f"{expected[0]:020}.json"
        if not path.exists():
            return False
        expected[0] += 1
        return bool(evidence.landings(expected[0] - 1))

    return happened


def next_commit(evidence):
    before = evidence.version("kinematic")
    return lambda: (evidence.lake / "kinematic" / "_delta_log" / f"{before + 1:020}.json").exists()


def next_segment(evidence):
    before = evidence.segments()
    return lambda: evidence.segments() > before


WATCHED = {"segment": next_segment, "record": next_record, "commit": next_commit}
