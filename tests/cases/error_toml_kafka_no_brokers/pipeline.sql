CREATE TABLE events (device TEXT NOT NULL, at TIMESTAMP, value DOUBLE);
INSERT INTO lake.events SELECT * FROM events;
