//! The hash of a tag.
//!
//! **Owns** the tags code of a consume-queue entry and of a subscription.
//! **Lives on** data cores.
//! **Invariants** Java's `String.hashCode`: over UTF-16 units, 32-bit wrap, sign-extended
//! (trap 60).
//! **Limits** none.
//! **Not here** subscriptions (`subscription`).

/// Multiplier of Java's string hash.
const JAVA_HASH_FACTOR: i32 = 31;

/// The tags code of a tag; 0 for an empty one.
pub fn tags_code(tag: &str) -> i64 {
    let mix = |hash: i32, unit: i32| hash.wrapping_mul(JAVA_HASH_FACTOR).wrapping_add(unit);
    let hash = if tag.is_ascii() {
        tag.bytes().fold(0, |hash, byte| mix(hash, i32::from(byte)))
    } else {
        tag.encode_utf16()
            .fold(0, |hash, unit| mix(hash, i32::from(unit)))
    };
    i64::from(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Trap 60: signed, over UTF-16 units.
    #[test]
    fn hashes_as_java_does() {
        assert_eq!(tags_code(""), 0);
        assert_eq!(tags_code("TagA"), 2_598_919);
        assert_eq!(tags_code("TagB"), 2_598_920);
        // "polygenelubricants".hashCode() is Integer.MIN_VALUE.
        assert_eq!(tags_code("polygenelubricants"), i64::from(i32::MIN));
        assert_eq!(tags_code("\u{4e2d}"), 0x4e2d);
        // A character outside the basic plane counts as its two surrogates.
        assert_eq!(tags_code("\u{1F600}"), 0xD83D * 31 + 0xDE00);
    }
}
