//! What a consumer wants of a topic.
//!
//! **Owns** the tag expression and the set of tag hashes made of it.
//! **Lives on** data cores (matching), control plane (heartbeats).
//! **Invariants** the set is always rebuilt from the expression: clients leave it out (trap 24) or
//! compute it over other bytes (trap 100).
//! **Limits** [`TAGS_MAX`] per expression.
//! **Not here** SQL92 (`actors::sql92`), the heartbeat's form (`body::heartbeat`).

use smallvec::SmallVec;

use crate::error::FieldError;
use crate::message::tags_code;

/// The expression that matches every message.
pub const ALL: &str = "*";
/// Expression type of tag expressions; also when absent.
pub const TYPE_TAG: &str = "TAG";
/// Expression type of SQL92 expressions.
pub const TYPE_SQL92: &str = "SQL92";
/// Most tags of one expression; a hostile heartbeat could otherwise hold megabytes of them.
pub const TAGS_MAX: usize = 4_096;

/// Tags kept without an allocation.
const TAGS_INLINE: usize = 4;
/// Up to this many codes a straight walk beats a binary search.
const STRAIGHT_WALK_MAX: usize = 16;

/// Whether a type means a tag expression: absent, empty or `TAG`.
pub fn is_tag_type(expression_type: Option<&str>) -> bool {
    expression_type.is_none_or(|kind| kind.is_empty() || kind == TYPE_TAG)
}

/// A tag expression, ready to be matched against tag hashes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TagFilter {
    /// Every message, those without a tag included (trap 61).
    #[default]
    All,
    /// Messages whose tag's hash is one of these, ascending.
    Codes(SmallVec<[i32; TAGS_INLINE]>),
}

impl TagFilter {
    /// Parses a tag expression: tags joined by `||`; `*` or nothing means all.
    ///
    /// # Errors
    /// The expression has separators but no tag, or more than [`TAGS_MAX`] tags.
    pub fn parse(expression: &str) -> Result<Self, FieldError> {
        let expression = expression.trim();
        if expression.is_empty() || expression == ALL {
            return Ok(Self::All);
        }
        let mut codes = SmallVec::new();
        for tag in split_tags(expression) {
            if codes.len() >= TAGS_MAX {
                let allowed = "at most 4096 tags";
                return Err(FieldError::bad("subscription", expression, allowed));
            }
            // The low 32 bits: a tags code is a sign-extended 32-bit hash.
            codes.push(low_32(tags_code(tag)));
        }
        if codes.is_empty() {
            let allowed = "* or tags joined by ||";
            return Err(FieldError::bad("subscription", expression, allowed));
        }
        codes.sort_unstable();
        codes.dedup();
        Ok(Self::Codes(codes))
    }

    /// Whether a message with this tags code may be wanted; the client compares the real tags.
    pub fn matches(&self, tags_code: i64) -> bool {
        let Self::Codes(codes) = self else {
            return true;
        };
        let code = low_32(tags_code);
        if codes.len() <= STRAIGHT_WALK_MAX {
            codes.contains(&code)
        } else {
            codes.binary_search(&code).is_ok()
        }
    }

    /// The hashes, for bodies that show them.
    pub fn codes(&self) -> &[i32] {
        if let Self::Codes(codes) = self {
            codes
        } else {
            &[]
        }
    }
}

/// The tags of an expression.
pub fn split_tags(expression: &str) -> impl Iterator<Item = &str> {
    expression
        .split("||")
        .map(str::trim)
        .filter(|tag| !tag.is_empty())
}

fn low_32(code: i64) -> i32 {
    let [_, _, _, _, rest @ ..] = code.to_be_bytes();
    i32::from_be_bytes(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        for all in ["", "*", " * "] {
            assert_eq!(TagFilter::parse(all).unwrap(), TagFilter::All);
        }
        let filter = TagFilter::parse("TagA || TagB||| |TagA").unwrap();
        assert!(filter.matches(2_598_919) && filter.matches(2_598_920));
        assert!(
            !filter.matches(0),
            "no tag is not wanted by a tag expression"
        );
        assert!(TagFilter::parse("||").is_err());
        assert!(TagFilter::All.matches(0), "trap 61");
    }

    /// Trap 60: negative hashes are matched by their low 32 bits.
    #[test]
    fn negative_hashes_match() {
        let filter = TagFilter::parse("polygenelubricants").unwrap();
        assert_eq!(filter.codes(), &[i32::MIN]);
        assert!(filter.matches(i64::from(i32::MIN)));
        assert!(filter.matches(0x8000_0000), "a code that lost its sign");
    }

    /// Trap 100: hashes come from UTF-16 units.
    #[test]
    fn tags_outside_ascii() {
        let filter = TagFilter::parse("订单").unwrap();
        assert!(filter.matches(tags_code("订单")));
        assert_eq!(filter.codes(), &[0x8BA2 * 31 + 0x5355]);
    }

    #[test]
    fn many_tags() {
        let tags: Vec<String> = (0..100).map(|i| format!("tag-{i}")).collect();
        let filter = TagFilter::parse(&tags.join("||")).unwrap();
        assert!(tags.iter().all(|tag| filter.matches(tags_code(tag))));
        assert!(!filter.matches(tags_code("tag-100")));
        assert!(TagFilter::parse(&vec!["t"; TAGS_MAX + 1].join("||")).is_err());
    }
}
