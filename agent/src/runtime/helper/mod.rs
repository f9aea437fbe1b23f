//! `skerry-agent helper`: one operation on one container, and out.
//!
//! libcontainer forks its caller and expects a single thread, so it runs here
//! and nowhere else: in a process that does one thing. The helper's standard
//! input is a socket to the keeper; it reads one [`Operation`] from it, tells
//! its [`Progress`], and exits. The container's first process is then the
//! keeper's child (the keeper is a child subreaper).
//!
//! The helper works in a mount namespace of its own. What it mounts is seen by
//! the container and by nobody else, and is gone when both are: the host's
//! mount table stays clean whoever crashes.

mod create;
mod exec;
mod failure;
mod operation;
mod rights;
mod user_namespace;

pub use operation::main;
