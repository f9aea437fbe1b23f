//! One MQTT connection of a hub or a device: the only place that knows rumqttc.
