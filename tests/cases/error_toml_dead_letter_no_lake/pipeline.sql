CREATE TABLE events (device TEXT NOT NULL, at TIMESTAMP, value DOUBLE);
CREATE MATERIALIZED VIEW latest AS SELECT DISTINCT ON (device) device, at, value FROM events ORDER BY device, at DESC;
INSERT INTO kv.latest SELECT * FROM latest;
