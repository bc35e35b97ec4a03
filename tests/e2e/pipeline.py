"""The pipelines of the tests: what differs between their TOML is where things are."""

TOPIC = "vehicle.points"


def head(name, store, http, flight, interval, memory_mib=None):
    """What every one of them has, before its sources and tables."""
    limits = f'[limits]\nmemory = "{memory_mib}MiB"\n' if memory_mib else ""
    return f"""[pipeline]
name = "{name}"
sql = ["sql/*.sql"]
data_dir = "data"

[checkpoint]
interval = "{interval}"
{store.checkpoint_lines()}
{limits}
[server]
http = "127.0.0.1:{http}"
flight = "127.0.0.1:{flight}"

[sink.lake]
type = "delta"
uri = "{store.lake}"
{store.sink_lines()}
"""


def put(directory, name, sql, toml):
    """The path of the config. What is there already is replaced."""
    (directory / "sql").mkdir(exist_ok=True)
    (directory / "sql" / f"{name}.sql").write_text(sql)
    config = directory / f"{name}.toml"
    config.write_text(toml)
    return config


def write(directory, sql, kafka, mosquitto, store, http, flight, interval="2s"):
    """The fleet's, below `directory`; the path of the config."""
    toml = head("e2e", store, http, flight, interval) + f"""[source.kinematic]
type = "kafka"
brokers = ["{kafka.bootstrap}"]
topics = ["{TOPIC}"]
group = "pipe-e2e"
format = "json"
properties = {{ "topic.metadata.refresh.interval.ms" = 1000 }}

[source.status]
type = "mqtt"
url = "mqtt://127.0.0.1:{mosquitto.port}"
topics = ["fleet/+/status"]
client_id = "pipe-e2e"
format = "json"

[sink.lake.table.points]
partition_by = ["event_date"]

[sink.kv]
type = "kv"
"""
    return put(directory, "fleet", sql, toml)
