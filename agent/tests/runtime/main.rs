//! The container runtime with the real binary, the real kernel and a real
//! image made from busybox. Needs root and busybox-static.

mod crash;
mod escape;
mod exec;
mod hooks;
mod inside;
mod isolation;
mod known_escapes;
mod life;
mod limits;
mod logs;
mod oci_validation;
mod sandbox;
mod support;
mod users;
