//! The connection to one name server.
//!
//! **Owns** connecting, calling with a limit, and noticing that the connection has ended.
//! **Lives on** the control plane's thread.
//! **Invariants** the connection stays open between calls, since a name server forgets a broker
//! when its connection closes; a call on a connection that turns out dead is made once more on a
//! new one, which `connections` shows.
//! **Limits** `CALL_MAX` a call, connecting included.
//! **Not here** what is said (`body`) and when (`link`).

use std::cell::{Cell, RefCell};
use std::future::pending;

use gantry_protocol::command::Command;
use gantry_runtime::net::client::{Client, Pushes};

use super::CALL_MAX;

/// The connection; see the room's head.
pub struct Channel {
    address: String,
    client: RefCell<Option<Client>>,
    pushes: RefCell<Option<Pushes>>,
    connections: Cell<u64>,
}

impl Channel {
    /// A channel to `host:port`, not connected.
    pub fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            client: RefCell::new(None),
            pushes: RefCell::new(None),
            connections: Cell::new(0),
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
        let outcome =
            outcome.unwrap_or_else(|_| Err(format!("no answer within {} s", CALL_MAX.as_secs())));
        if outcome.is_err() {
            self.client.replace(None);
        }
        outcome
    }

    async fn exchange(&self, command: Command) -> Result<Command, String> {
        let open = self.client.take();
        if let Some(client) = open
            && let Ok(reply) = client.call(command.clone(), CALL_MAX).await
        {
            self.client.replace(Some(client));
            return Ok(reply);
        }
        let (client, pushes) = connect(&self.address).await?;
        self.connections.set(self.connections.get() + 1);
        let reply = client
            .call(command, CALL_MAX)
            .await
            .map_err(|error| error.to_string())?;
        self.client.replace(Some(client));
        self.pushes.replace(Some(pushes));
        Ok(reply)
    }
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

/// Resolves a name and connects to the first of its addresses that answers.
async fn connect(address: &str) -> Result<(Client, Pushes), String> {
    let found = tokio::net::lookup_host(address).await;
    let found = found.map_err(|error| format!("the name can't be resolved: {error}"))?;
    let mut last = "the name has no address".to_owned();
    for addr in found {
        match Client::connect(addr, CALL_MAX).await {
            Ok(connected) => return Ok(connected),
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}
