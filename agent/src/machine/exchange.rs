//! Two names that are exchanged at once.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Each of the two gets the other's name, at once (renameat2(2); musl has no
/// function for it).
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    /// `RENAME_EXCHANGE` of linux/fs.h.
    const EXCHANGE: libc::c_uint = 2;
    let name = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let (one, other) = (name(one)?, name(other)?);
    let (here, there) = (libc::AT_FDCWD, libc::AT_FDCWD);
    // SAFETY: both names end with a zero byte and live until the call returns.
    let done = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            here,
            one.as_ptr(),
            there,
            other.as_ptr(),
            EXCHANGE,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
