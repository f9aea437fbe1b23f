//! The grammar of `skerry flash`.

use super::words::Approve;
use crate::cli::human::parse_life;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum FlashFormat {
    /// For people
    #[default]
    Text,
    /// One object
    Json,
}

/// `skerry flash`.
#[derive(Debug, Clone, Args)]
// clap takes the three characters {n} for the end of a line: a mark stands
// between them wherever they are meant, and is taken out as help is printed.
#[command(after_help = "\
Examples:
  skerry flash raspios-lite-arm64.img.xz /dev/sdb --name kiosk-7 --wifi Shop --wifi-country DE
  skerry flash debian.img.gz kiosk.img --ssh-key ~/.ssh/id_ed25519.pub
  skerry flash raspios-lite-arm64.img.xz kiosk.img --count 50 --name 'kiosk-{\u{2060}n}'
  skerry flash kiosk.img /dev/sdb --as-is        the same for each of the 50 cards
  skerry flash /dev/sdb --name kiosk-7           sets up a card that has an image already")]
pub struct FlashArgs {
    /// The image of Raspberry Pi OS, Debian, Ubuntu or Skerry: raw, xz, zst or
    /// gz. Only one argument: the card or image to set up as it is
    pub image: PathBuf,
    /// The card (/dev/sdb) or a file to make
    pub target: Option<PathBuf>,

    /// The device's name.
    #[arg(
        long,
        value_name = "NAME",
        help = "The device's name: kiosk-7; for many, kiosk-{\u{2060}n} (numbered as they join) or kiosk-{serial}"
    )]
    pub name: Option<String>,
    /// How many cards get this image: one token lets so many join
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// A join token; without one the hub is asked for one
    #[arg(
        long,
        env = "SKERRY_JOIN_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        conflicts_with = "join_token_file"
    )]
    pub join_token: Option<String>,
    /// A file with the join token
    #[arg(long, value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
    /// How long the hub's new token is good for
    #[arg(long, value_parser = parse_life, default_value = "7d", value_name = "TIME")]
    pub expires: Duration,
    /// Labels that devices get which join with the hub's new token
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// How they get in with it: auto is at once, manual waits for approve
    #[arg(long, value_name = "HOW")]
    pub approve: Option<Approve>,

    /// The Wi-Fi network
    #[arg(long, value_name = "SSID", help_heading = "System")]
    pub wifi: Option<String>,
    /// A file with its password; without it, SKERRY_WIFI_PASSWORD or a question
    #[arg(long, value_name = "FILE", requires = "wifi", help_heading = "System")]
    pub wifi_password_file: Option<PathBuf>,
    /// It has no password
    #[arg(
        long,
        requires = "wifi",
        conflicts_with = "wifi_password_file",
        help_heading = "System"
    )]
    pub wifi_open: bool,
    /// It does not show itself
    #[arg(long, requires = "wifi", help_heading = "System")]
    pub wifi_hidden: bool,
    /// Where it is, as in DE: which channels may be used
    #[arg(long, value_name = "CC", requires = "wifi", help_heading = "System")]
    pub wifi_country: Option<String>,
    /// A file with ssh public keys that may log in, as --user or else as root;
    /// switches ssh on
    #[arg(long = "ssh-key", value_name = "FILE", help_heading = "System")]
    pub ssh_keys: Vec<PathBuf>,
    /// Switch ssh on
    #[arg(long, help_heading = "System")]
    pub ssh: bool,
    /// The time zone, as in Europe/Berlin
    #[arg(long, alias = "timezone", value_name = "ZONE", help_heading = "System")]
    pub time_zone: Option<String>,
    /// A user who may log in and use sudo
    #[arg(long, value_name = "NAME", help_heading = "System")]
    pub user: Option<String>,
    /// A file with the user's password; without it, SKERRY_USER_PASSWORD or,
    /// with no ssh key either, a question
    #[arg(long, value_name = "FILE", requires = "user", help_heading = "System")]
    pub password_file: Option<PathBuf>,

    /// The static skerry-agent for the board's processor [default: beside this
    /// program, or /usr/lib/skerry/agents/<arch>/skerry-agent]
    #[arg(long, value_name = "FILE")]
    pub agent: Option<PathBuf>,
    /// The SHA-256 that the image's file must have
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    pub sha256: Option<String>,
    /// Write the image and nothing else into it: it was set up before
    #[arg(long, conflicts_with_all = ["name", "join_token_file", "wifi", "ssh_keys", "ssh", "time_zone", "user", "agent"])]
    pub as_is: bool,
    /// Replace a file that is there
    #[arg(long)]
    pub overwrite: bool,
    /// Write to a disk that is not removable too
    #[arg(long)]
    pub allow_fixed_disk: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// How to print the result
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: FlashFormat,
}

/// Looked at before an hour's writing, not after it.
fn sha256(text: &str) -> Result<String, String> {
    let is_one = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let text = text.to_ascii_lowercase();
    is_one
        .then_some(text)
        .ok_or_else(|| "a SHA-256 has 64 hexadecimal digits".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, plain_help};

    #[test]
    fn the_help_shows_how_many_cards_are_numbered() {
        let command = <Cli as clap::CommandFactory>::command();
        let flash = command.find_subcommand("flash").expect("the verb");
        for help in [
            flash.clone().render_help(),
            flash.clone().render_long_help(),
        ] {
            let help = plain_help(&help);
            assert_eq!(help.matches("kiosk-{n}").count(), 2, "{help}");
        }
    }

    #[test]
    fn a_sha256_that_cannot_be_one_is_refused_at_once() {
        let digits = "0123456789abcdefABCDEF0123456789".repeat(2);
        assert_eq!(sha256(&digits), Ok(digits.to_lowercase()));
        assert!(sha256("00").is_err() && sha256(&"x".repeat(64)).is_err());
    }
}
