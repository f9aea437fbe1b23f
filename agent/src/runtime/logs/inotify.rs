//! Waking up when a log's directory changes: inotify(7).

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use smol::Async;

/// Something in the directory was written, made, moved or deleted.
const CHANGES: u32 = libc::IN_MODIFY | libc::IN_CREATE | libc::IN_DELETE | libc::IN_DELETE_SELF;

/// Watches one directory.
#[derive(Debug)]
pub struct Watch {
    file: Async<File>,
}

impl Watch {
    /// Begins to watch; fails with `NotFound` if there is no such directory.
    pub fn new(dir: &Path) -> io::Result<Self> {
        // SAFETY: the call takes no pointers.
        let fd = unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel made this descriptor just now.
        let file = unsafe { File::from_raw_fd(fd) };
        let path = CString::new(dir.as_os_str().as_bytes())?;
        // SAFETY: `path` is a C string that lives over the call.
        let watch = unsafe { libc::inotify_add_watch(file.as_raw_fd(), path.as_ptr(), CHANGES) };
        if watch < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            file: Async::new_nonblocking(file)?,
        })
    }

    /// Returns after something has changed since the last call.
    pub async fn changed(&self) -> io::Result<()> {
        self.file.readable().await?;
        let mut buffer = [0; 4096];
        loop {
            match self.file.get_ref().read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
