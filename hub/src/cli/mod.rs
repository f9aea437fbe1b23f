//! The operator's command line: verbs of kubectl over the hub's HTTP API.
//!
//! Nothing here knows the hub's inside: every verb but `hub` and `restore`
//! speaks HTTP only. Output goes to stdout as a table or as data, everything
//! said besides to stderr. Exit codes: 0 done, 1 failed (for `diff`: there are
//! differences), 2 wrong usage (for `diff`: failed), and for `exec` the
//! command's own.

mod apply;
mod args;
mod backup;
mod change;
mod client;
mod complete;
mod config;
mod demo;
mod describe;
mod diff;
mod doctor;
mod each;
mod error;
mod exec;
mod files;
mod flash;
mod frames;
mod get;
mod human;
mod image;
mod jobs;
mod line;
mod logs;
mod operate;
mod output;
mod release;
mod serve;
mod table;
mod terminal;
mod tls;
mod top;
mod transfer;
mod unified;
mod volume;
mod volume_tar;
mod wait;
mod yaml;

pub use args::{Cli, Command, HubArgs};
pub use error::CliError;

use clap::Parser;
use client::{Client, Target};
use output::Out;
use std::process::ExitCode;

/// Reads the process' arguments and does what they say.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, with code 0. A closed pipe
            // has nobody left to complain to.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let mut out = Out::of_process();
    let failed = cli.command.failure_code();
    let result = match cli.command {
        Command::Hub(args) => serve::serve(args, cli.connection.data),
        Command::Restore { file } => {
            let data = cli.connection.data.unwrap_or_else(client::default_data_dir);
            serve::restore(&mut out, &file, &data)
        }
        Command::Complete { words } => {
            complete::run(&mut out, &cli.connection, &words);
            Ok(())
        }
        Command::Completion { shell } => complete::script(&mut out, shell),
        Command::Demo(args) => demo::demo(args),
        Command::Release(args) if args.is_offline() => release::offline(&mut out, args),
        Command::Flash(args) => flash::flash(&mut out, &cli.connection, &args),
        command => run(&mut out, &cli.connection, command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(&mut out, failed),
    }
}

fn run(out: &mut Out, connection: &args::Connection, command: Command) -> Result<(), CliError> {
    let client = Client::new(Target::find(connection)?)?;
    match command {
        Command::Get(args) => get::get(out, &client, args),
        Command::Ps(args) => get::get(out, &client, args.into()),
        Command::Describe(args) => describe::describe(out, &client, &args),
        Command::Apply(args) => apply::apply(out, &client, &args),
        Command::Diff(args) => diff::diff(out, &client, &args),
        Command::Delete(args) => operate::delete(out, &client, &args),
        Command::Logs(args) => logs::logs(out, client, &args),
        Command::Exec(args) => exec::exec(out, &client, args),
        Command::Create(args) => config::create(out, &client, &args),
        Command::Volume(args) => volume::volume(out, &client, args),
        Command::Label(args) => operate::label(out, &client, &args),
        Command::Approve(args) => operate::approve(out, &client, &args),
        Command::Token(args) => operate::token(out, &client, args),
        Command::Image(args) => image::image(out, &client, args),
        Command::Release(args) => release::release(out, &client, args),
        Command::Rollout(args) => release::rollout(out, &client, args),
        Command::Line(args) => release::line(out, &client, args),
        Command::Events(args) => get::events(out, &client, &args),
        Command::Top(args) => top::top(out, client, &args),
        Command::Doctor(args) => doctor::doctor(out, &client, &args),
        Command::Status => operate::status(out, &client),
        Command::Backup(args) => backup::backup(out, &client, &args),
        Command::Hub(_)
        | Command::Restore { .. }
        | Command::Demo(_)
        | Command::Flash(_)
        | Command::Completion { .. }
        | Command::Complete { .. } => unreachable!("done before there was a client"),
    }
}
