//! A small client of the remoting protocol, for the control plane and the command line.
//!
//! **Owns** one connection to a broker or name server, its calls under way and what the peer
//! pushes.
//! **Lives on** tokio: the control plane's thread, or the command line's own runtime.
//! **Invariants** every call ends: by its reply, its time limit or the end of the connection. Late
//! replies are dropped. The connection ends when the last clone is dropped, what waits to be
//! written leaves first if the peer takes it within [`LAST_WRITE`], and when the peer ends it.
//! **Limits** [`CALLS_MAX`] calls under way, [`OUT_COMMANDS_MAX`] frames waiting to be written,
//! [`PUSHES_MAX`] pushes waiting to be taken (further ones are dropped and counted); each of a
//! name's addresses has its share of the time for connecting, at least [`CONNECT_MIN`].
//! **Not here** reconnecting and resolving names: callers know what their calls are worth.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use gantry_protocol::command::Command;
use gantry_protocol::frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// Calls of one connection that may wait for a reply.
pub const CALLS_MAX: usize = 4096;
/// Frames that may wait to be written.
pub const OUT_COMMANDS_MAX: usize = 1024;
/// Pushes that may wait to be taken.
pub const PUSHES_MAX: usize = 256;
/// Frames joined into one write.
const WRITE_COMMANDS_MAX: usize = 64;
const READ_BYTES: usize = 64 * 1024;
/// An address of several gets at least so long for connecting: far more than the way to another
/// data centre and back, and short enough for six addresses in 3 s.
const CONNECT_MIN: Duration = Duration::from_millis(500);
/// Once nobody reads any more, a write may take this long: a last one-way still leaves, and a peer
/// that doesn't read costs a socket and a frame no longer than that.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// Why a call did not give a reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No connection could be made.
    #[error("cannot connect to {addr}: {cause}")]
    Connect {
        /// The wanted address.
        addr: SocketAddr,
        /// The system's words, or the time limit.
        cause: String,
    },
    /// The connection ended.
    #[error("the connection to {addr} is closed")]
    Closed {
        /// The peer.
        addr: SocketAddr,
    },
    /// The time limit passed. The peer may still have done what was asked.
    #[error("no reply from {addr} within {} ms", limit.as_millis())]
    TimedOut {
        /// The peer.
        addr: SocketAddr,
        /// The limit.
        limit: Duration,
    },
    /// Too many calls are under way.
    #[error("{CALLS_MAX} calls to {addr} are under way")]
    Busy {
        /// The peer.
        addr: SocketAddr,
    },
    /// The command is too long for a frame.
    #[error("the command to {addr} is too long: {cause}")]
    TooLong {
        /// The peer.
        addr: SocketAddr,
        /// By how much.
        cause: String,
    },
}

/// A connection. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
    out: mpsc::Sender<BytesMut>,
    _reader: Arc<StopOnDrop>,
}

/// What the peer sends on its own: notifications and questions. Ends with the connection.
#[derive(Debug)]
pub struct Pushes {
    commands: mpsc::Receiver<Command>,
}

impl Pushes {
    /// The next push, or `None` once the connection has ended.
    pub async fn next(&mut self) -> Option<Command> {
        self.commands.recv().await
    }
}

#[derive(Debug)]
struct Inner {
    peer: SocketAddr,
    local: SocketAddr,
    opaque: AtomicI32,
    calls: Mutex<HashMap<i32, oneshot::Sender<Command>>>,
    open: AtomicBool,
    pushes_dropped: AtomicU64,
}

#[derive(Debug)]
struct StopOnDrop(AbortHandle);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Takes a call off the list when its future is dropped before the reply.
struct Waiting<'a> {
    inner: &'a Inner,
    opaque: i32,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inner.calls().remove(&self.opaque);
    }
}

impl Client {
    /// Connects to the first of a name's addresses that takes the connection in its share of
    /// `limit`.
    ///
    /// # Errors
    /// None of them does: what each said.
    pub async fn connect_any(
        found: &[SocketAddr],
        limit: Duration,
    ) -> Result<(Self, Pushes), String> {
        let count = u32::try_from(found.len()).unwrap_or(u32::MAX).max(1);
        let share = (limit / count).max(CONNECT_MIN);
        let mut failures = Vec::new();
        for addr in found {
            match Self::connect(*addr, share).await {
                Ok(connected) => return Ok(connected),
                Err(error) => failures.push(error.to_string()),
            }
        }
        if failures.is_empty() {
            return Err("the name has no address".to_owned());
        }
        Err(failures.join(", "))
    }

    /// Connects within `limit`.
    ///
    /// # Errors
    /// The peer cannot be reached in time.
    pub async fn connect(addr: SocketAddr, limit: Duration) -> Result<(Self, Pushes), CallError> {
        let failed = |cause: String| CallError::Connect { addr, cause };
        let stream = match timeout(limit, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed(format!("nothing within {} ms", limit.as_millis()))),
        };
        stream
            .set_nodelay(true)
            .map_err(|error| failed(error.to_string()))?;
        let local = stream
            .local_addr()
            .map_err(|error| failed(error.to_string()))?;
        let inner = Arc::new(Inner {
            peer: addr,
            local,
            opaque: AtomicI32::new(1),
            calls: Mutex::default(),
            open: AtomicBool::new(true),
            pushes_dropped: AtomicU64::new(0),
        });
        let (from_peer, to_peer) = stream.into_split();
        let (out, waiting) = mpsc::channel(OUT_COMMANDS_MAX);
        let (push, commands) = mpsc::channel(PUSHES_MAX);
        let (reading, is_read) = oneshot::channel();
        tokio::spawn(write(Arc::clone(&inner), to_peer, waiting, reading));
        let reader = tokio::spawn(read(Arc::clone(&inner), from_peer, push, is_read));
        let reader = Arc::new(StopOnDrop(reader.abort_handle()));
        Ok((
            Self {
                inner,
                out,
                _reader: reader,
            },
            Pushes { commands },
        ))
    }

    /// Sends a request and waits for its reply; `opaque` is set here.
    ///
    /// # Errors
    /// No reply in time, or none possible any more.
    pub async fn call(&self, mut command: Command, limit: Duration) -> Result<Command, CallError> {
        let addr = self.inner.peer;
        let opaque = self.inner.opaque.fetch_add(1, Ordering::Relaxed) & i32::MAX;
        command.opaque = opaque;
        let frame = self.encode(&command)?;
        let (answer, reply) = oneshot::channel();
        {
            let mut calls = self.inner.calls();
            if calls.len() >= CALLS_MAX {
                return Err(CallError::Busy { addr });
            }
            calls.insert(opaque, answer);
        }
        let _waiting = Waiting {
            inner: &self.inner,
            opaque,
        };
        // Looked at after the call is on the list: the reader either sees it there, or had closed
        // before.
        if !self.is_open() {
            return Err(CallError::Closed { addr });
        }
        let exchange = async {
            self.out
                .send(frame)
                .await
                .map_err(|_| CallError::Closed { addr })?;
            reply.await.map_err(|_| CallError::Closed { addr })
        };
        match timeout(limit, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CallError::TimedOut { addr, limit }),
        }
    }

    /// Sends a request that nobody answers; `opaque` and the one-way flag are set here.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn one_way(&self, command: Command) -> Result<(), CallError> {
        let mut command = command.one_way();
        command.opaque = self.inner.opaque.fetch_add(1, Ordering::Relaxed) & i32::MAX;
        self.send(&command).await
    }

    /// Sends a command as it is: the answer to a push.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn send(&self, command: &Command) -> Result<(), CallError> {
        let frame = self.encode(command)?;
        let addr = self.inner.peer;
        if !self.is_open() {
            return Err(CallError::Closed { addr });
        }
        self.out
            .send(frame)
            .await
            .map_err(|_| CallError::Closed { addr })
    }

    /// Whether the connection still stands, as far as is known.
    pub fn is_open(&self) -> bool {
        self.inner.open.load(Ordering::Acquire)
    }

    /// The peer's address.
    pub fn peer_addr(&self) -> SocketAddr {
        self.inner.peer
    }

    /// Our own address.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local
    }

    /// Pushes dropped because nobody took them.
    pub fn pushes_dropped(&self) -> u64 {
        self.inner.pushes_dropped.load(Ordering::Relaxed)
    }

    fn encode(&self, command: &Command) -> Result<BytesMut, CallError> {
        let mut frame = BytesMut::new();
        match command.encode(&mut frame) {
            Ok(_) => Ok(frame),
            Err(error) => Err(CallError::TooLong {
                addr: self.inner.peer,
                cause: error.to_string(),
            }),
        }
    }
}

impl Inner {
    fn calls(&self) -> MutexGuard<'_, HashMap<i32, oneshot::Sender<Command>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.open.store(false, Ordering::Release);
        // Dropping the senders ends the calls.
        self.calls().clear();
    }
}

/// Ends with the last clone of the client, which drops the sending half of `waiting`, or with the
/// reader, which drops the other end of `reading`.
async fn write(
    inner: Arc<Inner>,
    mut to: OwnedWriteHalf,
    mut waiting: mpsc::Receiver<BytesMut>,
    mut reading: oneshot::Sender<()>,
) {
    loop {
        let next = tokio::select! {
            biased;
            next = waiting.recv() => next,
            () = reading.closed() => None,
        };
        let Some(mut out) = next else { break };
        for _ in 1..WRITE_COMMANDS_MAX {
            let Ok(more) = waiting.try_recv() else { break };
            out.extend_from_slice(&more);
        }
        let written = tokio::select! {
            biased;
            written = to.write_all(&out) => written,
            () = unread(&mut reading) => Err(std::io::ErrorKind::TimedOut.into()),
        };
        if let Err(error) = written {
            tracing::debug!(peer = %inner.peer, %error, "write failed");
            break;
        }
    }
    inner.close();
    // The peer, or a reader that has nobody left, learns of the end.
    let _ = to.shutdown().await;
}

/// Some time after the reader's end.
async fn unread(reading: &mut oneshot::Sender<()>) {
    reading.closed().await;
    tokio::time::sleep(LAST_WRITE).await;
}

/// Holds `_is_read` until it ends or is stopped.
async fn read(
    inner: Arc<Inner>,
    mut from: OwnedReadHalf,
    push: mpsc::Sender<Command>,
    _is_read: oneshot::Receiver<()>,
) {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    loop {
        match from.read_buf(&mut buffer).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(peer = %inner.peer, %error, "read failed");
                break;
            }
        }
        if let Err(error) = take_all(&inner, &mut buffer, &push) {
            tracing::warn!(peer = %inner.peer, %error, "not a frame; closing");
            break;
        }
        if buffer.is_empty() && buffer.capacity() > READ_BYTES {
            buffer = BytesMut::with_capacity(READ_BYTES);
        }
        buffer.reserve(READ_BYTES / 4);
    }
    inner.close();
}

fn take_all(
    inner: &Inner,
    buffer: &mut BytesMut,
    push: &mpsc::Sender<Command>,
) -> Result<(), String> {
    while let Some(frame) = frame::take_frame(buffer).map_err(|error| error.to_string())? {
        let command = Command::from_frame(&frame).map_err(|error| error.to_string())?;
        if command.is_reply() {
            if let Some(waiter) = inner.calls().remove(&command.opaque) {
                // The caller may have given up between; its reply is dropped then.
                let _ = waiter.send(command);
            }
        } else if push.try_send(command).is_err() && !push.is_closed() {
            inner.pushes_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
