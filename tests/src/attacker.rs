//! Somebody who owns the broker: sees every message, and publishes whatever
//! they like on any topic.

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{Client, Event, Incoming, MqttOptions};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A message as the broker carried it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
}

/// Subscribed to everything.
pub struct Attacker {
    client: Client,
    seen: Arc<Mutex<Vec<Seen>>>,
    thread: Option<JoinHandle<()>>,
}

impl Attacker {
    /// Connects and listens to all topics.
    pub fn connect(broker: SocketAddr) -> Self {
        let mut options = MqttOptions::new("attacker", broker.ip().to_string(), broker.port());
        options.set_keep_alive(Duration::from_secs(60));
        options.set_max_packet_size(Some(1 << 20));
        options.set_outgoing_inflight_upper_limit(64);
        let (client, mut connection) = Client::new(options, 1024);
        client.subscribe("#", QoS::AtLeastOnce).expect("queued");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (subscribed, ready) = std::sync::mpsc::channel();
        let store = seen.clone();
        let thread = std::thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Incoming::Publish(publish))) => {
                        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                        let payload = publish.payload.to_vec();
                        store
                            .lock()
                            .expect("no panic")
                            .push(Seen { topic, payload });
                    }
                    Ok(Event::Incoming(Incoming::SubAck(_))) => {
                        let _ = subscribed.send(());
                    }
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        });
        ready.recv_timeout(crate::PATIENCE).expect("subscribed");
        Self {
            client,
            seen,
            thread: Some(thread),
        }
    }

    /// All that went by so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }

    /// Publishes anything anywhere.
    pub fn publish(&self, topic: &str, payload: Vec<u8>) {
        self.client
            .publish(topic, QoS::AtLeastOnce, false, payload)
            .expect("queued");
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.client.disconnect();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
