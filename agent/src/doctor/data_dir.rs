//! Can the data directory be written?

use super::{Finding, Verdict};
use std::fs;
use std::io::Write;
use std::path::Path;

const KIND: &str = "DataDirUnwritable";

/// Writes a small file and takes it away.
pub fn find(dir: &Path) -> Finding {
    let shown = dir.display();
    let probe = dir.join(".doctor");
    let written = fs::create_dir_all(dir)
        .and_then(|()| fs::File::create(&probe))
        .and_then(|mut file| file.write_all(b"ok"));
    let _ = fs::remove_file(&probe);
    match written {
        Ok(()) => Finding::good(KIND, format!("{shown} can be written")),
        Err(error) => Finding::new(
            KIND,
            Verdict::Bad,
            format!("{shown} cannot be written: {error}"),
            format!(
                "mkdir -p {shown} && mount -o remount,rw \"$(df --output=target {shown} | tail -1)\""
            ),
        ),
    }
}
