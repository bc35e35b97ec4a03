INSERT INTO lake.a SELECT vehicle_id, NULL AS nothing FROM points;
INSERT INTO lake.b SELECT vehicle_id, details->'door' AS door FROM status;
INSERT INTO lake.c SELECT vehicle_id, at - at AS took FROM status;
