//! What apps may ask the agent, on a Unix socket of their own: plain HTTP/1.1
//! with JSON.
//!
//! ```text
//! <run dir>/api/<app>/app/            mounted read-only at /run/skerry
//!                        api.sock     the agent listens
//!                        update.lock  whoever locks it holds the app's update
//! <run dir>/api/<app>/kept.json       what the app holds and reports
//! ```
//!
//! Each app has a socket of its own, and who asks is told by the socket that
//! was asked, never by what the asker says. The directory is mounted and not
//! the socket, so that the next agent's socket is there for containers that
//! run. It is read-only for them, so that they can fill nothing of the host's.
//! Connecting, and locking a file that is open for reading, work all the same.

mod http;
mod lock;
mod places;
mod route;

pub use http::{Answer, Problem};
pub use places::{Kept, dir, mount, prune};
pub use route::{Wish, needed};

use places::socket;
use skerry_wire::AppRef;
use skerry_wire::policy::Grant;
use smol::channel::{Sender, bounded};
use smol::net::unix::UnixListener;
use smol::{LocalExecutor, Task};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Connections of one app at a time; more wait.
pub const MAX_CONNECTIONS: usize = 8;

/// An app asks.
#[derive(Debug)]
pub struct Asked {
    /// Which app: whose socket it is.
    pub app: AppRef,
    /// What it wants.
    pub wish: Wish,
    /// Where the answer goes.
    pub answer: Sender<Answer>,
}

/// An app that may ask.
#[derive(Debug)]
struct Served {
    grants: Vec<Grant>,
    kept: Kept,
    /// Serves; ends with this.
    _server: Option<Task<()>>,
}

/// All apps that may ask.
#[derive(Debug)]
pub struct DeviceApi {
    run_dir: PathBuf,
    apps: BTreeMap<AppRef, Served>,
}

impl DeviceApi {
    /// None yet.
    pub fn new(run_dir: PathBuf) -> Self {
        Self {
            run_dir,
            apps: BTreeMap::new(),
        }
    }

    /// From now on these apps may ask, and no others. `asked` is called for
    /// each question. Returns what new ones kept over the agent's restart, and
    /// what went wrong.
    pub fn serve<F>(
        &mut self,
        executor: &LocalExecutor<'static>,
        grants: BTreeMap<AppRef, Vec<Grant>>,
        asked: impl Fn(Asked) -> F + Clone + 'static,
    ) -> (Vec<(AppRef, Kept)>, Vec<String>)
    where
        F: Future<Output = ()> + 'static,
    {
        let (mut found, mut errors) = (Vec::new(), Vec::new());
        self.apps.retain(|app, _| grants.contains_key(app));
        if let Err(error) = prune(&self.run_dir, grants.keys()) {
            errors.push(format!("what is left of apps' sockets: {error}"));
        }
        for (app, grants) in grants {
            if let Some(served) = self.apps.get_mut(&app) {
                served.grants = grants;
                continue;
            }
            let kept = Kept::read(&self.run_dir, &app);
            let server = match listen(&self.run_dir, &app) {
                Ok(listener) => {
                    let (app, asked) = (app.clone(), asked.clone());
                    Some(executor.spawn(serve(listener, app, asked)))
                }
                Err(error) => {
                    errors.push(format!("the socket of app {app} cannot be made: {error}"));
                    None
                }
            };
            found.push((app.clone(), kept.clone()));
            let served = Served {
                grants,
                kept,
                _server: server,
            };
            self.apps.insert(app, served);
        }
        (found, errors)
    }

    /// Whether the app was granted this.
    pub fn may(&self, app: &AppRef, grant: Grant) -> bool {
        let served = self.apps.get(app);
        served.is_some_and(|served| served.grants.contains(&grant))
    }

    /// Why the app holds its update now, if it does. Blocks for a moment.
    pub fn held(&self, app: &AppRef) -> Option<String> {
        let served = self.apps.get(app)?;
        if !served.grants.contains(&Grant::HoldUpdates) {
            return None;
        }
        let locked = || {
            let locked = lock::is_locked(&dir(&self.run_dir, app).join("app/update.lock"));
            locked.then(|| "it has locked /run/skerry/update.lock".to_string())
        };
        served.kept.hold.clone().or_else(locked)
    }

    /// What the app holds and reports.
    pub fn kept(&self, app: &AppRef) -> Option<&Kept> {
        self.apps.get(app).map(|served| &served.kept)
    }

    /// Changes what the app holds and reports.
    pub fn keep(&mut self, app: &AppRef, change: impl FnOnce(&mut Kept)) -> io::Result<()> {
        let Some(served) = self.apps.get_mut(app) else {
            return Ok(());
        };
        let before = served.kept.clone();
        change(&mut served.kept);
        match served.kept == before {
            true => Ok(()),
            false => served.kept.write(&self.run_dir, app),
        }
    }
}

fn listen(run_dir: &Path, app: &AppRef) -> io::Result<UnixListener> {
    places::make(run_dir, app)?;
    let path = socket(run_dir, app);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    // Any user of the container may ask; on the host, the run directory keeps
    // others out.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Serves one app for ever.
async fn serve<F>(listener: UnixListener, app: AppRef, asked: impl Fn(Asked) -> F + Clone + 'static)
where
    F: Future<Output = ()> + 'static,
{
    // Ends with this task, and its connections with it.
    let connections = LocalExecutor::new();
    let (permit_in, permits) = bounded(MAX_CONNECTIONS);
    for _ in 0..MAX_CONNECTIONS {
        let _ = permit_in.try_send(());
    }
    let accept = async {
        loop {
            let _ = permits.recv().await;
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors: whoever is connected goes first.
                smol::Timer::after(http::TIMEOUT / 10).await;
                let _ = permit_in.try_send(());
                continue;
            };
            let (app, asked, permit) = (app.clone(), asked.clone(), permit_in.clone());
            connections
                .spawn(async move {
                    http::converse(stream, |request| async move {
                        let wish = match route::wish(&request) {
                            Ok(wish) => wish,
                            Err(problem) => return problem.into(),
                        };
                        let (answer, answers) = bounded(1);
                        asked(Asked { app, wish, answer }).await;
                        let gone = || Problem::new(503, "the agent is ending: ask again").into();
                        answers.recv().await.unwrap_or_else(|_| gone())
                    })
                    .await;
                    let _ = permit.try_send(());
                })
                .detach();
        }
    };
    connections.run(accept).await
}

#[cfg(test)]
mod tests;
