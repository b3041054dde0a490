//! `gantry profile`: where the time of a running broker's requests goes.
//!
//! **Owns** asking a broker, once or again and again.
//! **Lives on** a tokio runtime of one thread.
//! **Invariants** `--json` prints the broker's answer as it came.
//! **Limits** one call at a time, of at most `CALL_MAX`.
//! **Not here** the tables (`table`), what is measured (docs/adr/0010).

mod table;

use std::io::IsTerminal as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use gantry_protocol::code::{request, response};
use serde_json::Value;

use crate::client::{Cluster, ask, block_on, refused};
use crate::{cli, print};

/// The broker's port where none is named.
const PORT: u16 = 10911;
/// Pause between two looks with `--watch`.
const WATCH: Duration = Duration::from_secs(2);
/// Clears a terminal.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub fn run(args: &cli::Profile) -> Result<(), String> {
    block_on(watch(args))
}

async fn watch(args: &cli::Profile) -> Result<(), String> {
    let address = with_port(&args.broker);
    let mut cluster = Cluster::new(&address)?;
    loop {
        let body = fetch(&mut cluster, &address).await?;
        let text = if args.json {
            format!("{}\n", String::from_utf8_lossy(&body).trim_end())
        } else {
            let report: Value = serde_json::from_slice(&body)
                .map_err(|error| format!("{address}: not a profile: {error}"))?;
            let is_screen = args.watch && std::io::stdout().is_terminal();
            let clear = if is_screen { CLEAR } else { "" };
            format!("{clear}{}", table::print(&report))
        };
        let is_read = print::answer(&text)?;
        if !args.watch || !is_read {
            return Ok(());
        }
        tokio::time::sleep(WATCH).await;
    }
}

async fn fetch(cluster: &mut Cluster, address: &str) -> Result<bytes::Bytes, String> {
    let reply = cluster
        .call(address, ask(request::GANTRY_GET_PROFILE, []))
        .await?;
    match reply.code {
        response::SUCCESS => Ok(reply.body),
        response::REQUEST_CODE_NOT_SUPPORTED => Err(format!(
            "{address} has no latency profile: it is no Gantry broker, or an older one"
        )),
        _ => Err(refused(&format!("broker {address}"), &reply)),
    }
}

fn with_port(broker: &str) -> String {
    // An IPv6 address alone would be cut at its last colon.
    if let Ok(ip) = broker.parse::<IpAddr>() {
        return SocketAddr::new(ip, PORT).to_string();
    }
    let has_port = broker
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port {
        broker.to_owned()
    } else {
        format!("{broker}:{PORT}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_alone_means_the_usual_port() {
        assert_eq!(with_port("10.0.0.1"), "10.0.0.1:10911");
        assert_eq!(with_port("broker-a:20911"), "broker-a:20911");
        assert_eq!(with_port("::1"), "[::1]:10911");
        assert_eq!(with_port("fd00::2:911"), "[fd00::2:911]:10911");
        assert_eq!(with_port("[::1]"), "[::1]:10911");
        assert_eq!(with_port("[::1]:20911"), "[::1]:20911");
    }
}
