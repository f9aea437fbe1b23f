//! The program, and what it says.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

pub fn skerry(data: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skerry"));
    command
        .args(args)
        .env_remove("SKERRY_HUB")
        .env_remove("SKERRY_TOKEN")
        .env_remove("SKERRY_NAMESPACE")
        .env("SKERRY_DATA", data)
        .env("HOME", data)
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// What one call of the program said.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

impl Said {
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "out: {}\nerr: {}", self.out, self.err);
        self.out
    }

    #[track_caller]
    pub fn fails(self, code: i32, part: &str) {
        assert_eq!(self.code, code, "out: {}\nerr: {}", self.out, self.err);
        assert!(self.err.contains(part), "{}", self.err);
    }
}

pub async fn say(data: &Path, args: &[&str]) -> Said {
    let mut command = skerry(data, args);
    let output = smol::unblock(move || command.output().expect("skerry runs")).await;
    Said::from(output)
}

pub async fn say_with_input(data: &Path, args: &[&str], input: &str) -> Said {
    let child = spawn(data, args);
    finish(child, input).await
}

pub fn spawn(data: &Path, args: &[&str]) -> Child {
    let mut command = skerry(data, args);
    command.stdin(Stdio::piped()).spawn().expect("skerry runs")
}

pub async fn finish(mut child: Child, input: &str) -> Said {
    let input = input.to_string();
    smol::unblock(move || {
        let mut stdin = child.stdin.take().expect("a pipe");
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        Said::from(child.wait_with_output().expect("it ends"))
    })
    .await
}
