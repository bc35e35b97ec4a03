//! The seeded fleet, and the in-process MQTT broker of the demo.
