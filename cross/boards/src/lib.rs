//! Emulated boards for the tests: QEMU runs a disk image as it would lie on a
//! card, and what the Raspberry Pi's firmware does before the kernel is played
//! here, because QEMU has no such firmware.
//!
//! ```no_run
//! use skerry_boards::{Board, Model, Setup};
//! use std::time::Duration;
//! let setup = Setup::new(Model::Virt, "card.img");
//! let mut board = Board::boot(&setup).expect("QEMU starts");
//! board.wait_for("skerry: ready", Duration::from_secs(120)).expect("boots");
//! board.cut_power();
//! ```

pub mod bench;
pub mod board;
pub mod console;
pub mod firmware;

pub use bench::{Bench, PATIENCE};
pub use board::{Board, BoardError, CardWrites, Model, Setup};
pub use console::Console;
pub use firmware::{Boot, Firmware, FirmwareError};
