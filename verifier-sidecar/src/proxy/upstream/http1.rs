//! Connections to the service for requests that came as HTTP/1.1: each carries one at a time, and is kept for the next.
//!
//! A service may close a connection that is kept at any moment. What was sent on one is never sent again; only what certainly
//! was not goes over another. So that this seldom has to be told apart, none is kept for longer than services usually do.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::super::body::RequestBody;
use super::{Dial, HEADER_LIST, SEND_BUFFER, UpstreamError};

/// Connections at once.
const MOST: usize = 512;

/// Connections that are kept.
const MOST_KEPT: usize = 64;

/// For how long one is kept. The shortest that is common among servers is five seconds.
const KEPT_FOR: Duration = Duration::from_secs(4);

/// A connection on which nothing is under way.
pub(super) type Sender = http1::SendRequest<RequestBody>;

/// The connections of HTTP/1.1 to one service.
#[derive(Debug)]
pub(super) struct Pool {
    places: Arc<Semaphore>,
    kept: Arc<Kept>,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MOST)),
            kept: Arc::default(),
        }
    }
}

impl Pool {
    /// Passes `request` on.
    pub(super) async fn call(
        &self,
        dial: &Dial,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let place = self.place(dial).await?;
        loop {
            let kept = self.kept.take();
            let was_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => connect(dial).await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    keep(sender, Arc::clone(&self.kept), place);
                    return Ok(response);
                }
                Err(mut failed) => match failed.take_message() {
                    // The service had closed it. Nothing of the request has left.
                    Some(unsent) if was_kept => request = unsent,
                    Some(_) | None => return Err(UpstreamError::Broken(failed.into_error())),
                },
            }
        }
    }

    async fn place(&self, dial: &Dial) -> Result<OwnedSemaphorePermit, UpstreamError> {
        let place = Arc::clone(&self.places).acquire_owned();
        match timeout(dial.patience(), place).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(UpstreamError::Full),
        }
    }
}

async fn connect(dial: &Dial) -> Result<Sender, UpstreamError> {
    let connecting = timeout(dial.patience(), dial.connect_http1()).await;
    connecting
        .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
        .map_err(UpstreamError::Connect)
}

/// Keeps the connection of `sender` once what is under way on it has ended. Until then it has its place.
fn keep(mut sender: Sender, kept: Arc<Kept>, place: OwnedSemaphorePermit) {
    tokio::spawn(async move {
        if sender.ready().await.is_ok() {
            kept.put(sender);
        }
        drop(place);
    });
}

/// Connections on which nothing is under way, the latest last.
#[derive(Default)]
struct Kept(Mutex<Vec<(Sender, Instant)>>);

impl Kept {
    fn take(&self) -> Option<Sender> {
        let mut kept = self.lock();
        std::iter::from_fn(|| kept.pop())
            .find(is_usable)
            .map(|(sender, _)| sender)
    }

    fn put(&self, sender: Sender) {
        let mut kept = self.lock();
        kept.retain(is_usable);
        if kept.len() < MOST_KEPT {
            kept.push((sender, Instant::now()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Sender, Instant)>> {
        // Nothing is done under the lock that could leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_usable((sender, since): &(Sender, Instant)) -> bool {
    sender.is_ready() && since.elapsed() < KEPT_FOR
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kept").field(&self.lock().len()).finish()
    }
}

/// Begins HTTP/1.1 on `stream`.
pub(super) async fn handshake<T>(stream: T) -> io::Result<Sender>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_header_size(HEADER_LIST)
        .max_buf_size(SEND_BUFFER.max(HEADER_LIST))
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move {
        // Whoever waits for an answer over it hears of the error himself.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to the service broke");
        }
    });
    Ok(sender)
}
