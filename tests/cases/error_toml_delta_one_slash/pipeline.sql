CREATE TABLE events (id BIGINT, kind TEXT);
INSERT INTO lake.events SELECT * FROM events;
