//! `volume`: what a device keeps for its apps, and copies out of it and into
//! it. Bytes travel as tar; a copy that is not whole is never taken for one.

use super::args::{Format, VolumeArgs, VolumeCommand};
use super::client::{Client, encode, with_query};
use super::error::{CliError, told};
use super::frames::Frames;
use super::get::{clean, device_path};
use super::human;
use super::output::Out;
use super::table::Table;
use super::transfer::packed;
use super::volume_tar::{Compressed, Compression, send_tree, unpack};
use crate::api::types::{Volume, channel};
use skerry_layer::Plain;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes moved at once.
const CHUNK: usize = 64 * 1024;

/// Does what is asked of volumes.
pub(super) fn volume(out: &mut Out, client: &Client, args: VolumeArgs) -> Result<(), CliError> {
    match args.command {
        VolumeCommand::List { device, output } => list(out, client, &device, output),
        VolumeCommand::Remove { volumes, namespace } => {
            for name in &volumes {
                let volume = named(name, &namespace.namespace)?;
                client.delete(&volume.path())?;
                out.print(&format!(
                    "volume/{} removed from {}\n",
                    volume.name, volume.device
                ))?;
            }
            Ok(())
        }
        VolumeCommand::Copy {
            from,
            to,
            namespace,
        } => match (
            place(&from, &namespace.namespace),
            place(&to, &namespace.namespace),
        ) {
            (Some(from), None) => fetch(out, client, &from?, Path::new(&to)),
            (None, Some(to)) => send(out, client, Path::new(&from), &to?),
            (Some(_), Some(_)) => Err(CliError::Usage(
                "both are on devices; copy to this machine first".into(),
            )),
            (None, None) => Err(CliError::Usage(
                "neither names a volume; write DEVICE:VOLUME/PATH, and ./a:b for a file with ':'"
                    .into(),
            )),
        },
        VolumeCommand::Backup {
            device,
            volume,
            output,
            namespace,
        } => {
            let volume = on(&device, &volume, &namespace.namespace)?;
            backup(out, client, &volume, output.as_deref())
        }
        VolumeCommand::Restore {
            device,
            volume,
            file,
            namespace,
        } => {
            let volume = on(&device, &volume, &namespace.namespace)?;
            restore(out, client, &volume, &file)
        }
    }
}

fn list(out: &mut Out, client: &Client, device: &str, output: Format) -> Result<(), CliError> {
    let volumes: Vec<Volume> = client.list(&format!("{}/volumes", device_path(device)))?;
    match output {
        Format::Json => {
            let text = serde_json::to_string_pretty(&volumes).unwrap_or_default();
            return out.print(&format!("{text}\n"));
        }
        Format::Yaml => {
            let value = serde_json::to_value(&volumes).unwrap_or_default();
            return out.print(&super::yaml::to_yaml(&value));
        }
        Format::Name => {
            let line = |v: &Volume| format!("{device}/{}/{}\n", v.namespace, v.name);
            return out.print(&volumes.iter().map(line).collect::<String>());
        }
        Format::Table | Format::Wide => {}
    }
    if volumes.is_empty() {
        out.note(&format!(
            "no volumes on {device}; an app makes one that names a persistentVolumeClaim"
        ));
        return Ok(());
    }
    let mut table = Table::new(&["NAMESPACE", "VOLUME", "USED", "LIMIT", "FILES", "APPS"]);
    for volume in &volumes {
        let limit = volume.limit_bytes.map_or("-".into(), human::bytes);
        let apps = match volume.apps.is_empty() {
            true => "-".into(),
            false => volume.apps.join(","),
        };
        table.row(vec![
            volume.namespace.as_str().into(),
            volume.name.as_str().into(),
            human::bytes(volume.used_bytes).into(),
            limit.into(),
            volume.entries.to_string().into(),
            apps.into(),
        ]);
    }
    let text = table.render(out.colour, true);
    out.print(&text)
}

/// A volume of a device.
struct Named {
    device: String,
    namespace: String,
    name: String,
}

impl Named {
    fn path(&self) -> String {
        format!(
            "{}/volumes/{}/{}",
            device_path(&self.device),
            encode(&self.namespace),
            encode(&self.name)
        )
    }

    fn files(&self, path: &str) -> String {
        let path = (!path.is_empty()).then(|| path.to_string());
        with_query(&format!("{}/files", self.path()), &[("path", path)])
    }
}

/// `DEVICE/NAMESPACE/NAME`, or `DEVICE/NAME` in the usual namespace.
fn named(text: &str, namespace: &str) -> Result<Named, CliError> {
    let words: Vec<&str> = text.split('/').collect();
    match words.as_slice() {
        [device, name] => on(device, name, namespace),
        [device, namespace, name] => on(device, name, namespace),
        _ => Err(CliError::Usage(format!(
            "'{text}' is not DEVICE/NAMESPACE/VOLUME"
        ))),
    }
}

fn on(device: &str, name: &str, namespace: &str) -> Result<Named, CliError> {
    // As 'volume ls -o name' and 'rm' have it.
    let (namespace, name) = name.split_once('/').unwrap_or((namespace, name));
    if device.is_empty() || namespace.is_empty() || name.is_empty() || name.contains('/') {
        return Err(CliError::Usage(
            "name a device and a volume of it; 'skerry volume ls DEVICE' shows them".into(),
        ));
    }
    Ok(Named {
        device: device.into(),
        namespace: namespace.into(),
        name: name.into(),
    })
}

/// A path in a volume.
struct Place {
    volume: Named,
    /// Without slashes around it; empty is the volume's root.
    path: String,
    /// It says by a slash at its end that it is a directory.
    directory: bool,
}

/// `DEVICE:VOLUME/PATH`; `None` if it names a file of this machine.
fn place(text: &str, namespace: &str) -> Option<Result<Place, CliError>> {
    let (device, rest) = text.split_once(':')?;
    if device.is_empty() || device.contains('/') || device == "." {
        return None;
    }
    let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
    let parts: Vec<&str> = path
        .split('/')
        .filter(|p| !p.is_empty() && *p != ".")
        .collect();
    if parts.contains(&"..") {
        return Some(Err(CliError::Usage(format!("'{text}' has '..' in it"))));
    }
    Some(on(device, name, namespace).map(|volume| Place {
        volume,
        path: parts.join("/"),
        directory: parts.is_empty() || path.ends_with('/'),
    }))
}

/// A tar that comes in frames; it ends only where the device said so.
struct Tar {
    source: Box<dyn Read + Send>,
    frames: Frames,
    ready: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Tar {
    fn open(client: &Client, path: &str) -> Result<Self, CliError> {
        Ok(Self {
            source: client.stream(path)?,
            frames: Frames::default(),
            ready: Vec::new(),
            at: 0,
            ended: false,
        })
    }
}

impl Read for Tar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.at < self.ready.len() {
                let rest = &self.ready[self.at..];
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                self.at += count;
                return Ok(count);
            }
            if self.ended {
                return Ok(0);
            }
            let next = self.frames.next().map_err(io::Error::other)?;
            match next {
                Some(frame) => match frame.channel {
                    channel::STDOUT => (self.ready, self.at) = (frame.bytes, 0),
                    channel::EXIT if frame.bytes == [0; 4] => self.ended = true,
                    channel::ERROR => {
                        let text = clean(&String::from_utf8_lossy(&frame.bytes));
                        return Err(io::Error::other(text));
                    }
                    _ => return Err(io::Error::other("the device ended before all was sent")),
                },
                None => {
                    let mut chunk = [0; 16 * 1024];
                    match self.source.read(&mut chunk)? {
                        0 => {
                            let text = "the connection broke before all was sent: try again";
                            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                        }
                        count => self.frames.push(&chunk[..count]),
                    }
                }
            }
        }
    }
}

/// From a device: into a directory that is there, or under a new name.
fn fetch(out: &mut Out, client: &Client, from: &Place, to: &Path) -> Result<(), CliError> {
    let last = from.path.rsplit('/').next().filter(|name| !name.is_empty());
    let name = last.unwrap_or(&from.volume.name);
    let target = match to.is_dir() {
        true => to.join(name),
        false => to.to_path_buf(),
    };
    let tar = Tar::open(client, &from.volume.files(&from.path))?;
    let count = unpack(tar, &target).map_err(told)?;
    out.note(&format!(
        "{} written ({})",
        target.display(),
        human::count(count, "file")
    ));
    Ok(())
}

/// To a device: into a directory that the place names with a slash at its end,
/// or under the place's own name.
fn send(out: &mut Out, client: &Client, from: &Path, to: &Place) -> Result<(), CliError> {
    let meta =
        std::fs::metadata(from).map_err(|e| CliError::io(format!("read {}", from.display()), e))?;
    let own = from.canonicalize().unwrap_or_else(|_| from.to_path_buf());
    let own = own.file_name().unwrap_or_default().to_os_string();
    let (dir, name) = match to.directory {
        true => (to.path.clone(), own),
        false => match to.path.rsplit_once('/') {
            Some((dir, name)) => (dir.into(), name.into()),
            None => (String::new(), to.path.clone().into()),
        },
    };
    let path = to.volume.files(&dir);
    let from = from.to_path_buf();
    let whole = meta.is_dir();
    send_tar(client, &path, move |writer| {
        send_tree(writer, &from, whole, Path::new(&name))
    })?;
    out.note(&format!(
        "copied to {}:{}",
        to.volume.device, to.volume.name
    ));
    Ok(())
}

/// Uploads what `pack` writes, on the way.
fn send_tar(
    client: &Client,
    path: &str,
    pack: impl FnOnce(io::PipeWriter) -> io::Result<()> + Send + 'static,
) -> Result<(), CliError> {
    let failed = |e| CliError::io("pack the files", e);
    packed(failed, pack, |mut reader| {
        let answer: Result<serde_json::Value, CliError> = client.put(path, &mut reader);
        answer.map(drop)
    })
}

/// Saves a volume. The file appears whole or not at all.
fn backup(
    out: &mut Out,
    client: &Client,
    volume: &Named,
    file: Option<&Path>,
) -> Result<(), CliError> {
    let usual = PathBuf::from(format!("{}-{}.tar.zst", volume.device, volume.name));
    let file = file.unwrap_or(&usual);
    let mut tar = Tar::open(client, &volume.files(""))?;
    if file == Path::new("-") {
        let mut chunk = vec![0; CHUNK];
        loop {
            match tar.read(&mut chunk).map_err(told)? {
                0 => return Ok(()),
                count => out.print_bytes(&chunk[..count])?,
            }
        }
    }
    let shown = file.display().to_string();
    let failed = |e| CliError::io(format!("write {shown}"), e);
    let mut partial = file.as_os_str().to_os_string();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    let mut options = OpenOptions::new();
    // What apps keep is often for nobody else.
    options.write(true).create_new(true).mode(0o600);
    let target = options.open(&partial).map_err(failed)?;
    let saved = Compressed::write(tar, target, Compression::of(file)).and_then(|target| {
        target.sync_all()?;
        std::fs::rename(&partial, file)?;
        target.metadata().map(|meta| meta.len())
    });
    match saved {
        Ok(bytes) => out.print(&format!("{shown} written ({})\n", human::bytes(bytes))),
        Err(error) => {
            let _ = std::fs::remove_file(&partial);
            Err(told(error))
        }
    }
}

fn restore(out: &mut Out, client: &Client, volume: &Named, file: &Path) -> Result<(), CliError> {
    let shown = file.display().to_string();
    let failed = |e| CliError::io(format!("read {shown}"), e);
    let source: Box<dyn Read + Send> = match file == Path::new("-") {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(file).map_err(failed)?),
    };
    let mut plain = Plain::new(source).map_err(failed)?;
    let path = with_query(
        &format!("{}/files", volume.path()),
        &[("restore", Some("true".into()))],
    );
    send_tar(client, &path, move |mut writer| {
        io::copy(&mut plain, &mut writer)?;
        writer.flush()
    })?;
    out.print(&format!(
        "volume/{} of {} is as in {shown}\n",
        volume.name, volume.device
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_devices_and_the_rest_is_files() {
        let place = |text| place(text, "default");
        let found = place("kiosk-1:data/a//b/").unwrap().unwrap();
        assert_eq!(
            found.volume.path(),
            "/v1/devices/kiosk-1/volumes/default/data"
        );
        assert_eq!((found.path.as_str(), found.directory), ("a/b", true));
        let root = place("kiosk-1:data").unwrap().unwrap();
        assert_eq!((root.path.as_str(), root.directory), ("", true));
        assert!(place("./a:b").is_none());
        assert!(place("/srv/a:b").is_none());
        assert!(place("file").is_none());
        assert!(place("kiosk-1:data/../x").unwrap().is_err());
        let named = named("kiosk-1/shop/data", "default").ok().unwrap();
        assert_eq!(named.path(), "/v1/devices/kiosk-1/volumes/shop/data");
    }

    #[test]
    fn a_tar_that_is_cut_short_is_an_error() {
        let frame = |channel: u8, bytes: &[u8]| super::super::frames::encode(channel, bytes);
        let read = |bytes: Vec<u8>| {
            let mut tar = Tar {
                source: Box::new(io::Cursor::new(bytes)),
                frames: Frames::default(),
                ready: Vec::new(),
                at: 0,
                ended: false,
            };
            let mut all = Vec::new();
            tar.read_to_end(&mut all)
                .map(|_| all)
                .map_err(|e| e.to_string())
        };
        let part = frame(channel::STDOUT, b"abc");
        let whole = [part.clone(), frame(channel::EXIT, &[0; 4])].concat();
        assert_eq!(read(whole), Ok(b"abc".to_vec()));
        assert!(
            read(part.clone())
                .unwrap_err()
                .contains("the connection broke")
        );
        let failed = [part, frame(channel::ERROR, b"disk broken")].concat();
        assert_eq!(read(failed), Err("disk broken".into()));
    }
}
