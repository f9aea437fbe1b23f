//! The device's own software: two places for it on the disk, one in use and
//! one to try. See [`slot`].

pub mod slot;
