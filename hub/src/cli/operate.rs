//! The verbs that change one thing: delete, label, approve, token, image,
//! backup; and status.

use super::apply::applied_line;
use super::args::{
    Approve as How, ApproveArgs, BackupArgs, DeleteArgs, FilesArgs, GetArgs, ImageArgs,
    ImageCommand, LabelArgs, Resource, TokenArgs, TokenCommand,
};
use super::client::{Client, encode, with_query};
use super::config::config_path;
use super::error::CliError;
use super::files;
use super::get::{self, app_path, device_path, resource_and_names, short};
use super::human;
use super::output::{Out, Style};
use crate::api::types::{
    Applied, Approval, Approve, CreatedToken, DeviceState, Image, LabelChange, List, NewToken,
    Pull, Status,
};
use skerry_wire::{ConfigKind, label};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;
use ureq::http::Method;

/// Bytes moved at once.
const CHUNK: usize = 256 * 1024;

/// Deletes what files declare, or by name.
pub(super) fn delete(out: &mut Out, client: &Client, args: &DeleteArgs) -> Result<(), CliError> {
    if !args.files.is_empty() {
        let files = FilesArgs {
            files: args.files.clone(),
            recursive: args.recursive,
        };
        let manifests = files::read(&files, args.dry_run)?;
        let answer: List<Applied> = client.post("/v1/delete", &manifests)?;
        for item in &answer.items {
            out.print(&applied_line(item, args.dry_run))?;
        }
        return Ok(());
    }
    let resource = args.resource.as_deref().unwrap_or_default();
    let (resource, names) = resource_and_names(resource, &args.names)?;
    let singular = resource.singular();
    if names.is_empty() {
        return Err(CliError::Usage(format!(
            "which {singular}? write 'skerry delete {singular} NAME'"
        )));
    }
    let mut missing = 0;
    for name in &names {
        let path = match resource {
            Resource::Apps | Resource::Jobs | Resource::CronJobs => {
                app_path(&args.namespace.namespace, name)
            }
            Resource::Devices => device_path(name),
            Resource::Tokens => format!("/v1/tokens/{}", encode(name)),
            Resource::Configs => config_path(ConfigKind::Config, &args.namespace.namespace, name),
            Resource::Secrets => config_path(ConfigKind::Secret, &args.namespace.namespace, name),
            Resource::Releases | Resource::Rollouts => {
                return Err(CliError::Usage(
                    "releases are deleted by 'skerry release delete VERSION', and rollouts taken back by 'skerry rollout undo'".into(),
                ));
            }
            Resource::Containers | Resource::Images | Resource::Events => {
                return Err(CliError::Usage(format!(
                    "a {singular} cannot be deleted; apps, jobs, cronjobs, devices, tokens, configs and secrets can"
                )));
            }
        };
        match client.delete(&path) {
            Ok(()) => out.print(&format!("{singular}/{name} deleted\n"))?,
            Err(error) if error.is_not_found() && args.ignore_not_found => {}
            Err(error) if error.is_not_found() && names.len() > 1 => {
                out.error(&error.to_string());
                missing += 1;
            }
            Err(error) => return Err(error),
        }
    }
    match missing {
        0 => Ok(()),
        n => Err(CliError::Told(format!(
            "{n} of {} were not there; see what there is with 'skerry get {singular}s -A'",
            names.len()
        ))),
    }
}

/// Sets and removes labels of one device.
pub(super) fn label(out: &mut Out, client: &Client, args: &LabelArgs) -> Result<(), CliError> {
    let (name, change) = label_change(&args.words)?;
    let path = format!("{}/labels", device_path(&name));
    client.change(Method::PATCH, &path, &change)?;
    out.print(&format!("device/{name} labeled\n"))
}

/// `[device] NAME k=v k-`, or `device/NAME k=v k-`.
fn label_change(words: &[String]) -> Result<(String, LabelChange), CliError> {
    let is_change = |word: &str| word.contains('=') || word.ends_with('-');
    let (name, changes) = match words {
        [kind, name, rest @ ..] if Resource::parse(kind).is_ok() && !is_change(name) => {
            if Resource::parse(kind) != Ok(Resource::Devices) {
                return Err(CliError::Usage(format!(
                    "a {kind} has no labels; devices have"
                )));
            }
            (name.as_str(), rest)
        }
        [name, rest @ ..] => (name.strip_prefix("device/").unwrap_or(name), rest),
        [] => ("", words),
    };
    if changes.is_empty() {
        return Err(CliError::Usage(
            "which label? write key=value to set it or key- to remove it".into(),
        ));
    }
    let mut change = LabelChange::default();
    for word in changes {
        let wrong = |e: label::LabelError| CliError::Usage(e.to_string());
        if let Some(key) = word.strip_suffix('-').filter(|k| !k.contains('=')) {
            label::check_key(key).map_err(wrong)?;
            change.remove.push(key.into());
        } else {
            let (key, value) = label::parse_label(word).map_err(wrong)?;
            change.set.insert(key, value);
        }
    }
    if let Some(both) = change.remove.iter().find(|k| change.set.contains_key(*k)) {
        return Err(CliError::Usage(format!(
            "label '{both}' cannot be set and removed at once"
        )));
    }
    Ok((name.into(), change))
}

pub(super) fn labels(words: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let mut labels = BTreeMap::new();
    for word in words.iter().flat_map(|w| w.split(',')) {
        let (key, value) = label::parse_label(word).map_err(|e| CliError::Usage(e.to_string()))?;
        labels.insert(key, value);
    }
    Ok(labels)
}

/// Lets devices in.
pub(super) fn approve(out: &mut Out, client: &Client, args: &ApproveArgs) -> Result<(), CliError> {
    let labels = labels(&args.labels)?;
    let mut names = args.names.clone();
    if names.is_empty() {
        let mut waiting = get::devices(client, args.selector.as_deref())?;
        waiting.retain(|d| d.state == DeviceState::Pending);
        names = waiting.into_iter().map(|d| d.name).collect();
        if names.is_empty() {
            out.note(&match &args.selector {
                Some(selector) => format!("no device in the lobby matches '{selector}'"),
                None => "no device waits in the lobby".into(),
            });
        }
    }
    for name in &names {
        let name = name.strip_prefix("device/").unwrap_or(name);
        let path = format!("{}/approve", device_path(name));
        let body = Approve {
            labels: labels.clone(),
        };
        client.change(Method::POST, &path, &body)?;
        out.print(&format!("device/{name} approved\n"))?;
    }
    Ok(())
}

/// Makes, lists and deletes tokens.
pub(super) fn token(out: &mut Out, client: &Client, args: TokenArgs) -> Result<(), CliError> {
    match args.command {
        TokenCommand::Create {
            labels: words,
            uses,
            expires,
            approve,
        } => {
            let body = NewToken {
                labels: labels(&words)?,
                uses: Some(uses),
                expires_secs: Some(expires.as_secs()),
                approve: approve.map(|how| match how {
                    How::Auto => Approval::Auto,
                    How::Manual => Approval::Manual,
                }),
            };
            let created: CreatedToken = client.post("/v1/tokens", &body)?;
            // Stdout has the token and nothing else, for $(...).
            out.print(&format!("{}\n", created.token))?;
            out.note(&format!(
                "token {} lets {} join in the next {}; on the device: skerry-agent join TOKEN",
                created.id,
                human::count(uses as usize, "device"),
                human::span(expires)
            ));
            Ok(())
        }
        TokenCommand::List { output } => get::get(out, client, list_args("tokens", output)),
        TokenCommand::Delete { ids } => {
            for id in ids {
                client.delete(&format!("/v1/tokens/{}", encode(&id)))?;
                out.print(&format!("token/{id} deleted\n"))?;
            }
            Ok(())
        }
    }
}

pub(super) fn list_args(resource: &str, output: super::args::Format) -> GetArgs {
    GetArgs {
        resource: resource.into(),
        names: Vec::new(),
        output,
        selector: None,
        namespace: None,
        all_namespaces: true,
        no_headers: false,
        revoked: false,
    }
}

/// Imports, pulls and lists images.
pub(super) fn image(out: &mut Out, client: &Client, args: ImageArgs) -> Result<(), CliError> {
    match args.command {
        ImageCommand::Import { file, name } => import(out, client, &file, name),
        ImageCommand::Pull {
            reference,
            platforms,
        } => {
            if let Err(problem) = crate::manifest::check_reference(&reference) {
                return Err(CliError::Usage(format!(
                    "'{reference}' is not an image name: {problem}"
                )));
            }
            let text = format!("the hub pulls {reference}");
            let body = Pull {
                reference,
                platforms,
            };
            let image: Image =
                out.progress_while(&text, || client.post("/v1/images/pull", &body))?;
            imported(out, &[image], "pulled")
        }
        ImageCommand::List { output } => get::get(out, client, list_args("images", output)),
    }
}

fn import(
    out: &mut Out,
    client: &Client,
    file: &Path,
    name: Option<String>,
) -> Result<(), CliError> {
    let path = with_query("/v1/images", &[("name", name)]);
    let shown = file.display().to_string();
    let failed = |e| CliError::io(format!("read {shown}"), e);
    let images: List<Image> = if file == Path::new("-") {
        let mut reader = Counted::new(out, io::stdin().lock(), None);
        client.upload(&path, &mut reader, None)?
    } else if file.is_dir() {
        import_directory(out, client, file, &path)?
    } else {
        let opened = File::open(file).map_err(failed)?;
        let meta = opened.metadata().map_err(failed)?;
        let length = meta.is_file().then_some(meta.len());
        let mut reader = Counted::new(out, opened, length);
        client.upload(&path, &mut reader, length)?
    };
    imported(out, &images.items, "imported")
}

/// An OCI layout directory travels as a tar, packed on the way.
fn import_directory(
    out: &mut Out,
    client: &Client,
    dir: &Path,
    path: &str,
) -> Result<List<Image>, CliError> {
    if !dir.join("oci-layout").is_file() {
        return Err(CliError::failed(
            format!(
                "{} is no OCI layout: it has no file oci-layout",
                dir.display()
            ),
            "name a directory that skopeo or umoci wrote, or a tar file",
        ));
    }
    let failed = |e| CliError::io(format!("read {}", dir.display()), e);
    let (reader, writer) = io::pipe().map_err(failed)?;
    let owned = dir.to_path_buf();
    let packer = std::thread::spawn(move || -> io::Result<()> {
        let mut tar = tar::Builder::new(io::BufWriter::with_capacity(CHUNK, writer));
        tar.follow_symlinks(false);
        tar.append_dir_all(".", &owned)?;
        tar.into_inner()?.flush()
    });
    let mut reader = Counted::new(out, reader, None);
    let answer = client.upload(path, &mut reader, None);
    drop(reader);
    let packed = packer
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("packing failed")));
    match (packed, answer) {
        // The hub stopped reading: its own words say why.
        (Err(error), Ok(_)) => Err(failed(error)),
        (Err(error), Err(_)) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed(error)),
        (_, answer) => answer,
    }
}

fn imported(out: &mut Out, images: &[Image], verb: &str) -> Result<(), CliError> {
    for image in images {
        let platforms: Vec<&str> = image
            .platforms
            .iter()
            .map(|p| p.platform.as_str())
            .collect();
        out.print(&format!(
            "image/{} {verb} ({}, {})\n",
            get::familiar_image(&image.reference),
            short(&image.digest),
            platforms.join(" ")
        ))?;
    }
    Ok(())
}

/// A reader that shows how far it is.
struct Counted<'o, R> {
    out: &'o mut Out,
    inner: R,
    done: u64,
    total: Option<u64>,
    shown: Instant,
}

impl<'o, R> Counted<'o, R> {
    fn new(out: &'o mut Out, inner: R, total: Option<u64>) -> Self {
        Self {
            out,
            inner,
            done: 0,
            total,
            shown: Instant::now(),
        }
    }
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.done += count as u64;
        if self.shown.elapsed().as_millis() > 100 {
            self.shown = Instant::now();
            let done = human::bytes(self.done);
            let text = match self.total {
                Some(total) if total > 0 => format!(
                    "{done} of {} ({}%)",
                    human::bytes(total),
                    (u128::from(self.done) * 100 / u128::from(total)).min(100)
                ),
                _ => done,
            };
            self.out.progress(&text);
        }
        Ok(count)
    }
}

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

/// How the hub and its fleet are.
pub(super) fn status(out: &mut Out, client: &Client) -> Result<(), CliError> {
    let status: Status = client.get("/v1/status")?;
    let text = status_text(&status, &client.target.shown(), out.colour);
    out.print(&text)
}

fn status_text(status: &Status, url: &str, colour: bool) -> String {
    let counts = &status.devices;
    let mut devices = Vec::new();
    for (count, word, style) in [
        (counts.online, "online", Style::Good),
        (counts.offline, "offline", Style::Bad),
        (counts.unknown, "unknown", Style::Busy),
        (counts.pending, "pending", Style::Busy),
        (counts.revoked, "revoked", Style::Dim),
    ] {
        if count > 0 {
            devices.push(style.paint(&format!("{count} {word}"), colour));
        }
    }
    if devices.is_empty() {
        devices.push("none yet; let one join with the token of 'skerry token create'".into());
    }
    let broker = &status.broker;
    let (line, style) = match broker.connected {
        true => ("connected", Style::Good),
        false => ("not connected", Style::Bad),
    };
    let kind = if broker.embedded {
        "embedded"
    } else {
        "external"
    };
    let mut text = format!(
        "Hub:      {url}, version {}, up {}\nFleet:    {}\nDevices:  {}\nApps:     {}\nBroker:   {} ({kind}, {})\n",
        status.version,
        human::age(status.started_ms, human::now_ms()),
        status.fleet,
        devices.join(", "),
        status.apps,
        broker.address,
        style.paint(line, colour)
    );
    if counts.pending > 0 {
        text.push_str("Let waiting devices in with 'skerry approve NAME'.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{BrokerStatus, DeviceCounts};

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(String::from).collect()
    }

    #[test]
    fn labels_are_set_and_removed_in_kubectls_words() {
        for text in [
            "device kiosk-7 site=berlin role-",
            "kiosk-7 site=berlin role-",
            "device/kiosk-7 site=berlin role-",
            "dev kiosk-7 role- site=berlin",
        ] {
            let (name, change) = label_change(&words(text)).unwrap();
            assert_eq!(name, "kiosk-7", "{text}");
            assert_eq!(change.set["site"], "berlin");
            assert_eq!(change.remove, ["role"]);
        }
        for text in [
            "device kiosk-7",
            "kiosk-7 x",
            "app web a=b",
            "kiosk-7 a=b a-",
            "k =b",
        ] {
            assert!(label_change(&words(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn the_status_says_what_to_do_next() {
        let mut status = Status {
            version: "0.1.0".into(),
            fleet: "demo".into(),
            started_ms: human::now_ms() - 65_000,
            devices: DeviceCounts {
                online: 2,
                pending: 1,
                ..DeviceCounts::default()
            },
            apps: 3,
            broker: BrokerStatus {
                address: "mqtts://hub:8883".into(),
                embedded: true,
                connected: true,
            },
        };
        assert_eq!(
            status_text(&status, "http://127.0.0.1:7420", false),
            "Hub:      http://127.0.0.1:7420, version 0.1.0, up 65s\nFleet:    demo\nDevices:  2 online, 1 pending\nApps:     3\nBroker:   mqtts://hub:8883 (embedded, connected)\nLet waiting devices in with 'skerry approve NAME'.\n"
        );
        status.devices = DeviceCounts::default();
        assert!(status_text(&status, "x", false).contains("skerry token create"));
    }
}
