//! Bodies that producers compressed.
//!
//! **Owns** unpacking by the three algorithms of `sysFlag`.
//! **Lives on** clients, command line and tests; the broker stores bodies as they came.
//! **Invariants** unpacking stops at the caller's bound, so a small body cannot grow without limit.
//! **Limits** the caller's `bytes_max`.
//! **Not here** the flags (`sys_flag`).

use std::io::Read;

use thiserror::Error;

use crate::sys_flag::{self, Compression};

/// Why a body cannot be unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UnpackError {
    /// The flags name no known algorithm.
    #[error("compression type {0} is unknown: 0 and 3 (zlib), 1 (lz4) and 2 (zstd) are known")]
    UnknownType(i32),
    /// The bytes are not what the algorithm writes.
    #[error("body is no valid {0} stream")]
    Corrupt(&'static str),
    /// The unpacked body exceeds the bound.
    #[error("unpacked body exceeds {0} bytes")]
    TooLarge(usize),
}

/// The body as the producer's application gave it, at most `bytes_max` bytes of it.
///
/// # Errors
/// Unknown algorithm, corrupt bytes, or a body beyond the bound.
pub fn unpack(sys_flag: i32, body: &[u8], bytes_max: usize) -> Result<Vec<u8>, UnpackError> {
    if sys_flag & sys_flag::COMPRESSED == 0 {
        return Ok(body.to_vec());
    }
    let unknown = UnpackError::UnknownType((sys_flag & sys_flag::COMPRESSION_MASK) >> 8);
    match sys_flag::compression(sys_flag).ok_or(unknown)? {
        Compression::Zlib => bounded(flate2::read::ZlibDecoder::new(body), "zlib", bytes_max),
        Compression::Lz4 => bounded(lz4_flex::frame::FrameDecoder::new(body), "lz4", bytes_max),
        Compression::Zstd => {
            let reader = zstd::stream::read::Decoder::with_buffer(body);
            bounded(
                reader.map_err(|_| UnpackError::Corrupt("zstd"))?,
                "zstd",
                bytes_max,
            )
        }
    }
}

fn bounded(
    reader: impl Read,
    name: &'static str,
    bytes_max: usize,
) -> Result<Vec<u8>, UnpackError> {
    let mut out = Vec::new();
    let bound = u64::try_from(bytes_max)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    reader
        .take(bound)
        .read_to_end(&mut out)
        .map_err(|_| UnpackError::Corrupt(name))?;
    if out.len() > bytes_max {
        Err(UnpackError::TooLarge(bytes_max))
    } else {
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const ZLIB_FLAGS: i32 = sys_flag::COMPRESSED | 0x300;
    const BODY: &[u8] = b"the same words again and again and again and again";

    fn pack_zlib(body: &[u8]) -> Vec<u8> {
        let level = flate2::Compression::default();
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_algorithm_is_unpacked() {
        assert_eq!(
            unpack(0, BODY, 10),
            Ok(BODY.to_vec()),
            "not compressed: as it is"
        );
        let zlib = pack_zlib(BODY);
        for flags in [ZLIB_FLAGS, sys_flag::COMPRESSED] {
            assert_eq!(unpack(flags, &zlib, 1024), Ok(BODY.to_vec()));
        }
        let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
        lz4.write_all(BODY).unwrap();
        assert_eq!(
            unpack(0x101, &lz4.finish().unwrap(), 1024),
            Ok(BODY.to_vec())
        );
        let zstd = zstd::encode_all(BODY, 0).unwrap();
        assert_eq!(unpack(0x201, &zstd, 1024), Ok(BODY.to_vec()));
    }

    #[test]
    fn bounds_and_damage() {
        let bomb = pack_zlib(&vec![0; 1 << 20]);
        assert_eq!(
            unpack(ZLIB_FLAGS, &bomb, 1024),
            Err(UnpackError::TooLarge(1024))
        );
        assert_eq!(unpack(0x701, BODY, 1024), Err(UnpackError::UnknownType(7)));
        for (flags, name) in [(0x301, "zlib"), (0x101, "lz4"), (0x201, "zstd")] {
            assert_eq!(unpack(flags, BODY, 1024), Err(UnpackError::Corrupt(name)));
        }
    }
}
