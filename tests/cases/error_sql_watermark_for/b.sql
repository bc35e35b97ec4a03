CREATE TABLE ignition (vehicle_id TEXT, at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '5 seconds')
WITH (source = 'status', route = (type = 'ignition'));
