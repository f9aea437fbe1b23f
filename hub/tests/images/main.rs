//! Images into the hub: from archives made by hand, umoci and skopeo, and from
//! Debian's docker-registry. Needs umoci, skopeo and docker-registry.

mod archives;
mod hub;
mod import;
mod pull;
