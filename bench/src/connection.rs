//! One connection of the generator: a socket that a reader and a writer share.
//!
//! **Owns** the socket, the bytes read and not yet taken, the bell that wakes the writer.
//! **Lives on** the generator's executor.
//! **Invariants** reader and writer never wait for each other: a broker that answers before it
//! reads on can't lock a run up. Bytes leave in the order they were appended, one write for all
//! that has piled up.
//! **Limits** a frame of at most `FRAME_BYTES_MAX`.
//! **Not here** what the bytes mean (`wire`, `producer`, `consumer`).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Poll, Waker};

use futures_lite::{AsyncRead, AsyncWrite};
use gantry_protocol::frame::{FRAME_BYTES_MAX, frame_bytes_wanted};
use glommio::net::TcpStream;

use crate::error::BenchError;

/// Room that is always there for one read.
const READ_BYTES: usize = 128 * 1024;

/// Wakes one waiting task; a ring while nobody waits is kept.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Bell {
    /// Wakes the waiting task, or the next one that waits.
    pub fn ring(&self) {
        self.rung.set(true);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    /// Waits for a ring.
    pub async fn heard(&self) {
        poll_fn(|cx| {
            if self.rung.take() {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// A socket, usable by several tasks of one executor.
#[derive(Debug)]
pub struct Link {
    addr: SocketAddr,
    stream: RefCell<TcpStream>,
    out: RefCell<Vec<u8>>,
    bell: Bell,
}

impl Link {
    /// Connects.
    ///
    /// # Errors
    /// The broker does not take the connection.
    pub async fn open(addr: SocketAddr) -> Result<Rc<Self>, BenchError> {
        let socket = |source: io::Error| BenchError::Socket {
            doing: "connecting to",
            addr,
            source,
        };
        let stream = TcpStream::connect(addr)
            .await
            .map_err(|e| socket(e.into()))?;
        stream.set_nodelay(true).map_err(|e| socket(e.into()))?;
        Ok(Rc::new(Self {
            addr,
            stream: RefCell::new(stream),
            out: RefCell::default(),
            bell: Bell::default(),
        }))
    }

    /// A connection that another one has opened.
    ///
    /// # Errors
    /// It is gone already.
    pub fn accepted(stream: TcpStream) -> Result<Rc<Self>, BenchError> {
        let addr = SocketAddr::from(([0, 0, 0, 0], 0));
        let socket = |source| BenchError::Socket {
            doing: "accepting from",
            addr,
            source,
        };
        let addr = stream.peer_addr().map_err(|e| socket(e.into()))?;
        stream.set_nodelay(true).map_err(|e| socket(e.into()))?;
        Ok(Rc::new(Self {
            addr,
            stream: RefCell::new(stream),
            out: RefCell::default(),
            bell: Bell::default(),
        }))
    }

    /// The other side.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Appends to what [`Self::write_posted`] will write.
    pub fn post(&self, append: impl FnOnce(&mut Vec<u8>)) {
        append(&mut self.out.borrow_mut());
        self.bell.ring();
    }

    /// Writes what is posted, as it comes, until the connection ends.
    ///
    /// # Errors
    /// The socket fails.
    pub async fn write_posted(&self) -> Result<(), BenchError> {
        let mut batch = Vec::new();
        loop {
            self.bell.heard().await;
            std::mem::swap(&mut batch, &mut *self.out.borrow_mut());
            self.write_all(&batch).await?;
            batch.clear();
        }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The socket fails.
    pub async fn write_all(&self, mut bytes: &[u8]) -> Result<(), BenchError> {
        while !bytes.is_empty() {
            let write = poll_fn(|cx| {
                let mut stream = self.stream.borrow_mut();
                Pin::new(&mut *stream).poll_write(cx, bytes)
            });
            let written = write.await.map_err(|source| BenchError::Socket {
                doing: "writing to",
                addr: self.addr,
                source,
            })?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    async fn read(&self, room: &mut [u8]) -> Result<usize, BenchError> {
        let read = poll_fn(|cx| {
            let mut stream = self.stream.borrow_mut();
            Pin::new(&mut *stream).poll_read(cx, room)
        });
        let read = read.await.map_err(|source| BenchError::Socket {
            doing: "reading from",
            addr: self.addr,
            source,
        })?;
        if read == 0 {
            return Err(BenchError::Answer {
                doing: "reading a reply",
                what: format!("{} closed the connection", self.addr),
            });
        }
        Ok(read)
    }

    /// Ends both directions; what was written is still delivered.
    pub async fn close(&self) {
        poll_fn(|cx| {
            let stream = self.stream.borrow();
            // Completes at once; there is nothing to be done about one that fails.
            let mut done = pin!(stream.shutdown(Shutdown::Both));
            let _ = done.as_mut().poll(cx);
            Poll::Ready(())
        })
        .await;
    }
}

/// Bytes read and not yet taken.
#[derive(Debug)]
pub struct Inbox {
    bytes: Vec<u8>,
    from: usize,
    to: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            bytes: vec![0; READ_BYTES],
            from: 0,
            to: 0,
        }
    }
}

impl Inbox {
    /// What is there.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(self.from..self.to).unwrap_or_default()
    }

    /// The first `count` bytes are done with.
    pub fn take(&mut self, count: usize) {
        self.from = (self.from + count).min(self.to);
    }

    /// Reads more, and makes room for the frame at the front if it is larger than what is there.
    ///
    /// # Errors
    /// The connection ends, or announces a frame that can't be.
    pub async fn fill(&mut self, link: &Link) -> Result<(), BenchError> {
        let wanted = frame_bytes_wanted(self.bytes()).map_err(|e| BenchError::Answer {
            doing: "reading a reply",
            what: e.to_string(),
        })?;
        const { assert!(FRAME_BYTES_MAX as usize > READ_BYTES) };
        if self.from > 0 {
            self.bytes.copy_within(self.from..self.to, 0);
            self.to -= self.from;
            self.from = 0;
        }
        let room = wanted.unwrap_or(0).max(self.to + READ_BYTES / 2);
        if self.bytes.len() < room {
            self.bytes.resize(room, 0);
        }
        let free = self.bytes.get_mut(self.to..).unwrap_or_default();
        self.to += link.read(free).await?;
        Ok(())
    }
}
