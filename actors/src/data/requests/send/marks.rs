//! What storing a message needs to know of its properties, found without a second pass.
//!
//! **Owns** the step from `SendProperties` (texts of the string as sent) to [`Marks`] (ranges of
//! the string as stored).
//! **Lives on** the session's data core; pure.
//! **Invariants** a range covers exactly the value it names; where that can't be shown cheaply, the
//! stored string is searched.
//! **Limits** none of its own.
//! **Not here** the rewriting (`gantry_protocol::properties`).

use std::ops::Range;

use gantry_protocol::message::tags_code;
use gantry_protocol::properties::{self, SendProperties};

use crate::data::words::Marks;

/// The marks of a message whose properties were `sent` and are now `stored`.
pub fn of_rewritten(found: &SendProperties<'_>, sent: &str, stored: &[u8]) -> Marks {
    let range = |value: Option<&str>, name| {
        let value = value?;
        if found.is_kept {
            return range_in(value, sent);
        }
        let stored = std::str::from_utf8(stored).ok()?;
        kept_range(value, sent, stored).or_else(|| search(stored, name))
    };
    let unique_key = match &found.made_unique_key {
        // A made key is the last item of the string.
        Some(made) => {
            let end = stored.len().saturating_sub(1);
            end.checked_sub(made.as_str().len()).map(|start| start..end)
        }
        None => range(found.unique_key, properties::name::UNIQ_KEY),
    };
    let keys = range(found.keys, properties::name::KEYS);
    Marks {
        unique_key,
        keys,
        tags_code: code_of(found),
        no_wait: found.no_wait,
    }
}

/// The marks of a batch element, whose properties stay as they are.
pub fn of_kept(found: &SendProperties<'_>, stored: &str) -> Marks {
    let range = |value: Option<&str>| kept_range(value?, stored, stored);
    Marks {
        unique_key: range(found.unique_key),
        keys: range(found.keys),
        tags_code: code_of(found),
        no_wait: found.no_wait,
    }
}

/// Hash of the tag, 0 without one.
pub fn code_of(found: &SendProperties<'_>) -> i64 {
    found.tags.map_or(0, tags_code)
}

/// Where `value`, a part of `sent`, lies in it.
fn range_in(value: &str, sent: &str) -> Option<Range<usize>> {
    let start = value.as_ptr().addr().checked_sub(sent.as_ptr().addr())?;
    Some(start..start + value.len())
}

/// Where `value`, a part of `sent`, lies in `stored`, if nothing before it was dropped.
fn kept_range(value: &str, sent: &str, stored: &str) -> Option<Range<usize>> {
    let range = range_in(value, sent)?;
    (stored.get(range.clone()) == Some(value)).then_some(range)
}

fn search(stored: &str, name: &str) -> Option<Range<usize>> {
    let value = properties::get(stored, name)?;
    kept_range(value, stored, stored)
}

#[cfg(test)]
mod tests {
    use gantry_protocol::message_id::UniqueIdMaker;
    use gantry_protocol::properties::{BrokerProperties, rewrite_for_send};

    use super::*;

    fn marks(sent: &str) -> (String, Marks) {
        let broker = BrokerProperties::new("r", true, "c");
        let mut maker = UniqueIdMaker::new("10.0.0.1".parse().unwrap(), 1, 2);
        let mut stored = Vec::new();
        let found = rewrite_for_send(sent, &broker, || maker.next(3), &mut stored);
        let marks = of_rewritten(&found, sent, &stored);
        (String::from_utf8(stored).unwrap(), marks)
    }

    #[test]
    fn ranges_hold_the_values_whether_items_were_dropped_or_not() {
        for sent in [
            "KEYS\u{1}a b\u{2}UNIQ_KEY\u{1}U\u{2}TAGS\u{1}TagA\u{2}",
            "POP_CK\u{1}x\u{2}KEYS\u{1}a b\u{2}UNIQ_KEY\u{1}U\u{2}TAGS\u{1}TagA",
            "e\u{1}\u{2}TAGS\u{1}TagA\u{2}UNIQ_KEY\u{1}U\u{2}KEYS\u{1}a b\u{2}",
        ] {
            let (stored, marks) = marks(sent);
            assert_eq!(&stored[marks.keys.unwrap()], "a b", "{sent}");
            assert_eq!(&stored[marks.unique_key.unwrap()], "U", "{sent}");
            assert_eq!(marks.tags_code, 2_598_919);
        }
    }

    #[test]
    fn trap_47_a_made_key_is_found() {
        let (stored, marks) = marks("a\u{1}b\u{2}");
        assert_eq!(stored[marks.unique_key.unwrap()].len(), 32);
        assert_eq!(marks.keys, None);
    }
}
