//! A process in a container as a stream.

use super::{StreamEnd, StreamInput};
use crate::chain::chain;
use crate::runtime::{
    ContainerId, ExecInput, ExecOutput, ExecSession, ExecSpec, ExitStatus, Runtime, RuntimeError,
};
use skerry_wire::message::ExecRequest;
use skerry_wire::stream::{Channel, End};
use smol::future;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use std::cell::Cell;
use std::time::Duration;

/// Read at once from a process.
const READ_BYTES: usize = 16 * 1024;
/// How long output is waited for after the process itself ended: something it
/// left behind may hold its pipes for ever.
const DRAIN: Duration = Duration::from_secs(1);

/// Runs it until it ends, or until nobody wants it any more.
pub async fn run(
    runtime: &Runtime,
    id: &ContainerId,
    request: &ExecRequest,
    stream: &StreamEnd,
) -> End {
    let spec = ExecSpec {
        args: request.args.clone(),
        env: Vec::new(),
        cwd: String::new(),
        user: String::new(),
        tty: request.tty,
    };
    let mut session = match runtime.exec(id, spec).await {
        Ok(session) => session,
        Err(error) => return End::Failed(chain(&error)),
    };
    let (stdout, stderr) = (session.take_stdout(), session.take_stderr());
    let mut stdin = session.take_stdin();
    let terminal = request.tty.is_some();
    if !request.stdin && !terminal {
        stdin = None;
    }
    let done = Cell::new(false);
    let mut output = std::pin::pin!(async {
        let both = (
            copy(stdout, Channel::Output, stream),
            copy(stderr, Channel::Error, stream),
        );
        future::zip(both.0, both.1).await;
        done.set(true);
    });
    let flow = async {
        output.as_mut().await;
        future::pending().await
    };
    let end = future::or(control(&mut session, stdin, terminal, stream), flow).await;
    if !done.get() && end != End::Cancelled {
        let late = async {
            smol::Timer::after(DRAIN).await;
        };
        future::or(output, late).await;
    }
    end
}

enum Step {
    Ended(Result<ExitStatus, RuntimeError>),
    Input(Option<StreamInput>),
}

/// Hands input on until the process ends, or nobody wants it any more.
async fn control(
    session: &mut ExecSession,
    mut stdin: Option<ExecInput>,
    terminal: bool,
    stream: &StreamEnd,
) -> End {
    loop {
        let ended = async { Step::Ended(session.wait().await) };
        let input = async { Step::Input(stream.input().await) };
        match future::or(ended, input).await {
            Step::Ended(Ok(status)) => return End::Exit(status.shell_code()),
            Step::Ended(Err(error)) => return End::Failed(chain(&error)),
            Step::Input(None) => return End::Cancelled,
            Step::Input(Some(StreamInput::Data(bytes))) => {
                if let Some(to) = &mut stdin
                    && to.write_all(&bytes).await.is_err()
                {
                    stdin = None; // it reads no more; its end follows
                }
                stream.taken(bytes.len()).await;
            }
            Step::Input(Some(StreamInput::Resize(columns, rows))) => {
                let _ = session.resize(columns, rows);
            }
            Step::Input(Some(StreamInput::Close)) if terminal => {
                if let Some(to) = &mut stdin {
                    let _ = to.write_all(b"\x04").await; // control-D
                }
            }
            Step::Input(Some(StreamInput::Close)) => stdin = None,
        }
    }
}

async fn copy(from: Option<ExecOutput>, channel: Channel, stream: &StreamEnd) {
    let Some(mut from) = from else {
        return;
    };
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(count) = from.read(&mut buffer).await {
        if count == 0 || !stream.say(channel, &buffer[..count]).await {
            return;
        }
    }
}
