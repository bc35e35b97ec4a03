CREATE TABLE ignition (
  vehicle_id TEXT, at TIMESTAMP, seen STRUCT<t TIMESTAMP>[]
) WITH (source = 'status', route = (type = 'ignition'), epoch_unit = (att = 'ms', seen.t = 'minutes', vehicle_id = 's'));
