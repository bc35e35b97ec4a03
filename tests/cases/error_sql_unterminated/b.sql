INSERT INTO lake.a SELECT nothing_at_all FROM points;
INSERT INTO lake.b SELECT vehicle_id FROM points WHERE vehicle_id = 'V1;
INSERT INTO lake.c SELECT vehicle_id FROM points;
