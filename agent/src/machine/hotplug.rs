//! Notices devices that come and go: the kernel's word for it, and a look now
//! and then while something is missing, because udev makes its links a moment
//! later and a full queue loses words.
//!
//! Nothing is opened and nothing wakes on a device whose apps name no device.

use super::MachineEvent;
use super::devices::MachineDevices;
use crate::core::{DevicesSeen, Presence, WatchedDevice};
use crate::init::uevent::Uevents;
use smol::channel::{Receiver, Sender, bounded};
use smol::{Async, Timer, future};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Words of the kernel within this time are one.
const GATHER: Duration = Duration::from_millis(30);
/// Between two looks right after such a word.
const SOON: Duration = Duration::from_millis(250);
/// How many of these: for two seconds.
const SOON_LOOKS: u8 = 8;
/// Between two looks while something is missing and nobody says anything.
const NOW_AND_THEN: Duration = Duration::from_secs(10);

/// Watches the devices that apps name.
#[derive(Debug)]
pub struct Hotplug {
    devices: Arc<MachineDevices>,
    wanted: RefCell<BTreeSet<WatchedDevice>>,
    changed: (Sender<()>, Receiver<()>),
    /// A look is due.
    due: Cell<bool>,
    /// Looks that are still to come soon.
    soon: Cell<u8>,
    told: RefCell<DevicesSeen>,
    /// Opened once something is watched.
    uevents: RefCell<Option<Rc<Async<Uevents>>>>,
}

impl Hotplug {
    /// Watches nothing yet.
    pub fn new(devices: Arc<MachineDevices>) -> Self {
        Self {
            devices,
            wanted: RefCell::default(),
            changed: bounded(1),
            due: Cell::new(false),
            soon: Cell::new(0),
            told: RefCell::default(),
            uevents: RefCell::default(),
        }
    }

    /// What is watched from now on.
    pub fn watch(&self, wanted: BTreeSet<WatchedDevice>) {
        *self.wanted.borrow_mut() = wanted;
        let _ = self.changed.0.try_send(());
    }

    /// What was told may not have been heard.
    pub fn tell_again(&self) {
        *self.told.borrow_mut() = DevicesSeen::default();
        let _ = self.changed.0.try_send(());
    }

    /// The next change. Safe to drop and call again.
    pub async fn next_event(&self) -> MachineEvent {
        loop {
            if self.due.get() {
                let wanted = self.wanted.borrow().clone();
                let devices = self.devices.clone();
                let seen = smol::unblock(move || devices.look(&wanted)).await;
                self.due.set(false);
                if seen != *self.told.borrow() {
                    self.told.borrow_mut().clone_from(&seen);
                    return MachineEvent::Devices(seen);
                }
            }
            self.wait().await;
        }
    }

    /// Until there is something to look for.
    async fn wait(&self) {
        let changed = async {
            let _ = self.changed.1.recv().await;
            self.due.set(true);
        };
        if self.wanted.borrow().is_empty() {
            *self.uevents.borrow_mut() = None;
            return changed.await;
        }
        let uevents = self.listen();
        let word = async {
            let Some(uevents) = uevents else {
                return future::pending().await;
            };
            if uevents.readable().await.is_err() {
                return future::pending().await;
            }
            self.due.set(true);
            self.soon.set(SOON_LOOKS);
            Timer::after(GATHER).await;
            while uevents.get_ref().next().is_some() {}
        };
        let missing = {
            let told = self.told.borrow();
            let mut all = told.watched.values();
            all.any(|presence| matches!(presence, Presence::Absent { .. }))
        };
        let later = async {
            match (missing, self.soon.get()) {
                (false, _) => future::pending::<()>().await,
                (true, 0) => {
                    Timer::after(NOW_AND_THEN).await;
                }
                (true, left) => {
                    Timer::after(SOON).await;
                    self.soon.set(left - 1);
                }
            }
            self.due.set(true);
        };
        future::or(changed, future::or(word, later)).await;
    }

    fn listen(&self) -> Option<Rc<Async<Uevents>>> {
        let mut open = self.uevents.borrow_mut();
        if open.is_none() {
            let opened = Uevents::listen().and_then(Async::new);
            match opened {
                Ok(opened) => *open = Some(Rc::new(opened)),
                Err(error) => {
                    tracing::warn!("the kernel's word of devices cannot be heard: {error}");
                }
            }
        }
        open.clone()
    }
}
