//! The HTTP server: TCP, TLS where asked, limits. A client that is slow, silent
//! or one of too many is cut off; the others do not notice.

use axum::Router;
use futures_lite::{AsyncRead, AsyncWrite, FutureExt};
use futures_rustls::TlsAcceptor;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use smol::Timer;
use smol::net::{TcpListener, TcpStream};
use smol_hyper::rt::{FuturesIo, SmolTimer};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// Connections at once.
const MAX_CONNECTIONS: usize = 1_024;
/// TLS is agreed on within this time.
const TLS_WITHIN: Duration = Duration::from_secs(10);
/// A request's head comes within this time, also the next one of a connection
/// that is kept open.
const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// A client that takes nothing for so long is cut off.
const WRITE_WITHIN: Duration = Duration::from_secs(60);
/// At the end of a connection, so long is what still comes thrown away: closing
/// over bytes that nobody read would take the end of the answer with them (RFC
/// 9112 section 9.6).
const LINGER_WITHIN: Duration = Duration::from_secs(5);
/// Reads of what is thrown away before others get their turn.
const SCRAPS_PER_TURN: usize = 16;
/// A silent client is asked after this time whether it is still there, again
/// after each of these, and given up after so many: two minutes in all.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_AGAIN: Duration = Duration::from_secs(15);
const KEEP_ALIVE_TRIES: u32 = 4;
/// The pause after an accept that failed, as when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound listener.
pub struct Listener {
    tcp: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Listener {
    /// Binds; with `tls`, speaks nothing else.
    pub async fn bind(address: SocketAddr, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        Ok(Self {
            tcp: TcpListener::bind(address).await?,
            tls: tls.map(TlsAcceptor::from),
        })
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// It speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}

/// Serves until dropped; connections end then too.
pub async fn serve(listener: Listener, router: Router, executor: Arc<smol::Executor<'static>>) {
    let open = Arc::new(AtomicUsize::new(0));
    // Nothing is ever sent: it closes when this future is dropped.
    let (_serving, ended) = async_channel::bounded::<()>(1);
    loop {
        let stream = match listener.tcp.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot accept an API connection: {error}");
                Timer::after(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let counted = Counted::new(&open);
        if counted.count > MAX_CONNECTIONS {
            // Dropped: the client sees a closed connection and tries again.
            continue;
        }
        let (router, tls) = (router.clone(), listener.tls.clone());
        let ended = ended.clone();
        let connection = async move {
            let _counted = counted;
            let stopped = async {
                let _ = ended.recv().await;
                Ok(())
            };
            if let Err(error) = connection(stream, tls, router).or(stopped).await {
                tracing::debug!("an API connection ended: {error}");
            }
        };
        executor.spawn(connection).detach();
    }
}

struct Counted {
    open: Arc<AtomicUsize>,
    count: usize,
}

impl Counted {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        let count = open.fetch_add(1, Ordering::Relaxed) + 1;
        Self {
            open: open.clone(),
            count,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // Answers are small: waiting to fill a packet only costs time.
    stream.set_nodelay(true)?;
    notice_the_dead(&stream)?;
    match tls {
        None => speak(stream, router).await?,
        Some(tls) => {
            let late = async {
                Timer::after(TLS_WITHIN).await;
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "no TLS within 10 s",
                ))
            };
            let stream = tls.accept(stream).or(late).await?;
            speak(stream, router).await?;
        }
    }
    Ok(())
}

/// A laptop that was closed says no goodbye, and a log that it follows may be
/// silent for days: the kernel asks whether it is still there.
fn notice_the_dead(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEP_ALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEP_ALIVE_AGAIN)?;
    sockopt::set_tcp_keepcnt(stream, KEEP_ALIVE_TRIES)?;
    Ok(())
}

async fn speak<S>(stream: S, router: Router) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    hyper::server::conn::http1::Builder::new()
        .timer(SmolTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(
            FuturesIo::new(Patient::new(stream)),
            TowerToHyperService::new(router),
        )
        .with_upgrades()
        .await
}

/// A stream whose writes fail when the other side takes nothing for
/// [`WRITE_WITHIN`].
struct Patient<S> {
    stream: S,
    stalled: Option<Timer>,
    closing: Closing,
}

/// How far the end of a connection is.
enum Closing {
    No,
    /// We have said that no more comes; until when what comes is thrown away.
    Said(Timer),
    Done,
}

impl<S> Patient<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            stalled: None,
            closing: Closing::No,
        }
    }

    fn bound<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let timer = self
            .stalled
            .get_or_insert_with(|| Timer::after(WRITE_WITHIN));
        match Pin::new(timer).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(_) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client took nothing for 60 s",
            ))),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, out)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bound(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.bound(cx, result)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Closing::No = self.closing {
            let result = Pin::new(&mut self.stream).poll_close(cx);
            match self.bound(cx, result) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
            self.closing = Closing::Said(Timer::after(LINGER_WITHIN));
        }
        let this = &mut *self;
        if let Closing::Said(until) = &mut this.closing {
            let mut scrap = [0; 8 * 1024];
            // So many at a time, that one that never ends stops no other.
            for _ in 0..SCRAPS_PER_TURN {
                match Pin::new(&mut this.stream).poll_read(cx, &mut scrap) {
                    Poll::Ready(Ok(count)) if count > 0 => {}
                    // The other side has all of it, or is gone.
                    Poll::Ready(_) => {
                        this.closing = Closing::Done;
                        return Poll::Ready(Ok(()));
                    }
                    Poll::Pending => {
                        if Pin::new(&mut *until).poll(cx).is_pending() {
                            return Poll::Pending;
                        }
                        this.closing = Closing::Done;
                        return Poll::Ready(Ok(()));
                    }
                }
            }
            if Pin::new(&mut *until).poll(cx).is_pending() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            this.closing = Closing::Done;
        }
        Poll::Ready(Ok(()))
    }
}
