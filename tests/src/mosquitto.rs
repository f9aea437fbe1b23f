//! A real Mosquitto that lets anybody do anything: the broker that nobody
//! should trust.

use crate::fleet::free_address;
use crate::{PATIENCE, Scratch, until};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

/// One broker as a process.
pub struct Mosquitto {
    /// Where it listens, without TLS.
    pub address: SocketAddr,
    config: std::path::PathBuf,
    process: Option<Child>,
}

impl Mosquitto {
    /// Starts one with anonymous access, on loopback.
    pub fn start(scratch: &Scratch) -> Self {
        let address = free_address();
        let config = scratch.path().join("mosquitto.conf");
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\n",
            address.port()
        );
        fs::write(&config, text).expect("written");
        let mut broker = Self {
            address,
            config,
            process: None,
        };
        broker.start_again();
        broker
    }

    /// Starts it after [`Mosquitto::kill`]; it has forgotten everything.
    pub fn start_again(&mut self) {
        let process = Command::new("mosquitto")
            .arg("-c")
            .arg(&self.config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is installed (apt-get install mosquitto)");
        self.process = Some(process);
        let up = until(PATIENCE, || TcpStream::connect(self.address).ok());
        assert!(up.is_some(), "mosquitto does not listen");
    }

    /// Ends it.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("mosquitto runs");
        process.kill().expect("killed");
        process.wait().expect("waited");
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("mosquitto runs").id()
    }

    /// Its address as hub and agent want it.
    pub fn url(&self) -> String {
        format!("mqtt://{}", self.address)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}
