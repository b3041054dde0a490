//! Who has a port that is taken.
//!
//! **Owns** the search through `/proc` for the process behind a bound port.
//! **Lives on** the main thread, before anything listens.
//! **Invariants** reads only; what can't be read makes the answer unsure, never wrong.
//! **Limits** none of its own: one pass over the processes of the machine.
//! **Not here** what follows from it (`address`).

use std::fs;
use std::net::SocketAddr;

use gantry_runtime::net::tcp_table::{LISTENING, Row};

/// Who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A process that lives.
    Process {
        /// Its number.
        id: u32,
        /// Its name, as `ps` shows it.
        name: String,
    },
    /// No process: what a killed one left, until the kernel has ended its last operations.
    Nobody,
    /// Processes of other users can't be looked into.
    Unknown,
}

/// Finds who keeps `address` from being bound: whoever has its port there or on every address.
pub fn of(address: SocketAddr) -> Holder {
    let mut sockets = Vec::new();
    let Ok(table) = fs::read_to_string("/proc/net/tcp") else {
        return Holder::Unknown;
    };
    sockets.extend(sockets_in(&table, address));
    // A host without IPv6 has no second table.
    let table = fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
    sockets.extend(sockets_in(&table, address));
    // Sockets that have no file any more have no process either.
    sockets.retain(|inode| *inode != 0);
    if sockets.is_empty() {
        // Whoever served there would be in the table.
        return Holder::Nobody;
    }
    owner(&sockets)
}

/// Inodes of the sockets of `table` that are in the way of `wanted` and connected to nobody.
fn sockets_in(table: &str, wanted: SocketAddr) -> Vec<u64> {
    let rows = table.lines().filter_map(Row::of);
    // Listening, or bound and not yet listening.
    let found = rows.filter(|row| matches!(row.state, LISTENING | "07"));
    let found = found.filter(|row| row.is_in_the_way(wanted));
    found.filter_map(|row| row.inode).collect()
}

fn owner(sockets: &[u64]) -> Holder {
    let names: Vec<String> = sockets.iter().map(|at| format!("socket:[{at}]")).collect();
    let mut all_seen = true;
    let Ok(processes) = fs::read_dir("/proc") else {
        return Holder::Unknown;
    };
    for process in processes.flatten() {
        let id = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(id) = id else { continue };
        match fs::read_dir(process.path().join("fd")) {
            Ok(files) => {
                let has = files.flatten().any(|file| {
                    let target = fs::read_link(file.path()).unwrap_or_default();
                    names.iter().any(|name| target.as_os_str() == name.as_str())
                });
                if has {
                    let name = fs::read_to_string(process.path().join("comm"));
                    let name = name.unwrap_or_default().trim().to_owned();
                    return Holder::Process { id, name };
                }
            }
            Err(error) => all_seen &= error.kind() != std::io::ErrorKind::PermissionDenied,
        }
    }
    if all_seen {
        Holder::Nobody
    } else {
        Holder::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let Holder::Process { id, .. } = of(at) else {
            panic!("not found");
        };
        assert_eq!(id, std::process::id());
    }

    #[test]
    fn a_port_that_nobody_listens_at_is_nobodys() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(of(at), Holder::Nobody);
    }

    #[test]
    fn a_socket_that_no_process_has_is_nobodys() {
        assert!(matches!(
            owner(&[u64::MAX]),
            Holder::Nobody | Holder::Unknown
        ));
    }

    #[test]
    fn rows_are_read_by_their_columns() {
        let row = |local: &str, state: &str, inode: u32| {
            format!(
                " 0: {local} 00000000:0000 {state} 00000000:00000000 00:0 00000000 0 0 {inode} 1"
            )
        };
        let table = [
            " sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode".to_owned(),
            row("0100007F:2A9F", "0A", 4711),
            row("0100007F:2A9F", "01", 4712),
            row("0100007F:2AA0", "0A", 4713),
        ]
        .join("\n");
        let here = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 10911);
        assert_eq!(sockets_in(&table, here("127.0.0.1")), [4711]);
        assert_eq!(sockets_in(&table, here("0.0.0.0")), [4711]);
        // The same port of another address is somebody else's.
        assert_eq!(sockets_in(&table, here("127.0.0.2")), [0_u64; 0]);
        let every = table.replace("0100007F", "00000000");
        assert_eq!(sockets_in(&every, here("127.0.0.2")), [4711]);
        let sixth = table.replace("0100007F", "0000000000000000FFFF00000100007F");
        assert_eq!(sockets_in(&sixth, here("127.0.0.1")), [4711]);
        assert_eq!(sockets_in(&sixth, here("127.0.0.2")), [0_u64; 0]);
    }
}
