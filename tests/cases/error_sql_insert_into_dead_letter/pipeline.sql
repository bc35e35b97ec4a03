CREATE TABLE events (id BIGINT, kind TEXT);
INSERT INTO lake.events SELECT * FROM events;
INSERT INTO lake.dead_letter SELECT id FROM events WHERE kind = 'odd';
INSERT INTO lake."../events" SELECT * FROM events;
