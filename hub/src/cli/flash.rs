//! `skerry flash`: in what order it is looked at, asked, done and told. The work
//! itself is in `crate::flash`.

mod bar;
mod settings;
mod told;

use super::args::{Approve, Connection, FlashArgs, FlashFormat};
use super::client::{Client, Target};
use super::error::CliError;
use super::operate;
use super::output::Out;
use crate::api::types::{Approval, CreatedToken, NewToken};
use crate::flash::{Agent, Allow, FlashError, Job, Layout, Unusable};
use bar::Bar;
use serde_json::json;
use settings::settings;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use told::{plan, print_json, tell};

impl From<FlashError> for CliError {
    fn from(error: FlashError) -> Self {
        CliError::Told(error.to_string())
    }
}

impl From<Unusable> for CliError {
    fn from(error: Unusable) -> Self {
        CliError::Usage(error.to_string())
    }
}

/// Writes a card.
pub(super) fn flash(
    out: &mut Out,
    connection: &Connection,
    args: &FlashArgs,
) -> Result<(), CliError> {
    let (image, place) = match &args.target {
        Some(target) => (Some(args.image.as_path()), target.as_path()),
        None if args.as_is => {
            return Err(CliError::Usage(
                "--as-is writes an image: give the image and where it goes".into(),
            ));
        }
        None => (None, args.image.as_path()),
    };
    let mut settings = match args.as_is {
        true => None,
        false => Some(settings(out, args)?),
    };
    let agent = match &args.agent {
        Some(path) => Agent::File(path.clone()),
        None => Agent::Beside(beside_us()),
    };
    let allow = Allow {
        fixed_disk: args.allow_fixed_disk,
        overwrite: args.overwrite,
    };
    if settings.is_some() {
        agent.check()?;
    }
    let unpack = args.dry_run || (settings.is_some() && !agent.is_likely());
    let mut bar = Bar::new();
    let mut job = Job::open(image, place, allow)?;
    let layout = job.look(unpack, &mut |step| bar.draw(out, step))?.cloned();
    out.wipe();
    if settings.is_some() {
        // A wrong agent is found before the card is touched, where that can be.
        match &layout {
            Some(Layout::Minimal { .. }) => {}
            Some(layout) => drop(agent.find(layout.machine())?),
            None => {}
        }
    }
    let plan = plan(&job, layout.as_ref(), place, args, settings.as_ref());
    if args.output == FlashFormat::Text {
        plan.iter()
            .for_each(|(key, text)| out.note(&format!("{key:<10}{text}")));
    }
    if args.dry_run {
        return match args.output {
            FlashFormat::Text => {
                out.note("Nothing was written (--dry-run).");
                Ok(())
            }
            FlashFormat::Json => {
                let plan: serde_json::Map<_, _> = plan
                    .into_iter()
                    .map(|(k, v)| (k.into(), v.into()))
                    .collect();
                out.print(&format!("{}\n", json!({ "dryRun": true, "plan": plan })))
            }
        };
    }
    if let (Some(about), false) = (job.device(), args.yes) {
        confirm(about, image.is_some())?;
    }
    let mut token_id = None;
    if let Some(settings) = settings.as_mut().filter(|s| s.join_token.is_empty()) {
        let created = new_token(connection, args)?;
        settings.join_token = created.token;
        token_id = Some(created.id);
    }
    let done = job.run(
        settings.as_ref(),
        &agent,
        args.sha256.as_deref(),
        &mut |step| bar.draw(out, step),
    );
    out.wipe();
    let done = match done {
        Ok(done) => done,
        Err(error) => {
            // Nobody will use it; one that stays expires by itself.
            if let Some(id) = &token_id {
                let _ = Target::find(connection)
                    .and_then(Client::new)
                    .and_then(|c| c.delete(&format!("/v1/tokens/{id}")));
            }
            return Err(error.into());
        }
    };
    match args.output {
        FlashFormat::Text => tell(out, place, args, &done, token_id.as_deref()),
        FlashFormat::Json => print_json(out, place, &done, token_id.as_deref())?,
    }
    Ok(())
}

fn beside_us() -> PathBuf {
    let own = std::env::current_exe().ok();
    own.and_then(|p| p.parent().map(Path::to_owned))
        .unwrap_or_else(|| PathBuf::from("."))
}

fn confirm(about: &str, whole: bool) -> Result<(), CliError> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(CliError::Usage(format!(
            "{about} is about to be written: give --yes if that is right"
        )));
    }
    let loss = if whole {
        "Everything on it is lost."
    } else {
        "Files are put into the system on it."
    };
    eprint!("{loss} Write to {about}? [y/N] ");
    let _ = io::stderr().flush();
    let mut line = String::new();
    stdin
        .lock()
        .read_line(&mut line)
        .map_err(|e| CliError::io("ask at the terminal", e))?;
    match line.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(CliError::Told("nothing was written".into())),
    }
}

fn new_token(connection: &Connection, args: &FlashArgs) -> Result<CreatedToken, CliError> {
    let body = NewToken {
        labels: operate::labels(&args.labels)?,
        uses: Some(args.count),
        expires_secs: Some(args.expires.as_secs()),
        approve: args.approve.map(|how| match how {
            Approve::Auto => Approval::Auto,
            Approve::Manual => Approval::Manual,
        }),
    };
    Client::new(Target::find(connection)?)?.post("/v1/tokens", &body)
}
