//! A further process in a container, and the agent's ends of its pipes or its
//! terminal.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_channel::Receiver;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::unistd::pipe2;
use smol::Async;
use smol::io::{AsyncRead, AsyncWrite};

use super::handle::RuntimeError;
use super::link::Link;
use super::proto::{Request, RequestId, Response};
use super::spec::ExitStatus;

/// A process that runs. Dropping it kills the process. Its ends are taken out
/// once and may then live in other tasks.
#[derive(Debug)]
pub struct ExecSession {
    link: Arc<Link>,
    request: RequestId,
    answers: Receiver<(Response, Vec<OwnedFd>)>,
    pid: i32,
    stdin: Option<ExecInput>,
    stdout: Option<ExecOutput>,
    stderr: Option<ExecOutput>,
    terminal: Option<Arc<Async<File>>>,
    ended: Option<ExitStatus>,
}

/// What the process reads. Dropping it ends a pipe; a terminal is ended by
/// writing its end character (control-D).
#[derive(Debug)]
pub struct ExecInput(Arc<Async<File>>);

/// What the process writes. Ends when nothing holds the other side any more.
#[derive(Debug)]
pub struct ExecOutput(Arc<Async<File>>);

/// Three pipes: our ends and the process's, each in the order of the standard
/// descriptors.
pub(super) fn pipes() -> io::Result<(Vec<OwnedFd>, Vec<OwnedFd>)> {
    let (stdin_reader, stdin_writer) = pipe2(OFlag::O_CLOEXEC)?;
    let (stdout_reader, stdout_writer) = pipe2(OFlag::O_CLOEXEC)?;
    let (stderr_reader, stderr_writer) = pipe2(OFlag::O_CLOEXEC)?;
    let ours = vec![stdin_writer, stdout_reader, stderr_reader];
    Ok((ours, vec![stdin_reader, stdout_writer, stderr_writer]))
}

impl ExecSession {
    /// `ends` are our ends of three pipes, or one terminal.
    pub(super) fn new(
        link: Arc<Link>,
        request: RequestId,
        answers: Receiver<(Response, Vec<OwnedFd>)>,
        pid: i32,
        ends: Vec<OwnedFd>,
    ) -> io::Result<Self> {
        let ends = ends
            .into_iter()
            .map(|fd| Async::new(File::from(fd)).map(Arc::new));
        let mut ends = ends.collect::<io::Result<Vec<_>>>()?.into_iter();
        let (first, second, third) = (ends.next(), ends.next(), ends.next());
        let first = first.ok_or_else(|| io::Error::other("the keeper sent no terminal"))?;
        let terminal = second.is_none().then(|| Arc::clone(&first));
        let stdout = second.unwrap_or_else(|| Arc::clone(&first));
        Ok(Self {
            link,
            request,
            answers,
            pid,
            stdin: Some(ExecInput(first)),
            stdout: Some(ExecOutput(stdout)),
            stderr: third.map(ExecOutput),
            terminal,
            ended: None,
        })
    }

    /// Its process id, as the host sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its standard input, or its terminal's keyboard. Once.
    pub fn take_stdin(&mut self) -> Option<ExecInput> {
        self.stdin.take()
    }

    /// Its standard output, or its terminal's screen. Once.
    pub fn take_stdout(&mut self) -> Option<ExecOutput> {
        self.stdout.take()
    }

    /// Its standard error; a terminal has none. Once.
    pub fn take_stderr(&mut self) -> Option<ExecOutput> {
        self.stderr.take()
    }

    /// Tells the terminal its new size; its program gets SIGWINCH. Without a
    /// terminal, nothing happens.
    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let Some(terminal) = &self.terminal else {
            return Ok(());
        };
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: `size` is what this request reads, and lives over the call.
        let result = unsafe {
            libc::ioctl(
                terminal.get_ref().as_raw_fd(),
                libc::TIOCSWINSZ,
                &raw const size,
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Sends it a signal.
    pub async fn signal(&self, signal: Signal) -> Result<(), RuntimeError> {
        let request = Request::SignalExec {
            exec: self.request,
            signal: signal as i32,
        };
        match self.link.request(&request, &[]).await?.answer().await?.0 {
            Response::Done => Ok(()),
            Response::Failed { kind, message } => Err(RuntimeError::Refused { kind, message }),
            _ => Err(RuntimeError::Confused),
        }
    }

    /// Waits for its end. Output may still be in the pipes then: read them to
    /// their end. Safe to drop and call again.
    pub async fn wait(&mut self) -> Result<ExitStatus, RuntimeError> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        match self.link.detached_answer(&self.answers).await?.0 {
            Response::ExecExited { status } => {
                self.ended = Some(status);
                self.link.stop_waiting(self.request);
                Ok(status)
            }
            _ => Err(RuntimeError::Confused),
        }
    }
}

impl Drop for ExecSession {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let signal = Signal::SIGKILL as i32;
            self.link.request_and_forget(&Request::SignalExec {
                exec: self.request,
                signal,
            });
            self.link.stop_waiting(self.request);
        }
    }
}

impl AsyncRead for ExecOutput {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut &*self.0).poll_read(context, buffer) {
            // A terminal whose last process has gone says it this way.
            Poll::Ready(Err(error)) if error.raw_os_error() == Some(libc::EIO) => {
                Poll::Ready(Ok(0))
            }
            other => other,
        }
    }
}

impl AsyncWrite for ExecInput {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self.0).poll_write(context, buffer)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self.0).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self.0).poll_close(context)
    }
}
