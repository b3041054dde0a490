//! The names of what is timed.
//!
//! **Owns** the stages of a request, and the kinds of requests that have them.
//! **Lives on** every core; plain data.
//! **Invariants** each pair has a histogram of its own.
//! **Limits** none.
//! **Not here** which room ends which stage (docs/adr/0010).

/// Which road a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A message, or a batch of them, to be stored.
    Send,
    /// A pull.
    Pull,
}

/// The timed stages of a request, in the order it passes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// From its first byte to its last one; 0 when one read brought it whole.
    Read,
    /// From that read to the end of the batch it was part of: parsed, checked, routed.
    Decode,
    /// To the core of its queue.
    Mesh,
    /// In the queue's inbox.
    Mailbox,
    /// The pass that stored it, seal included.
    Append,
    /// From the seal to the device's word that it is written.
    Write,
    /// From there to the device's word that it is synced; where one operation does both, from the
    /// seal.
    Sync,
    /// A pull with nothing to read, until there was something or its time was up.
    Wait,
    /// A pull's turn: index, filter, and the copy of what memory has.
    Lookup,
    /// A pull whose records had to come from the device.
    DiskRead,
    /// From its answer being decided to the last byte of it being given to the socket.
    Reply,
    /// From the read that completed it to the end of `Reply`, without `Wait`.
    Total,
}

impl Kind {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Pull => "pull",
        }
    }
}

/// All stages in their order.
pub const STAGES: [Stage; 12] = [
    Stage::Read,
    Stage::Decode,
    Stage::Mesh,
    Stage::Mailbox,
    Stage::Append,
    Stage::Write,
    Stage::Sync,
    Stage::Wait,
    Stage::Lookup,
    Stage::DiskRead,
    Stage::Reply,
    Stage::Total,
];

/// Histograms of one history.
pub(super) const CELLS: usize = 2 * STAGES.len();

impl Stage {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Decode => "decode",
            Self::Mesh => "mesh",
            Self::Mailbox => "mailbox",
            Self::Append => "append",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Wait => "wait",
            Self::Lookup => "lookup",
            Self::DiskRead => "disk-read",
            Self::Reply => "reply",
            Self::Total => "total",
        }
    }

    /// Place of its histogram.
    pub(super) const fn cell(self, kind: Kind) -> usize {
        let row = match kind {
            Kind::Send => 0,
            Kind::Pull => STAGES.len(),
        };
        row + self as usize
    }
}
