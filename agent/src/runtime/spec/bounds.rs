//! What no specification may exceed.

/// Longest container id and log name in bytes. It becomes a directory name, a
/// cgroup name and part of socket paths.
pub const MAX_NAME: usize = 128;
/// Most image layers of one container: what OCI tools allow, and what fits
/// into the one page of options that overlayfs takes.
pub const MAX_LAYERS: usize = 127;
/// Most volumes of one container: those of a manifest, what the agent adds (its
/// API, `/etc/hosts`, shared memory), and the files of its devices: those of a
/// graphics card are libraries, some hundreds on a Jetson.
pub const MAX_MOUNTS: usize = 512;
/// Most arguments, and most environment variables, of one process.
pub const MAX_WORDS: usize = 4096;
/// Longest hostname (`HOST_NAME_MAX` of Linux).
pub const MAX_HOSTNAME: usize = 64;
/// Smallest log file before rotation: two lines of the greatest length.
pub const MIN_LOG_FILE_BYTES: u64 = 64 * 1024;
/// Most files kept of one log.
pub const MAX_LOG_FILES: u32 = 100;
/// Most further groups of one container's user.
pub const MAX_GROUPS: usize = 64;
/// Longest path in a volume, in bytes.
pub const MAX_SUB_PATH: usize = 1024;
