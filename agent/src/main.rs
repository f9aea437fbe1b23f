//! Wires the agent together: the first argument says which process this is.

mod attach;
mod show;

use anyhow::{Context, bail};
use skerry_agent::agent::{self, Next};
use skerry_agent::chain::chain;
use skerry_agent::clock::{Clock, FAKE_CLOCK};
use skerry_agent::config::{Config, Overrides};
use skerry_agent::control::{self, Answer, Request};
use skerry_agent::runtime::{helper, hooks, keeper};
use skerry_agent::store;
use skerry_agent::update::binary::{BinarySlots, Launch};
use skerry_agent::update::guard;
use skerry_agent::update::slot::SlotError;
use skerry_agent::update::starts::{MAX_IN_A_ROW, Starts, reads_store};
use skerry_agent::{doctor, init, release};
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "\
skerry-agent: runs containers on one device

usage: skerry-agent COMMAND [OPTIONS]

  run                 run the agent
  join TOKEN          join a fleet, with a token from 'skerry token create'
  status              how this device stands
  ps                  the containers
  logs APP            a container's log; APP is NAME or NAMESPACE/NAME
      -f, --follow        go on at the end
      --tail N            only the last N lines
      --since 10m         only what is newer (s, m, h, d)
      -c, --container C   which container
      --timestamps        the time before each line
      -p, --previous      only what the start before the last one wrote
      --job-run N         which run of a CronJob ('status' shows them)
  exec APP -- CMD     run a command in a container, with its exit code
      -i, --stdin         give it this standard input
      -t, --tty           give it a terminal
      -c, --container C   which container
  volume ls           the volumes that are kept for apps
  volume rm VOLUME    remove one that no app uses; NAME or NAMESPACE/NAME
  doctor              what is wrong with this machine, and what mends it
  stop                end all apps, for an agent that is not running (any more)
  reset               stop all apps, leave the fleet, remove everything
      --yes               without asking
  version

options of every command:
  --config FILE   default /etc/skerry/agent.yaml
  --data DIR      default /var/lib/skerry-agent
  --run DIR       default /run/skerry-agent
  --cgroup PATH   parent of all cgroups, default skerry
  --name NAME     the name wanted in the fleet
  --token TOKEN   join with it (or SKERRY_JOIN_TOKEN)
  --log LEVEL     error, warn, info, debug, trace (or SKERRY_LOG)
  --fake-clock MS the wall clock at start, for tests (or SKERRY_FAKE_CLOCK)
  -o json         for programs (status, ps, volume ls, doctor)
";

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    let all: Vec<String> = args
        .by_ref()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    init::take_over(&program, &all);
    let mut args = std::env::args_os().skip(1);
    let verb = args.next().unwrap_or_default();
    let words = args.map(|arg| arg.to_string_lossy().into_owned());
    match verb.to_str() {
        // The two processes of the container runtime, started by ourselves.
        Some("keeper") => return keeper::main(words),
        Some("helper") => return helper::main(),
        Some("hook") => return hooks::main(words),
        Some("probe-store") => {
            let path = words.into_iter().next().unwrap_or_default();
            return ExitCode::from(agent::probe(Path::new(&path)));
        }
        // The two processes around an agent on trial.
        Some("guard") => return guard_of(),
        Some("guarded") => return guarded(),
        _ => {}
    }
    match command() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("skerry-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Options {
    overrides: Overrides,
    words: Vec<String>,
    follow: bool,
    timestamps: bool,
    previous: bool,
    run: Option<u32>,
    stdin: bool,
    tty: bool,
    tail: Option<u32>,
    since_secs: Option<u64>,
    container: Option<String>,
    yes: bool,
    json: bool,
    fake_clock: Option<u64>,
}

/// Takes what follows the program's name.
fn parse(args: impl Iterator<Item = OsString> + 'static) -> anyhow::Result<(String, Options)> {
    use lexopt::prelude::*;
    let mut options = Options::default();
    let mut args = args.peekable();
    let is_option = |word: &OsString| word.as_encoded_bytes().starts_with(b"-");
    let verb = args.next_if(|word| !is_option(word)).unwrap_or_default();
    let mut verb = verb.to_string_lossy().into_owned();
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Long("config") => options.overrides.file = Some(parser.value()?.into()),
            Long("data") => options.overrides.data_dir = Some(parser.value()?.into()),
            Long("run") => options.overrides.run_dir = Some(parser.value()?.into()),
            Long("cgroup") => options.overrides.cgroup_parent = Some(parser.value()?.string()?),
            Long("name") => options.overrides.name = Some(parser.value()?.string()?),
            Long("token") => options.overrides.join_token = Some(parser.value()?.string()?),
            Long("log") => options.overrides.log_level = Some(parser.value()?.string()?),
            Long("fake-clock") => options.fake_clock = Some(parser.value()?.parse()?),
            Short('f') | Long("follow") => options.follow = true,
            Long("timestamps") => options.timestamps = true,
            Short('p') | Long("previous") if verb == "logs" => options.previous = true,
            Long("job-run") if verb == "logs" => options.run = Some(parser.value()?.parse()?),
            Long("tail") => options.tail = Some(parser.value()?.parse()?),
            Long("since") => options.since_secs = Some(seconds(&parser.value()?.string()?)?),
            Short('c') | Long("container") => options.container = Some(parser.value()?.string()?),
            Long("yes") | Short('y') => options.yes = true,
            Long("json") => options.json = true,
            Short('o') | Long("output") => match parser.value()?.string()?.as_str() {
                "json" => options.json = true,
                other => bail!("-o {other}: only json is known"),
            },
            Short('i') | Long("stdin") if verb == "exec" => options.stdin = true,
            Short('t') | Long("tty") if verb == "exec" => options.tty = true,
            Short('h') | Long("help") => verb = "help".into(),
            Short('V') | Long("version") => verb = "version".into(),
            // What follows the app and the program is the program's, as with
            // `docker exec`; a `--` before it is taken away by the parser.
            Value(word) if verb == "exec" && options.words.len() == 1 => {
                options.words.push(word.string()?);
                for word in parser.raw_args()? {
                    options.words.push(word.string()?);
                }
            }
            Value(word) => options.words.push(word.string()?),
            _ => return Err(arg.unexpected().into()),
        }
    }
    Ok((verb, options))
}

/// `90`, `90s`, `10m`, `2h`, `1d`.
fn seconds(text: &str) -> anyhow::Result<u64> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => (&text[..at], unit),
        _ => (text, 's'),
    };
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => bail!("'{text}': a time is written as 90s, 10m, 2h or 1d"),
    };
    let number: u64 = number
        .parse()
        .with_context(|| format!("'{text}': a time is written as 90s, 10m, 2h or 1d"))?;
    Ok(number.saturating_mul(factor))
}

fn command() -> anyhow::Result<ExitCode> {
    let (verb, options) = parse(std::env::args_os().skip(1))?;
    let environment = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let mut overrides = options.overrides.clone();
    overrides.join_token = overrides
        .join_token
        .or_else(|| environment("SKERRY_JOIN_TOKEN"));
    overrides.log_level = overrides.log_level.or_else(|| environment("SKERRY_LOG"));
    let fake_clock = match (options.fake_clock, environment(FAKE_CLOCK)) {
        (Some(ms), _) => Some(ms),
        (None, Some(text)) => Some(
            text.parse()
                .with_context(|| format!("{FAKE_CLOCK}={text}"))?,
        ),
        (None, None) => None,
    };
    let clock = fake_clock.map_or_else(Clock::machine, Clock::fake);
    match verb.as_str() {
        "version" => {
            println!("skerry-agent {}", release());
            return Ok(ExitCode::SUCCESS);
        }
        "help" => {
            print!("{USAGE}");
            return Ok(ExitCode::SUCCESS);
        }
        "run" | "join" | "status" | "ps" | "logs" | "exec" | "volume" | "doctor" | "stop"
        | "reset" => {}
        "" => {
            eprint!("{USAGE}");
            return Ok(ExitCode::from(2));
        }
        other => bail!("'{other}' is no command; 'skerry-agent help' shows them"),
    }
    let config = Config::load(overrides)?;
    let level = config.log_level;
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
    let exe = std::env::current_exe().context("this program's own file cannot be found")?;
    match verb.as_str() {
        "run" => {
            need_root()?;
            run(config, clock, exe)
        }
        "join" => join(config, clock, exe, options),
        "status" | "ps" => status(&config, &verb, options.json),
        "logs" => logs(&config, options),
        "exec" => attach::exec(&config, options),
        "volume" => volume(&config, &options),
        "doctor" => diagnose(&config, options.json),
        "stop" => stop(&config, &exe),
        _ => reset(&config, &exe, options.yes),
    }
}

/// Ends the apps where the agent is being removed. A running agent would only
/// start them again.
fn stop(config: &Config, exe: &Path) -> anyhow::Result<ExitCode> {
    need_root()?;
    if control::ask(&config.run_dir, &Request::Status, |_| true)?.is_some() {
        bail!(
            "the agent is running and would start the apps again; first: {}",
            Services::here().stop()
        );
    }
    agent::stop_alone(config, exe).map_err(anyhow::Error::msg)?;
    println!("every app has ended; the next 'skerry-agent run' starts them again");
    Ok(ExitCode::SUCCESS)
}

/// Runs the agent that is in use, whichever file was started.
fn run(config: Config, clock: Clock, exe: PathBuf) -> anyhow::Result<ExitCode> {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match launch(&config, &exe) {
        Ok(Launch::Stay) => {}
        Ok(Launch::Become(program)) => {
            let error = guard::become_agent(&program, &args);
            // The package's own is as good as it was before the update.
            tracing::error!("{} does not start: {error}", program.display());
        }
        Err(error) => tracing::error!("{}", chain(&error)),
    }
    let data_dir = config.data_dir.clone();
    match agent::run(config, clock, exe)? {
        Next::End => Ok(ExitCode::SUCCESS),
        Next::Guard => {
            let error = guard::become_guard(&data_dir, &args);
            Err(error).context("the guard of the new agent does not start")
        }
        Next::Reboot if init::slots::here().is_some() => {
            init::slots::ask_for_restart().context("the machine does not start anew")?;
            // Until init ends us, in order.
            loop {
                nix::unistd::pause();
            }
        }
        Next::Reboot => {
            nix::unistd::sync();
            let mode = nix::sys::reboot::RebootMode::RB_AUTOBOOT;
            nix::sys::reboot::reboot(mode).context("the machine does not start anew")?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Which program the agent is. One that was confirmed and does not stay gives
/// way to the one before it.
fn launch(config: &Config, exe: &Path) -> Result<Launch, SlotError> {
    let system_on_trial = init::slots::here().is_some_and(|here| here.slot != here.confirmed);
    let mut slots = BinarySlots::open(&config.data_dir, exe, release())?;
    let launch = slots.launch(system_on_trial)?;
    if launch == Launch::Stay || system_on_trial {
        return Ok(launch);
    }
    let starts = Starts::new(&config.run_dir);
    let times = starts.note(Duration::from_millis(Clock::machine().now().boot_ms));
    if times <= MAX_IN_A_ROW {
        return Ok(launch);
    }
    let store = store::file(&config.data_dir);
    match slots.fall_back(times - 1, |program| reads_store(program, &store))? {
        Some(former) => {
            starts.forget();
            tracing::error!("the agent in use does not stay: the one before it is taken again");
            Ok(former)
        }
        None => Ok(launch),
    }
}

/// `guard DATA-DIR ARGS-OF-THE-AGENT`
fn guard_of() -> ExitCode {
    let mut args = std::env::args_os().skip(2);
    let data_dir = PathBuf::from(args.next().unwrap_or_default());
    let args: Vec<OsString> = args.collect();
    let exe = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    guard::main(&exe, release(), &data_dir, &args)
}

/// `guarded PID-OF-THE-GUARD PROGRAM ARGS-OF-THE-AGENT`
fn guarded() -> ExitCode {
    let mut args = std::env::args_os().skip(2);
    let guard = args.next().unwrap_or_default();
    let program = PathBuf::from(args.next().unwrap_or_default());
    let args: Vec<OsString> = args.collect();
    guard::guarded(&guard.to_string_lossy(), &program, &args)
}

/// What starts services on this machine, for remedies that can be typed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Services {
    Systemd,
    OpenRc,
    /// busybox, runit and their like: each its own way.
    Another,
}

impl Services {
    fn here() -> Self {
        Self::of(Path::new("/run"))
    }

    fn of(run: &Path) -> Self {
        match (run.join("systemd/system"), run.join("openrc")) {
            (systemd, _) if systemd.is_dir() => Self::Systemd,
            (_, openrc) if openrc.is_dir() => Self::OpenRc,
            _ => Self::Another,
        }
    }

    fn start(self) -> &'static str {
        match self {
            Self::Systemd => "systemctl start skerry-agent",
            Self::OpenRc => "rc-service skerry-agent start",
            Self::Another => "skerry-agent run",
        }
    }

    fn enable(self) -> &'static str {
        match self {
            Self::Systemd => "systemctl enable --now skerry-agent",
            Self::OpenRc => "rc-update add skerry-agent default && rc-service skerry-agent start",
            Self::Another => "skerry-agent run (and let your init run that at boot)",
        }
    }

    fn stop(self) -> &'static str {
        match self {
            Self::Systemd => "systemctl stop skerry-agent",
            Self::OpenRc => "rc-service skerry-agent stop",
            // Not the keeper of the containers, nor the shell that runs this.
            Self::Another => "take it from what your init runs, then pkill -f 'skerry-agen[t] run'",
        }
    }

    fn status(self) -> &'static str {
        match self {
            Self::Systemd => "systemctl status skerry-agent",
            Self::OpenRc => "rc-service skerry-agent status",
            Self::Another => "pgrep -fa 'skerry-agen[t] '",
        }
    }
}

fn need_root() -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!("the agent makes containers and must run as root: sudo skerry-agent run")
}

fn not_running(config: &Config) -> anyhow::Error {
    let exe = std::env::current_exe().unwrap_or_default();
    let slots = BinarySlots::open(&config.data_dir, &exe, release());
    if let Some((trial, _)) = slots.ok().and_then(|slots| slots.on_trial()) {
        return anyhow::anyhow!(
            "agent {} is on trial and does not answer (yet): if it does not prove itself within {} s, the one before comes back; '{}' shows what runs",
            trial.version,
            trial.confirm_secs,
            Services::here().status()
        );
    }
    anyhow::anyhow!(
        "no agent runs with {}: {}, or give the --run that it has",
        config.run_dir.display(),
        Services::here().start()
    )
}

fn join(config: Config, clock: Clock, exe: PathBuf, options: Options) -> anyhow::Result<ExitCode> {
    let token = match options.words.first() {
        Some(token) => token.clone(),
        None => match &config.join_token {
            Some(token) => token.clone(),
            None => bail!("usage: skerry-agent join TOKEN (from 'skerry token create')"),
        },
    };
    let request = Request::Join {
        token: token.clone(),
        name: config.name.as_ref().map(|name| name.to_string()),
    };
    let mut code = ExitCode::FAILURE;
    let asked = control::ask(&config.run_dir, &request, |answer| match answer {
        Answer::Note(text) => {
            eprintln!("{text}");
            true
        }
        Answer::Done(text) => {
            println!("{text}");
            code = ExitCode::SUCCESS;
            false
        }
        Answer::Failed(text) => {
            eprintln!("skerry-agent: {text}");
            false
        }
        Answer::Status(_) | Answer::Log { .. } | Answer::Output { .. } | Answer::Exit(_) => true,
    })?;
    if asked.is_some() {
        return Ok(code);
    }
    need_root()?;
    let text = agent::join_alone(config, clock, exe, token)?;
    println!("{text}; start it with: {}", Services::here().enable());
    Ok(ExitCode::SUCCESS)
}

fn status(config: &Config, verb: &str, json: bool) -> anyhow::Result<ExitCode> {
    let mut found = None;
    let asked = control::ask(&config.run_dir, &Request::Status, |answer| {
        if let Answer::Status(value) = answer {
            found = Some(value);
        }
        true
    })?;
    let (Some(()), Some(value)) = (asked, found) else {
        return Err(not_running(config));
    };
    let text = match (verb, json) {
        ("ps", true) => show::json(&value["apps"])?,
        (_, true) => show::json(&value)?,
        ("ps", false) => show::containers(&value),
        (_, false) => show::status(&value),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// A reader that has gone (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn logs(config: &Config, options: Options) -> anyhow::Result<ExitCode> {
    let [app] = options.words.as_slice() else {
        bail!("usage: skerry-agent logs APP [-f] [-p] [--job-run N] [--tail N] [--since 10m]");
    };
    if options.previous && options.follow {
        bail!("what --previous shows has ended: there is nothing to follow; leave -f out");
    }
    let request = Request::Logs {
        app: app.clone(),
        container: options.container,
        tail: options.tail,
        since_secs: options.since_secs,
        follow: options.follow,
        timestamps: options.timestamps,
        run: options.run,
        previous: options.previous,
    };
    let mut code = ExitCode::SUCCESS;
    let (mut stdout, mut stderr) = (std::io::stdout().lock(), std::io::stderr().lock());
    let asked = control::ask(&config.run_dir, &request, |answer| match answer {
        Answer::Log { stderr: true, text } => stderr.write_all(text.as_bytes()).is_ok(),
        Answer::Log {
            stderr: false,
            text,
        } => stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
            .is_ok(),
        Answer::Failed(text) => {
            let _ = writeln!(stderr, "skerry-agent: {text}");
            code = ExitCode::FAILURE;
            false
        }
        Answer::Done(_) => false,
        Answer::Note(_) | Answer::Status(_) | Answer::Output { .. } | Answer::Exit(_) => true,
    })?;
    match asked {
        Some(()) => Ok(code),
        None => Err(not_running(config)),
    }
}

fn volume(config: &Config, options: &Options) -> anyhow::Result<ExitCode> {
    let words: Vec<&str> = options.words.iter().map(String::as_str).collect();
    let request = match words.as_slice() {
        ["ls" | "list"] => Request::Volumes,
        ["rm" | "remove", volume] => Request::RemoveVolume {
            volume: (*volume).to_string(),
        },
        _ => bail!("usage: skerry-agent volume ls, or volume rm VOLUME"),
    };
    let mut code = ExitCode::FAILURE;
    let mut found = None;
    let asked = control::ask(&config.run_dir, &request, |answer| {
        match answer {
            Answer::Status(value) => found = Some(value),
            Answer::Done(text) => {
                println!("{text}");
                code = ExitCode::SUCCESS;
            }
            Answer::Failed(text) => eprintln!("skerry-agent: {text}"),
            Answer::Note(_) | Answer::Log { .. } | Answer::Output { .. } | Answer::Exit(_) => {}
        }
        true
    })?;
    if asked.is_none() {
        return Err(not_running(config));
    }
    if let Some(value) = found {
        let text = match options.json {
            true => show::json(&value)?,
            false => show::volumes(&value),
        };
        print(&text)?;
        code = ExitCode::SUCCESS;
    }
    Ok(code)
}

fn diagnose(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    // The agent that runs knows its broker; without one, its file does.
    let mut broker = None;
    let asked = control::ask(&config.run_dir, &Request::Status, |answer| {
        if let Answer::Status(value) = answer {
            broker = value["broker"].as_str().map(str::to_string);
        }
        true
    });
    if let Err(error) = &asked {
        eprintln!("skerry-agent: {error}");
    }
    if broker.is_none() {
        broker = store::look_up_identity(&config.data_dir).map(|identity| identity.broker);
    }
    let findings = doctor::findings(config, broker.as_deref());
    if json {
        print(&show::json(&doctor::to_json(&findings))?)?;
    } else {
        print(&doctor::text(&findings))?;
    }
    let bad = findings.iter().any(|f| f.verdict == doctor::Verdict::Bad);
    Ok(if bad {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn reset(config: &Config, exe: &Path, yes: bool) -> anyhow::Result<ExitCode> {
    if !yes {
        if !std::io::stdin().is_terminal() {
            bail!("reset stops all apps and removes their volumes; say so with --yes");
        }
        eprint!(
            "This stops all apps and removes their images, logs and volumes. Type 'reset' to go on: "
        );
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        if line.trim() != "reset" {
            bail!("nothing was done");
        }
    }
    let mut code = ExitCode::FAILURE;
    let asked = control::ask(&config.run_dir, &Request::Reset, |answer| {
        match answer {
            Answer::Done(text) => {
                println!("{text}");
                code = ExitCode::SUCCESS;
            }
            Answer::Failed(text) => eprintln!("skerry-agent: {text}"),
            Answer::Note(_)
            | Answer::Status(_)
            | Answer::Log { .. }
            | Answer::Output { .. }
            | Answer::Exit(_) => {}
        }
        true
    })?;
    if asked.is_none() {
        need_root()?;
        agent::reset_alone(config, exe).map_err(anyhow::Error::msg)?;
        println!("this device is empty and has left its fleet");
        code = ExitCode::SUCCESS;
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_test_documents::{Named, commands};

    /// Verbs that are not for people, or need no line in the usage.
    const UNTOLD: [&str; 2] = ["hook", "help"];

    /// What a command of a document lacks here.
    fn fault(named: &Named) -> Option<String> {
        let words = named.words.iter().skip(1).map(OsString::from);
        let words: Vec<OsString> = words.collect();
        let why = match parse(words.into_iter()) {
            Err(error) => format!("{error:#}"),
            Ok((verb, _)) if UNTOLD.contains(&verb.as_str()) => return None,
            Ok((verb, _)) if USAGE.contains(&format!("\n  {verb}")) => return None,
            Ok((verb, _)) => format!("'{verb}' is no command"),
        };
        Some(format!("{}: {}: {why}", named.at, named.words.join(" ")))
    }

    #[test]
    fn every_command_that_documents_and_messages_name_is_one() {
        let faults: Vec<String> = commands("skerry-agent").iter().filter_map(fault).collect();
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        for line in ["skerry-agent frobnicate", "skerry-agent ps --to-the-moon"] {
            let words = line.split(' ').map(Into::into).collect();
            let at = "here:1".into();
            let named = Named {
                at,
                words,
                is_whole: true,
            };
            assert!(fault(&named).is_some(), "{line}");
        }
    }

    #[test]
    fn remedies_are_of_what_starts_services_here() {
        let run = tempfile::tempdir().expect("a directory");
        assert_eq!(Services::of(run.path()), Services::Another);
        // Both packages may be installed; what started the machine made this.
        for (dir, services) in [
            ("openrc", Services::OpenRc),
            ("systemd/system", Services::Systemd),
        ] {
            std::fs::create_dir_all(run.path().join(dir)).expect("made");
            assert_eq!(Services::of(run.path()), services);
        }
        assert!(Services::OpenRc.stop().contains("rc-service"));
    }

    #[test]
    fn options_may_stand_before_there_is_a_verb() {
        let parsed = |line: &str| {
            let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            parse(words.into_iter())
                .map(|(verb, options)| (verb, options.words))
                .ok()
        };
        assert_eq!(parsed(""), Some((String::new(), vec![])));
        assert_eq!(parsed("--version"), Some(("version".into(), vec![])));
        assert_eq!(parsed("ps -h"), Some(("help".into(), vec![])));
        let words = ["web", "ls", "-l"].map(String::from).to_vec();
        assert_eq!(parsed("exec -i web -- ls -l"), Some(("exec".into(), words)));
    }
}
