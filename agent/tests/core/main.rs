//! The core against a hub and an attacker on paper.
mod images;
mod messages;
mod runs;
mod world;
