//! Completion: the shells' scripts ask `skerry __complete`, and that knows the
//! grammar from clap and the names from the hub. A hub that does not answer at
//! once gives no names, and never an error.

use super::args::{Cli, Connection, Resource, Shell};
use super::client::{Client, Target};
use super::error::CliError;
use super::get::{devices, familiar_image, is_kind};
use super::output::Out;
use super::rollout::SUBJECTS;
use crate::api::types::{App, Config, DeviceState, Image, Release, Token};
use clap::CommandFactory;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a person waits at the tab key.
const PATIENCE: Duration = Duration::from_millis(700);
/// Candidates shown; more help nobody.
const MAX_CANDIDATES: usize = 500;
/// Tells the script to offer files.
const FILES: &str = ":files";

/// Prints candidates for the last of `words`, one a line.
pub(super) fn run(out: &mut Out, connection: &Connection, words: &[String]) {
    let live = Live {
        connection: connection_of(connection, words),
    };
    let text: String = candidates(words, &live)
        .into_iter()
        .take(MAX_CANDIDATES)
        .map(|c| c + "\n")
        .collect();
    let _ = out.print(&text);
}

/// What only the hub knows.
trait Names {
    fn of(&self, resource: Resource) -> Vec<String>;
    fn pending(&self) -> Vec<String>;
    fn namespaces(&self) -> Vec<String>;
    /// `device/app` of every app of every device.
    fn placed(&self) -> Vec<String>;
    fn containers(&self) -> Vec<String>;
}

struct Live {
    connection: Connection,
}

impl Live {
    fn client(&self) -> Option<Client> {
        let target = Target::find(&self.connection).ok()?;
        Client::impatient(target, PATIENCE).ok()
    }

    fn ask<T>(&self, get: impl FnOnce(&Client) -> Result<T, CliError>) -> Option<T> {
        get(&self.client()?).ok()
    }
}

impl Names for Live {
    fn of(&self, resource: Resource) -> Vec<String> {
        let names = match resource {
            Resource::Devices => {
                self.ask(|c| Ok(devices(c, None)?.into_iter().map(|d| d.name).collect()))
            }
            Resource::Apps | Resource::Jobs | Resource::CronJobs => self.ask(|c| {
                let apps: Vec<App> = c.list("/v1/apps")?;
                let apps = apps.into_iter().filter(|a| is_kind(a, resource));
                Ok(apps.map(|a| a.name).collect())
            }),
            Resource::Images => self.ask(|c| {
                let images: Vec<Image> = c.list("/v1/images")?;
                Ok(images
                    .iter()
                    .map(|i| familiar_image(&i.reference))
                    .collect())
            }),
            Resource::Tokens => self.ask(|c| {
                let tokens: Vec<Token> = c.list("/v1/tokens")?;
                Ok(tokens.into_iter().map(|t| t.id).collect())
            }),
            Resource::Configs | Resource::Secrets => self.ask(|c| {
                let path = match resource {
                    Resource::Secrets => "/v1/secrets",
                    _ => "/v1/configs",
                };
                let configs: Vec<Config> = c.list(path)?;
                Ok(configs.into_iter().map(|c| c.name).collect())
            }),
            Resource::Releases => self.ask(|c| {
                let releases: Vec<Release> = c.list("/v1/releases")?;
                Ok(releases.into_iter().map(|r| r.version).collect())
            }),
            Resource::Rollouts => Some(SUBJECTS.map(String::from).to_vec()),
            Resource::Containers | Resource::Events => None,
        };
        names.unwrap_or_default()
    }

    fn pending(&self) -> Vec<String> {
        let pending = self.ask(|c| {
            let mut all = devices(c, None)?;
            all.retain(|d| d.state == DeviceState::Pending);
            Ok(all.into_iter().map(|d| d.name).collect())
        });
        pending.unwrap_or_default()
    }

    fn namespaces(&self) -> Vec<String> {
        let found = self.ask(|c| {
            let apps: Vec<App> = c.list("/v1/apps")?;
            Ok(apps.into_iter().map(|a| a.namespace).collect())
        });
        found.unwrap_or_default()
    }

    fn placed(&self) -> Vec<String> {
        let found = self.ask(|c| {
            let devices = devices(c, None)?;
            let pairs = devices.iter().flat_map(|d| {
                let online = d.state == DeviceState::Online;
                let apps = d.apps.iter().filter(move |_| online);
                apps.map(|a| format!("{}/{}", d.name, a.name))
            });
            Ok(pairs.collect())
        });
        found.unwrap_or_default()
    }

    fn containers(&self) -> Vec<String> {
        let found = self.ask(|c| {
            let devices = devices(c, None)?;
            let apps = devices.iter().flat_map(|d| &d.apps);
            Ok(apps
                .flat_map(|a| &a.containers)
                .map(|c| c.name.clone())
                .collect())
        });
        found.unwrap_or_default()
    }
}

/// The words' own --hub and --data come before the environment's.
fn connection_of(connection: &Connection, words: &[String]) -> Connection {
    let mut connection = connection.clone();
    for pair in words.windows(2) {
        match pair[0].as_str() {
            "--hub" => connection.hub = Some(pair[1].clone()),
            "--token" => connection.token = Some(pair[1].clone()),
            "--ca-pin" => connection.ca_pin = Some(pair[1].clone()),
            "--data" => connection.data = Some(pair[1].as_str().into()),
            _ => {}
        }
    }
    connection
}

fn candidates(words: &[String], names: &dyn Names) -> Vec<String> {
    let Some((current, before)) = words.split_last() else {
        return Vec::new();
    };
    if before.iter().any(|w| w == "--") {
        return vec![FILES.into()];
    }
    let root = Cli::command();
    let mut command = &root;
    let mut globals: Vec<&clap::Arg> = root.get_arguments().collect();
    let (mut path, mut positionals) = (Vec::new(), Vec::new());
    let mut value_of = None;
    for word in before {
        if let Some(_flag) = value_of.take() {
            continue;
        }
        if word.starts_with('-') && word.len() > 1 {
            value_of = flag(command, &globals, word).filter(|a| a.get_action().takes_values());
        } else if let Some(next) = command
            .find_subcommand(word)
            .filter(|_| positionals.is_empty())
        {
            path.push(next.get_name());
            command = next;
            globals.extend(next.get_arguments().filter(|a| a.is_global_set()));
        } else {
            positionals.push(word.as_str());
        }
    }
    let found = if let Some(flag) = value_of {
        flag_values(flag, names)
    } else if current.starts_with('-') {
        flags(command, &globals)
    } else if command.has_subcommands() && positionals.is_empty() {
        let visible = command.get_subcommands().filter(|c| !c.is_hide_set());
        visible.map(|c| c.get_name().to_string()).collect()
    } else {
        positional(&path, &positionals, current, names)
    };
    if found.iter().any(|c| c == FILES) {
        return found;
    }
    let wanted: BTreeSet<String> = found
        .into_iter()
        .filter(|c| c.starts_with(current.as_str()))
        .collect();
    wanted.into_iter().collect()
}

fn flag<'c>(
    command: &'c clap::Command,
    globals: &[&'c clap::Arg],
    word: &str,
) -> Option<&'c clap::Arg> {
    let matches = |arg: &&clap::Arg| {
        let long = arg.get_long().is_some_and(|l| word == format!("--{l}"));
        // The last letter of -it counts.
        let short = !word.starts_with("--") && arg.get_short() == word.chars().last();
        long || short
    };
    let own = command.get_arguments().find(matches);
    own.or_else(|| globals.iter().copied().find(|a| matches(a)))
}

fn flags(command: &clap::Command, globals: &[&clap::Arg]) -> Vec<String> {
    let all = command.get_arguments().chain(globals.iter().copied());
    let visible = all.filter(|a| !a.is_hide_set() && !a.is_positional());
    visible
        .filter_map(|a| a.get_long().map(|l| format!("--{l}")))
        .chain(["--help".to_string()])
        .collect()
}

/// Whether it says so, in what --help calls its value.
fn takes_file(flag: &clap::Arg) -> bool {
    let names = flag.get_value_names().unwrap_or_default();
    names
        .iter()
        .any(|name| matches!(name.as_str(), "FILE" | "DIR"))
}

fn flag_values(flag: &clap::Arg, names: &dyn Names) -> Vec<String> {
    let possible = flag.get_possible_values();
    if !possible.is_empty() {
        return possible.iter().map(|v| v.get_name().to_string()).collect();
    }
    match flag.get_id().as_str() {
        _ if takes_file(flag) => vec![FILES.into()],
        "namespace" => names.namespaces(),
        "device" => names.of(Resource::Devices),
        "app" => names.of(Resource::Apps),
        "from" => {
            let found = names.of(Resource::CronJobs).into_iter();
            found.map(|name| format!("cronjob/{name}")).collect()
        }
        "container" => names.containers(),
        _ => Vec::new(),
    }
}

fn positional(
    path: &[&str],
    positionals: &[&str],
    current: &str,
    names: &dyn Names,
) -> Vec<String> {
    let resources = |known: &[Resource]| -> Vec<String> {
        let usual = Resource::NAMES.iter().filter(|(r, _)| known.contains(r));
        usual.map(|(_, names)| names[0].to_string()).collect()
    };
    use Resource::{
        Apps, Configs, Containers, CronJobs, Devices, Events, Images, Jobs, Releases, Rollouts,
        Secrets, Tokens,
    };
    match (path, positionals) {
        (["get"], []) => resources(&[
            Devices, Apps, Jobs, CronJobs, Containers, Images, Events, Tokens, Configs, Secrets,
            Releases, Rollouts,
        ]),
        (["describe"], []) => resources(&[Devices, Apps, Jobs, CronJobs, Configs, Secrets]),
        (["top"], []) => resources(&[Devices, Apps]),
        (["delete"], []) => resources(&[Apps, Jobs, CronJobs, Devices, Tokens, Configs, Secrets]),
        (["get" | "describe" | "delete"], [resource, ..]) => {
            Resource::parse(resource).map_or_else(|_| Vec::new(), |r| names.of(r))
        }
        (["logs"], []) => {
            let mut found = names.placed();
            if !current.contains('/') {
                for resource in [Apps, Jobs, CronJobs] {
                    found.extend(names.of(resource));
                }
            }
            found
        }
        (["exec"], []) => names.placed(),
        (["label"], []) | (["label"], ["device" | "devices"]) => names.of(Devices),
        (["approve"], _) => names.pending(),
        (["doctor"], _) => names.of(Devices),
        (["volume", "ls" | "backup" | "restore"], []) => names.of(Devices),
        (["volume", "restore"], [_, _]) => vec![FILES.into()],
        (["token", "delete"], _) => names.of(Tokens),
        (["completion"], []) => ["bash", "zsh", "fish"].map(String::from).to_vec(),
        (["release", "rollout" | "delete"], []) => names.of(Releases),
        (["rollout", "status" | "pause" | "resume" | "undo"], []) => names.of(Rollouts),
        (["rollout", "restart"], []) => names.of(Apps),
        (["backup" | "restore"], []) | (["image" | "release", "import"], []) | (["flash"], _) => {
            vec![FILES.into()]
        }
        _ => Vec::new(),
    }
}

/// Prints the script for a shell.
pub(super) fn script(out: &mut Out, shell: Shell) -> Result<(), CliError> {
    out.print(match shell {
        Shell::Bash => BASH,
        Shell::Zsh => ZSH,
        Shell::Fish => FISH,
    })
}

const BASH: &str = r#"# skerry completion for bash: source <(skerry completion bash)
_skerry() {
    local IFS=$'\n' found
    found=$("${COMP_WORDS[0]}" __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null) || return
    if [[ $found == ":files" ]]; then
        COMPREPLY=()
        compopt -o default 2>/dev/null
        return
    fi
    COMPREPLY=($found)
}
complete -F _skerry skerry
"#;

const ZSH: &str = r#"#compdef skerry
# skerry completion for zsh: source <(skerry completion zsh)
_skerry() {
    local -a found
    found=("${(@f)$("${words[1]}" __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ "${found[1]}" == ":files" ]]; then
        _files
        return
    fi
    compadd -a found
}
if [ "$funcstack[1]" = "_skerry" ]; then
    _skerry
else
    compdef _skerry skerry
fi
"#;

const FISH: &str = r#"# skerry completion for fish: skerry completion fish | source
function __skerry_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found ($words[1] __complete -- $words[2..-1] 2>/dev/null)
    if test "$found[1]" = ":files"
        __fish_complete_path (commandline -ct)
        return
    end
    printf '%s\n' $found
end
complete -c skerry -f -a '(__skerry_complete)'
"#;

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Names for Fixed {
        fn of(&self, resource: Resource) -> Vec<String> {
            match resource {
                Resource::Devices => vec!["kiosk-1".into(), "kiosk-2".into()],
                Resource::Apps => vec!["web".into()],
                Resource::Releases => vec!["0.2.0".into()],
                Resource::Rollouts => SUBJECTS.map(String::from).to_vec(),
                _ => vec![],
            }
        }
        fn pending(&self) -> Vec<String> {
            vec!["new-1".into()]
        }
        fn namespaces(&self) -> Vec<String> {
            vec!["default".into(), "default".into(), "shop".into()]
        }
        fn placed(&self) -> Vec<String> {
            vec!["kiosk-1/web".into()]
        }
        fn containers(&self) -> Vec<String> {
            vec![]
        }
    }

    fn complete(line: &str) -> String {
        let words: Vec<String> = line.split(' ').map(String::from).collect();
        candidates(&words, &Fixed).join(" ")
    }

    #[test]
    fn words_are_completed_by_grammar_and_live_names() {
        for (line, expected) in [
            ("ge", "get"),
            ("get de", "devices"),
            ("get devices kiosk-", "kiosk-1 kiosk-2"),
            ("get dev -o wide k", "kiosk-1 kiosk-2"),
            ("get -o ", "json name table wide yaml"),
            ("get apps -n ", "default shop"),
            ("get apps --all", "--all-namespaces"),
            ("describe app w", "web"),
            ("logs w", "web"),
            ("logs kiosk-1/", "kiosk-1/web"),
            ("exec -it k", "kiosk-1/web"),
            ("exec -it kiosk-1/web -- sh", ":files"),
            ("apply -f ", ":files"),
            ("approve ", "new-1"),
            ("label device k", "kiosk-1 kiosk-2"),
            ("token c", "create"),
            ("token create --approve ", "auto manual"),
            ("completion ", "bash fish zsh"),
            ("--hub http://x get de", "devices"),
            ("image import ", ":files"),
            ("flash ", ":files"),
            ("flash --agent ", ":files"),
            ("release import ", ":files"),
            ("release rollout ", "0.2.0"),
            ("rollout status a", "agent"),
            ("nonsense ", ""),
            ("__com", ""),
        ] {
            assert_eq!(complete(line), expected, "{line}");
        }
        assert!(complete("get --h").contains("--hub"));
        assert!(candidates(&[], &Fixed).is_empty());
    }

    #[test]
    fn the_grammar_holds_together() {
        Cli::command().debug_assert();
    }
}
