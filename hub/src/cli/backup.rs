//! `backup`: saves the hub.

use super::args::BackupArgs;
use super::client::{Client, with_query};
use super::error::CliError;
use super::human;
use super::output::Out;
use super::transfer::{CHUNK, Counted};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Saves the hub. The file appears whole or not at all.
pub(super) fn backup(out: &mut Out, client: &Client, args: &BackupArgs) -> Result<(), CliError> {
    let path = with_query(
        "/v1/backup",
        &[("images", args.images.then(|| "true".to_string()))],
    );
    if args.file == Path::new("-") {
        let mut stream = client.post_for_stream(&path)?;
        let mut chunk = vec![0; CHUNK];
        loop {
            match stream.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => out.print_bytes(&chunk[..count])?,
                Err(error) => return Err(CliError::io("read the backup from the hub", error)),
            }
        }
    }
    let shown = args.file.display().to_string();
    let mut partial = args.file.clone().into_os_string();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = std::path::PathBuf::from(partial);
    let stream = client.post_for_stream(&path)?;
    let saved = save(out, stream, &partial, &args.file);
    if saved.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    let bytes = saved.map_err(|e| CliError::io(format!("write {shown}"), e))?;
    out.print(&format!("{shown} written ({})\n", human::bytes(bytes)))?;
    out.note("it holds the hub's keys: whoever has it can be your hub, so keep it as you keep a password");
    Ok(())
}

fn save(out: &mut Out, stream: impl Read, partial: &Path, file: &Path) -> io::Result<u64> {
    let mut options = OpenOptions::new();
    let mut target = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(partial)?;
    let mut reader = Counted::new(out, stream, None);
    let bytes = io::copy(&mut reader, &mut target)?;
    if bytes == 0 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the hub sent nothing",
        ));
    }
    target.sync_all()?;
    std::fs::rename(partial, file)?;
    let dir = file.parent().filter(|d| !d.as_os_str().is_empty());
    File::open(dir.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(bytes)
}
