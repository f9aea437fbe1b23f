//! `logs`: what an app wrote, of one device or of all that have it.

use super::args::LogsArgs;
use super::client::{Client, encode, io_problem, with_query};
use super::error::CliError;
use super::frames::Frames;
use super::get::{clean, device_path, devices};
use super::output::{Out, Style};
use crate::api::types::{Device, DeviceState, channel};
use std::io::Read;
use std::sync::mpsc::{SyncSender, sync_channel};

/// Logs read at once: each is a connection and a thread here and a stream on a
/// device.
const MAX_SOURCES: usize = 64;
/// Pieces between readers and the printer: a slow terminal slows them down.
const QUEUE: usize = 64;
/// Longest line kept whole when lines of several sources are told apart.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// One container's log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    device: String,
    container: Option<String>,
}

/// What a reader has to say.
enum Piece {
    Bytes(usize, Vec<u8>),
    /// It ended; with a problem, if not well.
    End(usize, Option<String>),
}

/// Prints the logs to stdout, both of a process' outputs, as kubectl does.
pub(super) fn logs(out: &mut Out, client: Client, args: &LogsArgs) -> Result<(), CliError> {
    let (device, app) = target(args)?;
    let devices = match &device {
        Some(device) => vec![client.get(&device_path(device))?],
        None => devices(&client, args.selector.as_deref())?,
    };
    let sources = sources(args, &app, &devices, device.is_some())?;
    let several = sources.len() > 1;
    let lines = several || args.prefix;
    let width = sources.iter().map(|s| s.name().len()).max().unwrap_or(0);
    let prefix = |index: usize, colour: bool| match lines {
        true => {
            let name = format!("{:<width$} | ", sources[index].name());
            Style::Source(index as u8).paint(&name, colour)
        }
        false => String::new(),
    };
    let (sender, receiver) = sync_channel(QUEUE);
    for (index, source) in sources.iter().enumerate() {
        let path = log_path(args, &app, source);
        let (client, sender) = (client.clone(), sender.clone());
        std::thread::spawn(move || {
            let problem = follow(&client, &path, index, lines, &sender).err();
            let _ = sender.send(Piece::End(index, problem));
        });
    }
    drop(sender);
    let (mut failed, mut first_problem) = (0, None);
    for piece in receiver {
        match piece {
            Piece::Bytes(_, bytes) if !lines => out.print_bytes(&bytes)?,
            Piece::Bytes(index, line) => {
                let mut text = prefix(index, out.colour).into_bytes();
                text.extend_from_slice(&line);
                out.print_bytes(&text)?;
            }
            Piece::End(_, None) => {}
            Piece::End(index, Some(problem)) => {
                failed += 1;
                if several {
                    out.error(&format!("{}: {problem}", sources[index].name()));
                } else {
                    first_problem = Some(problem);
                }
            }
        }
    }
    match (failed, first_problem) {
        (0, _) => Ok(()),
        (_, Some(problem)) => Err(CliError::Told(problem)),
        (n, None) => Err(CliError::Told(format!(
            "{n} of {} logs could not be read",
            sources.len()
        ))),
    }
}

/// `DEVICE/APP`, or `APP` and perhaps `--device`.
fn target(args: &LogsArgs) -> Result<(Option<String>, String), CliError> {
    // As kubectl's users write it: by kind and name.
    let mut kinds = ["app/", "job/", "cronjob/"].iter();
    let name = kinds.find_map(|kind| args.target.strip_prefix(kind));
    let text = name.unwrap_or(&args.target);
    match (text.split_once('/'), &args.device) {
        (Some((device, app)), None) if !device.is_empty() && !app.is_empty() => {
            Ok((Some(device.into()), app.into()))
        }
        (None, device) if !text.is_empty() => Ok((device.clone(), text.into())),
        _ => Err(CliError::Usage(format!(
            "'{}' is not APP or DEVICE/APP",
            args.target
        ))),
    }
}

impl Source {
    fn name(&self) -> String {
        match &self.container {
            Some(container) => format!("{}/{container}", self.device),
            None => self.device.clone(),
        }
    }
}

fn sources(
    args: &LogsArgs,
    app: &str,
    devices: &[Device],
    one_device: bool,
) -> Result<Vec<Source>, CliError> {
    let namespace = &args.namespace.namespace;
    let mut sources = Vec::new();
    let mut away = Vec::new();
    for device in devices {
        let found = device
            .apps
            .iter()
            .find(|a| a.name == app && a.namespace == *namespace);
        let Some(found) = found else {
            continue;
        };
        if device.state != DeviceState::Online && !one_device {
            away.push(device.name.as_str());
            continue;
        }
        let names: Vec<&str> = found.containers.iter().map(|c| c.name.as_str()).collect();
        let source = |container: Option<&str>| Source {
            device: device.name.clone(),
            container: container.map(str::to_string),
        };
        if args.all_containers && names.len() > 1 {
            sources.extend(names.iter().map(|name| source(Some(name))));
        } else if names.len() > 1 && args.container.is_none() {
            return Err(CliError::Usage(format!(
                "app {app} has several containers; choose with -c one of {}, or take --all-containers",
                names.join(", ")
            )));
        } else {
            sources.push(source(None));
        }
    }
    if sources.is_empty() {
        let remedy = format!("see where it is with 'skerry describe app {app} -n {namespace}'");
        let message = match (away.as_slice(), one_device) {
            ([], true) => format!("app {namespace}/{app} is not on that device"),
            ([], false) => format!("app {namespace}/{app} is on no device"),
            (away, _) => format!(
                "app {namespace}/{app} is only on devices that are not online ({})",
                away.join(", ")
            ),
        };
        return Err(CliError::failed(message, remedy));
    }
    if sources.len() > MAX_SOURCES {
        return Err(CliError::failed(
            format!("these are {} logs, more than {MAX_SOURCES}", sources.len()),
            "choose devices with -l or --device",
        ));
    }
    Ok(sources)
}

fn log_path(args: &LogsArgs, app: &str, source: &Source) -> String {
    let path = format!(
        "{}/apps/{}/{}/logs",
        device_path(&source.device),
        encode(&args.namespace.namespace),
        encode(app)
    );
    let container = source.container.clone().or_else(|| args.container.clone());
    with_query(
        &path,
        &[
            ("container", container),
            ("tail", args.tail.map(|n| n.to_string())),
            ("since_secs", args.since.map(|d| d.as_secs().to_string())),
            ("follow", args.follow.then(|| "true".into())),
            ("timestamps", args.timestamps.then(|| "true".into())),
            ("run", args.job_run.map(|n| n.to_string())),
            ("previous", args.previous.then(|| "true".into())),
        ],
    )
}

/// Reads one log to its end; in whole lines if several are told apart.
fn follow(
    client: &Client,
    path: &str,
    index: usize,
    lines: bool,
    sender: &SyncSender<Piece>,
) -> Result<(), String> {
    let mut stream = client.stream(path).map_err(|e| e.to_string())?;
    let mut frames = Frames::default();
    // Standard output and error each have a line of their own under way.
    let mut partial = [Vec::new(), Vec::new()];
    let mut chunk = vec![0; 32 * 1024];
    let send = |bytes: Vec<u8>| {
        let gone = "nobody reads any more".to_string();
        sender.send(Piece::Bytes(index, bytes)).map_err(|_| gone)
    };
    loop {
        let count = stream
            .read(&mut chunk)
            .map_err(|e| format!("the log ended early: {}", io_problem(&e)))?;
        if count == 0 {
            break;
        }
        frames.push(&chunk[..count]);
        while let Some(frame) = frames.next().map_err(|e| e.to_string())? {
            let which = match frame.channel {
                channel::STDOUT => 0,
                channel::STDERR => 1,
                channel::ERROR => return Err(clean(&String::from_utf8_lossy(&frame.bytes))),
                _ => continue,
            };
            if !lines {
                send(frame.bytes)?;
                continue;
            }
            let line = &mut partial[which];
            for byte in frame.bytes {
                line.push(byte);
                if byte == b'\n' || line.len() >= MAX_LINE_BYTES {
                    let mut whole = std::mem::take(line);
                    if byte != b'\n' {
                        whole.push(b'\n');
                    }
                    send(whole)?;
                }
            }
        }
    }
    for mut line in partial {
        if !line.is_empty() {
            line.push(b'\n');
            send(line)?;
        }
    }
    Ok(())
}
