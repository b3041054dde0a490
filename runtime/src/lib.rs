//! Cores, rings, sockets, mailboxes.
