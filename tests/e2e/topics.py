"""Kafka topics whose past is gone: one was deleted and made anew under its name while the pipeline was stopped, one was
purged beyond what was read. The start is refused, the lake keeps what it has, and each way out that the refusal names does
what it says."""

import json
import subprocess

from deltalake import DeltaTable

import pipeline
from publish import KafkaSender, create_topic, delete_topic, purge
from service import Local

TOPIC, OTHER = "notes", "notes.2"
OLD, NEW, ELSEWHERE, PURGED, LEFT = range(10), range(100, 130), range(200, 205), range(300, 320), range(400, 420)

SQL = """
CREATE TABLE {source} (id BIGINT NOT NULL, era TEXT);
CREATE MATERIALIZED VIEW per_era AS SELECT era, count(*) AS n FROM {source} GROUP BY era;
INSERT INTO lake.notes SELECT * FROM {source};
"""


class Notes:
    """One pipeline over the topic, in a directory of its own."""

    def __init__(self, binary, kafka, directory):
        self.binary, self.kafka, self.directory = binary, kafka, directory
        directory.mkdir()
        self.store = Local(directory)
        self.configure("notes", TOPIC)

    def configure(self, source, topic, begin=""):
        """`begin`: added to the names of data_dir and lake."""
        toml = pipeline.head("notes", self.store, 0, 0, "1s") + f"""[source.{source}]
type = "kafka"
brokers = ["{self.kafka.bootstrap}"]
topics = ["{topic}"]
"""
        toml = toml.replace('data_dir = "data"', f'data_dir = "data{begin}"')
        toml = toml.replace(f'uri = "{self.store.lake}"', f'uri = "{self.store.lake}{begin}"')
        self.lake = self.store.lake + begin
        self.config = pipeline.put(self.directory, "notes", SQL.format(source=source), toml)

    def run(self, verb, *options):
        command = [self.binary, verb, "--config", str(self.config), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def read(self, *options):
        """Everything there is, once; how many keys the view has."""
        done = self.run("serve", "--once", "--json", *options)
        if done.returncode != 0:
            return f"exit code {done.returncode}: {done.stderr[-2000:]}"
        return json.loads(done.stdout)["views"]["per_era"]

    def table(self):
        return DeltaTable(f"{self.lake}/notes")

    def ids(self):
        return sorted(self.table().to_pyarrow_table(columns=["id"])["id"].to_pylist())


def send(kafka, topic, ids, era):
    messages = [(f"k{id}", json.dumps({"id": id, "era": era})) for id in ids]
    sender = KafkaSender(kafka.bootstrap, topic, messages, 0)
    sender.start()
    sender.join()


def compare(check, binary, kafka, directory):
    notes = Notes(binary, kafka, directory)
    compare_made_anew(check, kafka, notes)
    compare_purged(check, kafka, notes)


def refused(check, name, notes, parts):
    """A start ends by itself, says all of `parts`, and leaves the lake alone."""
    before = notes.table().version(), notes.ids()
    done = notes.run("serve")
    check.equal(f"exit code of a start on {name}", 1, done.returncode)
    for part in parts:
        check.holds(f"it says: {part}", part in done.stderr, done.stderr[-2000:])
    check.equal("lake after it", before, (notes.table().version(), notes.ids()))


def compare_made_anew(check, kafka, notes):
    create_topic(kafka.bootstrap, TOPIC)
    send(kafka, TOPIC, OLD, "old")
    check.equal("keys of the old topic", 1, notes.read())

    delete_topic(kafka.bootstrap, TOPIC)
    create_topic(kafka.bootstrap, TOPIC)
    # More than there was: positions do not tell.
    send(kafka, TOPIC, NEW, "new")
    said = [f'topic "{TOPIC}" was deleted and made again', "is lost", '"topics"', "rename the source", "a new data_dir"]
    refused(check, "a topic made anew", notes, said)

    # A topic of another name: everything goes on, the view too.
    create_topic(kafka.bootstrap, OTHER)
    send(kafka, OTHER, ELSEWHERE, "elsewhere")
    notes.configure("notes", OTHER)
    check.equal("keys with another topic's", 2, notes.read())
    check.equal("lake with another topic's", [*OLD, *ELSEWHERE], notes.ids())

    # A source of another name: tables go on, the view starts empty, and both are said before.
    notes.configure("notes_anew", TOPIC)
    said = notes.run("validate", "--diff")
    check.equal("pipe validate --diff names the view that starts empty", (3, True), (said.returncode, "RESET" in said.stdout))
    check.equal("keys under another source", 1, notes.read())
    check.equal("lake under another source", [*OLD, *NEW, *ELSEWHERE], notes.ids())
    check.equal("once more: nothing is doubled", (1, [*OLD, *NEW, *ELSEWHERE]), (notes.read(), notes.ids()))
    audited = notes.run("audit", "--strict")
    check.holds("pipe audit", audited.returncode == 0, audited.stdout + audited.stderr)

    # From nothing. What follows goes on from here.
    notes.configure("notes", TOPIC, begin="-anew")
    check.equal("keys after a new beginning", 1, notes.read())
    check.equal("lake after a new beginning", list(NEW), notes.ids())


def compare_purged(check, kafka, notes):
    send(kafka, TOPIC, PURGED, "purged")
    purge(kafka.bootstrap, TOPIC)
    send(kafka, TOPIC, LEFT, "left")
    refused(check, "a purged topic", notes, ["were purged before they were read", "--skip-purged"])
    check.equal("keys behind what was purged", 2, notes.read("--skip-purged"))
    check.equal("lake behind what was purged", [*NEW, *LEFT], notes.ids())
    check.equal("once more, without being told", (2, [*NEW, *LEFT]), (notes.read(), notes.ids()))
    audited = notes.run("audit", "--strict")
    check.holds("pipe audit", audited.returncode == 0, audited.stdout + audited.stderr)
