CREATE TABLE ignition (
  vehicle_id  UUID,
  vehicleType TEXT,
  price       DECIMAL,
  name        VARCHAR(20),
  at          TIMESTAMP WITHOUT TIME ZONE,
  size        SMALLINT,
  name        TEXT DEFAULT 'x',
  _topic      TEXT,
  PRIMARY KEY (vehicle_id)
) WITH (source = 'status', route = (type = 'ignition'));
