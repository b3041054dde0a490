//! The bits of a message's `sysFlag`.
//!
//! **Owns** the bits' numbers and names (`MessageSysFlag`, 5.5.0).
//! **Lives on** any core.
//! **Invariants** bits not named here pass through unchanged.
//! **Limits** 32 bits.
//! **Not here** the flags of a pull (`request::pull`) and of a header (`command`).

/// The body is compressed, by [`compression`].
pub const COMPRESSED: i32 = 0x1;
/// The topic's filter type is `MULTI_TAG`.
pub const MULTI_TAGS: i32 = 0x2;
/// Both bits of the transaction type.
pub const TRANSACTION_MASK: i32 = 0xC;
/// A half message.
pub const TRANSACTION_PREPARED: i32 = 0x4;
/// A committed message.
pub const TRANSACTION_COMMIT: i32 = 0x8;
/// A rolled back message.
pub const TRANSACTION_ROLLBACK: i32 = 0xC;
/// The born host takes 16 + 4 bytes.
pub const BORN_HOST_V6: i32 = 0x10;
/// The store host takes 16 + 4 bytes.
pub const STORE_HOST_V6: i32 = 0x20;
/// The client splits this record itself.
pub const NEED_UNWRAP: i32 = 0x40;
/// The record is an inner batch.
pub const INNER_BATCH: i32 = 0x80;
/// Both bits of a record that clients split: they number its parts from its queue offset on.
pub const INNER_BATCH_MASK: i32 = NEED_UNWRAP | INNER_BATCH;
/// The bits of the compression type.
pub const COMPRESSION_MASK: i32 = 0x700;

/// How a compressed body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// A zlib stream: type 3, and type 0 of old clients.
    Zlib,
    /// An LZ4 frame: type 1.
    Lz4,
    /// A zstd frame: type 2.
    Zstd,
}

/// The compression of a body with these flags; `None` when it is not compressed or the type is
/// unknown.
pub const fn compression(sys_flag: i32) -> Option<Compression> {
    if sys_flag & COMPRESSED == 0 {
        return None;
    }
    match (sys_flag & COMPRESSION_MASK) >> 8 {
        0 | 3 => Some(Compression::Zlib),
        1 => Some(Compression::Lz4),
        2 => Some(Compression::Zstd),
        _ => None,
    }
}

/// The flags with another transaction type.
pub const fn with_transaction_type(sys_flag: i32, transaction_type: i32) -> i32 {
    (sys_flag & !TRANSACTION_MASK) | (transaction_type & TRANSACTION_MASK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_types() {
        assert_eq!(compression(0x300), None);
        assert_eq!(compression(0x001), Some(Compression::Zlib));
        assert_eq!(compression(0x301), Some(Compression::Zlib));
        assert_eq!(compression(0x101), Some(Compression::Lz4));
        assert_eq!(compression(0x201), Some(Compression::Zstd));
        assert_eq!(compression(0x701), None);
    }

    #[test]
    fn transaction_type_is_replaced() {
        assert_eq!(with_transaction_type(0x15, TRANSACTION_COMMIT), 0x19);
        assert_eq!(with_transaction_type(0x1D, 0), 0x11);
    }
}
