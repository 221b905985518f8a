//! What a process answers over HTTP: whether it lives, whether it is ready, its metrics and its tasks.
//!
//! The server has a thread of its own, on which nothing of a record's way runs: a slow reader of metrics slows nothing.

mod status;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use millstream_operators::diagnostic::Code;
use tokio::sync::oneshot;

pub use self::status::{Heartbeat, InputStatus, Pending, RestoreProgress, Status, TaskState, TaskStatus};
use crate::metrics::Metrics;

/// How long answers that have begun may take when the server ends.
const GRACE: Duration = Duration::from_secs(1);

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Somebody else listens there.
    #[error(
        "cannot listen on {address}: another process does. Stop it, or give this one another address: `--listen 127.0.0.1:0` \
         takes a free port"
    )]
    InUse {
        /// The address.
        address: String,
    },
    /// The address is another machine's.
    #[error(
        "cannot listen on {address}: it is no address of this machine. `127.0.0.1` is only reached from here, `0.0.0.0` from \
         everywhere"
    )]
    NotOurs {
        /// The address.
        address: String,
    },
    /// Only privileged processes may.
    #[error("cannot listen on {address}: this user may not. Take a port from 1024 on")]
    NotAllowed {
        /// The address.
        address: String,
    },
    /// The host has no address, or something else is wrong.
    #[error("cannot listen on {address}: {source}")]
    Io {
        /// The address.
        address: String,
        /// What happened.
        source: io::Error,
    },
}

impl HttpError {
    /// The stable code.
    pub fn code(&self) -> Code {
        Code::ListenAddress
    }

    fn new(address: &str, source: io::Error) -> Self {
        let address = address.to_owned();
        match source.kind() {
            io::ErrorKind::AddrInUse => HttpError::InUse { address },
            io::ErrorKind::AddrNotAvailable => HttpError::NotOurs { address },
            io::ErrorKind::PermissionDenied => HttpError::NotAllowed { address },
            _ => HttpError::Io { address, source },
        }
    }
}

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the answers are made of.
#[derive(Clone)]
struct Shared {
    status: Arc<Status>,
    metrics: Metrics,
}

impl Server {
    /// Listens on `host:port`; with port 0 on a free one.
    ///
    /// # Errors
    /// If the address cannot be had.
    pub fn start(listen: &str, status: Arc<Status>, metrics: Metrics) -> Result<Self, HttpError> {
        let failed = |source| HttpError::new(listen, source);
        let listener = TcpListener::bind(listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            let ended = runtime.block_on(serve(listener, Shared { status, metrics }, stopped));
            if let Err(error) = ended {
                tracing::error!("the HTTP server has ended: {error}");
            }
        };
        let thread = std::thread::Builder::new().name("http".to_owned()).spawn(serve).map_err(failed)?;
        Ok(Server { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it. Answers that have begun may end within a second.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Refused if the server has ended by itself.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // A panic there concerned answers only.
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

async fn serve(listener: TcpListener, shared: Shared, stopped: oneshot::Receiver<()>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let router = Router::new()
        .route("/", get(page))
        .route("/healthz", get(health))
        .route("/readyz", get(readiness))
        .route("/metrics", get(metrics))
        .route("/tasks", get(tasks))
        .with_state(shared);
    let (ending, end) = oneshot::channel::<()>();
    let graceful = async {
        let _ = stopped.await;
        drop(ending);
    };
    let server = axum::serve(listener, router).with_graceful_shutdown(graceful);
    let overdue = async {
        let _ = end.await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = server => ended,
        () = overdue => Ok(()),
    }
}

/// 200 with `ok`, or 503 with what is wrong, a line each.
fn verdict(wrong: &[String]) -> Response {
    if wrong.is_empty() {
        return "ok\n".into_response();
    }
    let lines: String = wrong.iter().map(|line| format!("{line}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}

async fn health(State(shared): State<Shared>) -> Response {
    verdict(&shared.status.unhealthy())
}

async fn readiness(State(shared): State<Shared>) -> Response {
    verdict(&shared.status.missing())
}

async fn metrics(State(shared): State<Shared>) -> Response {
    match shared.metrics.render() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn tasks(State(shared): State<Shared>) -> Json<serde_json::Value> {
    Json(shared.status.tasks())
}

async fn page(State(shared): State<Shared>) -> Html<String> {
    let status = &shared.status;
    let app = escaped(status.app());
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{app}</title>\n\
         <style>body {{ font: 16px/1.5 system-ui, sans-serif; margin: 3em auto; max-width: 40em }}</style>\n\
         <h1>{app}</h1>\n<p>Process {}, Millstream {}. {}.</p>\n",
        escaped(status.instance()),
        env!("CARGO_PKG_VERSION"),
        escaped(&status.summary()),
    );
    for wrong in status.unhealthy().iter().chain(&status.missing()) {
        let _ = writeln!(page, "<p>{}</p>", escaped(wrong));
    }
    page.push_str(
        "<ul>\n\
         <li><a href=\"/healthz\">/healthz</a>: whether every loop makes progress\n\
         <li><a href=\"/readyz\">/readyz</a>: whether every task is restored\n\
         <li><a href=\"/tasks\">/tasks</a>: the tasks of this process, as JSON\n\
         <li><a href=\"/metrics\">/metrics</a>: for Prometheus\n\
         </ul>\n</html>\n",
    );
    Html(page)
}

/// Text within HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
