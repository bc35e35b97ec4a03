CREATE TABLE other (vehicle_id TEXT) WITH (source = 'status');
CREATE TABLE doors (vehicle_id TEXT) WITH (source = 'status', route = (type LIKE 'door%' OR open));
CREATE TABLE lost (vehicle_id TEXT) WITH (source = 'statsu', route = (type = 'lost'));
CREATE TABLE ghost (vehicle_id TEXT);
