//! The same question to many devices, some at once.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Devices asked at once.
const WORKERS: usize = 16;

/// What each device answered, by name.
pub(super) fn each<T: Send>(
    devices: &[String],
    ask: impl Fn(&str) -> T + Sync,
) -> BTreeMap<String, T> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(devices.len()) {
            scope.spawn(|| {
                while let Some(device) = devices.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let answer = ask(device);
                    let mut found = found.lock().unwrap_or_else(|e| e.into_inner());
                    found.insert(device.clone(), answer);
                }
            });
        }
    });
    found.into_inner().unwrap_or_else(|e| e.into_inner())
}
