//! The connection to one name server.
//!
//! **Owns** connecting, calling with a limit, and noticing that the connection has ended.
//! **Lives on** the control plane's thread.
//! **Invariants** the connection stays open between calls, since a name server forgets a broker
//! when its connection closes, also when a command is too long for a frame; a call on a connection
//! that turns out dead is made once more on a new one, which `connections` shows; of a server's
//! several addresses one that hangs leaves time for the others.
//! **Limits** `CALL_MAX` a call, connecting included.
//! **Not here** what is said (`body`) and when (`link`).

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::net::SocketAddr;

use gantry_protocol::command::Command;
use gantry_runtime::net::client::{CallError, Client, Pushes};

use super::CALL_MAX;

/// Why there is no reply.
enum Failure {
    /// The command fits no frame: nothing was sent, and the connection is as it was.
    Unsent(String),
    /// The connection is of no use any more, or there is none.
    Lost(String),
}

/// The connection; see the room's head.
pub struct Channel {
    address: String,
    client: RefCell<Option<Client>>,
    pushes: RefCell<Option<Pushes>>,
    connections: Cell<u64>,
    /// Calls that failed: the next one begins at another address.
    failures: Cell<usize>,
}

impl Channel {
    /// A channel to `host:port`, not connected.
    pub fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            client: RefCell::new(None),
            pushes: RefCell::new(None),
            connections: Cell::new(0),
            failures: Cell::new(0),
        }
    }

    /// `host:port` as configured.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// How many connections were made so far: a server behind a new one may have forgotten us.
    pub fn connections(&self) -> u64 {
        self.connections.get()
    }

    /// Ends when the open connection ends; never, when there is none.
    pub async fn lost(&self) {
        let watched = self.pushes.take();
        let Some(pushes) = watched else {
            return pending().await;
        };
        let mut watch = Watch {
            pushes: Some(pushes),
            home: &self.pushes,
        };
        watch.until_closed().await;
        self.client.replace(None);
    }

    /// One call on the open connection, or on a new one.
    ///
    /// # Errors
    /// Why there is no reply.
    pub async fn call(&self, command: Command) -> Result<Command, String> {
        let outcome = actix::clock::timeout(CALL_MAX, self.exchange(command)).await;
        let late = || Failure::Lost(format!("no answer within {} s", CALL_MAX.as_secs()));
        match outcome.unwrap_or_else(|_| Err(late())) {
            Ok(reply) => Ok(reply),
            Err(Failure::Unsent(why)) => Err(why),
            Err(Failure::Lost(why)) => {
                self.client.replace(None);
                self.failures.set(self.failures.get().wrapping_add(1));
                Err(why)
            }
        }
    }

    async fn exchange(&self, command: Command) -> Result<Command, Failure> {
        let open = self.client.take();
        if let Some(client) = open {
            match client.call(command.clone(), CALL_MAX).await {
                Err(error) if !is_unsent(&error) => {}
                outcome => {
                    self.client.replace(Some(client));
                    return outcome.map_err(|error| Failure::Unsent(error.to_string()));
                }
            }
        }
        let connected = connect(&self.address, self.failures.get()).await;
        let (client, pushes) = connected.map_err(Failure::Lost)?;
        self.connections.set(self.connections.get() + 1);
        let outcome = client.call(command, CALL_MAX).await;
        let outcome = match outcome {
            Err(error) if !is_unsent(&error) => return Err(Failure::Lost(error.to_string())),
            outcome => outcome.map_err(|error| Failure::Unsent(error.to_string())),
        };
        self.client.replace(Some(client));
        self.pushes.replace(Some(pushes));
        outcome
    }
}

fn is_unsent(error: &CallError) -> bool {
    matches!(error, CallError::TooLong { .. })
}

/// The pushes of a connection while somebody waits for its end; they go home when the wait is given
/// up.
struct Watch<'a> {
    pushes: Option<Pushes>,
    home: &'a RefCell<Option<Pushes>>,
}

impl Watch<'_> {
    async fn until_closed(&mut self) {
        if let Some(pushes) = &mut self.pushes {
            // A name server asks nothing of a broker; what it pushes is dropped.
            while pushes.next().await.is_some() {}
        }
        self.pushes = None;
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let mut home = self.home.borrow_mut();
        if home.is_none() {
            *home = self.pushes.take();
        }
    }
}

/// Resolves a name and connects to one of its addresses.
async fn connect(address: &str, failures: usize) -> Result<(Client, Pushes), String> {
    let found = tokio::net::lookup_host(address).await;
    let found = found.map_err(|error| format!("the name can't be resolved: {error}"))?;
    let mut found: Vec<SocketAddr> = found.collect();
    order(&mut found, failures);
    Client::connect_any(&found, CALL_MAX).await
}

/// IPv4 first, as everywhere. An address may take connections and answer nothing, so each failure
/// moves the beginning on.
fn order(found: &mut [SocketAddr], failures: usize) {
    found.sort_by_key(SocketAddr::is_ipv6);
    if !found.is_empty() {
        found.rotate_left(failures % found.len());
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use gantry_protocol::frame::FRAME_BYTES_MAX;
    use tokio::net::TcpSocket;

    use super::*;

    /// Longest wait for a listener's queue to be full.
    const FILL_WAIT: Duration = Duration::from_millis(200);
    /// More connections than a queue of one takes.
    const FILL_MAX: usize = 8;

    /// A listener that takes no more connections: they hang. It ends with what is returned.
    fn hanging() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap().into_std().unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, FILL_WAIT) {
            queued.push(stream);
            assert!(queued.len() < FILL_MAX, "the queue never fills");
        }
        (address, listener, queued)
    }

    #[test]
    fn an_address_that_hangs_leaves_time_for_the_next() {
        actix::System::new().block_on(async {
            let (bad, _listener, _queued) = hanging();
            let good = TcpListener::bind("127.0.0.1:0").unwrap();
            let both = [bad, good.local_addr().unwrap()];
            let within =
                actix::clock::timeout(CALL_MAX, Client::connect_any(&both, CALL_MAX)).await;
            let connected = within.expect("in the time of one call");
            connected.map(drop).unwrap();
        });
    }

    #[test]
    fn ipv4_comes_first_and_each_failure_begins_at_another_address() {
        let all = ["[::1]:1", "10.0.0.1:1", "10.0.0.2:1"].map(|text| text.parse().unwrap());
        let after = |failures| {
            let mut found = all;
            order(&mut found, failures);
            found[0].to_string()
        };
        let begins = [after(0), after(1), after(2), after(3)];
        let wanted = ["10.0.0.1:1", "10.0.0.2:1", "[::1]:1", "10.0.0.1:1"];
        assert_eq!(begins, wanted);
        order(&mut [], 1);
    }

    #[test]
    fn a_command_that_fits_no_frame_leaves_the_connection_open() {
        actix::System::new().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let channel = Channel::new(&listener.local_addr().unwrap().to_string());
            for _ in 0..2 {
                let long = Command::request(1, 1).with_body(vec![0; FRAME_BYTES_MAX as usize]);
                let why = channel.call(long).await.unwrap_err();
                assert!(why.contains("too long"), "{why}");
                assert!(channel.client.borrow().as_ref().unwrap().is_open());
            }
            assert_eq!((channel.connections(), channel.failures.get()), (1, 0));
        });
    }
}
