"""The pipeline of the tests: the SQL is one; where things are differs, and stands in the TOML."""

TOPIC = "vehicle.points"


def write(directory, sql, kafka, mosquitto, store, http, flight, interval="2s"):
    """Its files below `directory`; the path of the config."""
    (directory / "sql").mkdir()
    (directory / "sql" / "fleet.sql").write_text(sql)
    config = directory / "fleet.toml"
    config.write_text(
        f"""[pipeline]
name = "e2e"
sql = ["sql/*.sql"]
data_dir = "data"

[checkpoint]
interval = "{interval}"
{store.checkpoint_lines()}
[server]
http = "127.0.0.1:{http}"
flight = "127.0.0.1:{flight}"

[source.kinematic]
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

[sink.lake]
type = "delta"
uri = "{store.lake}"
{store.sink_lines()}
[sink.lake.table.points]
partition_by = ["event_date"]

[sink.kv]
type = "kv"
"""
    )
    return config
