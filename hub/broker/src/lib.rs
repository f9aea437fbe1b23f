//! An MQTT broker for many small devices: sessions, access rules, limits.
