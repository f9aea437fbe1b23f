//! What hub and device say to each other.
//!
//! Everything here is pure: values in, values out; no clock, no randomness of
//! its own, no input or output. Time comes as [`Timestamp`], randomness as an
//! argument.
//!
//! Encoding: postcard inside the sealed envelope of [`seal`]. Postcard is
//! positional, so a released struct never changes: enums grow at their end,
//! anything else needs a new [`seal::WIRE_VERSION`]. `tests/golden.rs` holds
//! the bytes of every released version.
#![forbid(unsafe_code)]

pub mod calendar;
pub mod capability;
pub mod codec;
pub mod config;
pub mod cron;
pub mod desired;
pub mod finding;
pub mod id;
pub mod label;
pub mod message;
pub mod pod;
pub mod policy;
pub mod probe;
pub mod report;
pub mod seal;
pub mod stream;
pub mod token;
pub mod topic;
pub mod update;
pub mod zone;

pub use capability::CAPABILITIES;
pub use codec::{DecodeError, decode, encode};
pub use config::{Config, ConfigData, ConfigKind, ConfigRef, named_configs};
pub use desired::{Assignment, Desired, DesiredPart};
pub use id::{
    AppName, AppRef, ConfigName, ContainerName, DeviceId, Digest, FleetId, Generation, IdError,
    Namespace, RevisionId, Seq, SessionId, StreamId, Timestamp, VolumeName,
};
pub use label::{Labels, Selector};
pub use pod::{
    ContainerSpec, EnvVar, ImageRef, PodSpec, Resources, RestartPolicy, Role, Volume, VolumeMount,
    VolumeSource,
};
pub use policy::AppPolicy;
