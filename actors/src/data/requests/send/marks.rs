//! What storing a message needs to know of its properties, found without a second pass.
//!
//! **Owns** the step from `SendProperties` (texts of the string as sent) to [`Marks`] (parts of
//! the string as stored).
//! **Lives on** the session's data core; pure.
//! **Invariants** a part covers exactly the value it names; where that can't be shown cheaply, the
//! stored string is searched.
//! **Limits** none of its own.
//! **Not here** the rewriting (`gantry_protocol::properties`).

use gantry_protocol::message::tags_code;
use gantry_protocol::properties::{self, SendProperties};

use crate::data::words::{Marks, Part};

/// The marks of a message whose properties were `sent` and are now `stored`.
pub fn of_rewritten(found: &SendProperties<'_>, sent: &str, stored: &[u8]) -> Marks {
    let part = |value: Option<&str>, name| {
        let value = value?;
        if found.is_kept {
            return part_in(value, sent);
        }
        let stored = std::str::from_utf8(stored).ok()?;
        kept_part(value, sent, stored).or_else(|| search(stored, name))
    };
    let unique_key = match &found.made_unique_key {
        Some(made) => made_part(made.as_str(), stored),
        None => part(found.unique_key, properties::name::UNIQ_KEY),
    };
    let keys = part(found.keys, properties::name::KEYS);
    Marks {
        unique_key,
        keys,
        tags_code: code_of(found),
        no_wait: found.no_wait,
    }
}

/// The marks of a batch element, whose properties stay as they are.
pub fn of_kept(found: &SendProperties<'_>, stored: &str) -> Marks {
    let part = |value: Option<&str>| kept_part(value?, stored, stored);
    Marks {
        unique_key: part(found.unique_key),
        keys: part(found.keys),
        tags_code: code_of(found),
        no_wait: found.no_wait,
    }
}

/// A made key is the last item of the string, except of a half, which says where it goes behind it.
fn made_part(made: &str, stored: &[u8]) -> Option<Part> {
    let at = stored.len().checked_sub(made.len() + 1)?;
    let last = Part::new(at, made.len());
    if last.of(stored) == made.as_bytes() {
        return Some(last);
    }
    search(
        std::str::from_utf8(stored).ok()?,
        properties::name::UNIQ_KEY,
    )
}

/// Hash of the tag, 0 without one.
pub fn code_of(found: &SendProperties<'_>) -> i64 {
    found.tags.map_or(0, tags_code)
}

/// Where `value`, a part of `sent`, lies in it.
fn part_in(value: &str, sent: &str) -> Option<Part> {
    let at = value.as_ptr().addr().checked_sub(sent.as_ptr().addr())?;
    Some(Part::new(at, value.len()))
}

/// Where `value`, a part of `sent`, lies in `stored`, if nothing before it was dropped.
fn kept_part(value: &str, sent: &str, stored: &str) -> Option<Part> {
    let part = part_in(value, sent)?;
    (part.of(stored.as_bytes()) == value.as_bytes()).then_some(part)
}

fn search(stored: &str, name: &str) -> Option<Part> {
    let value = properties::get(stored, name)?;
    kept_part(value, stored, stored)
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
    fn parts_hold_the_values_whether_items_were_dropped_or_not() {
        for sent in [
            "KEYS\u{1}a b\u{2}UNIQ_KEY\u{1}U\u{2}TAGS\u{1}TagA\u{2}",
            "POP_CK\u{1}x\u{2}KEYS\u{1}a b\u{2}UNIQ_KEY\u{1}U\u{2}TAGS\u{1}TagA",
            "e\u{1}\u{2}TAGS\u{1}TagA\u{2}UNIQ_KEY\u{1}U\u{2}KEYS\u{1}a b\u{2}",
        ] {
            let (stored, marks) = marks(sent);
            let value = |part: Option<Part>| part.unwrap().of(stored.as_bytes());
            assert_eq!(value(marks.keys), b"a b", "{sent}");
            assert_eq!(value(marks.unique_key), b"U", "{sent}");
            assert_eq!(marks.tags_code, 2_598_919);
        }
    }

    #[test]
    fn trap_47_a_made_key_is_found() {
        let (stored, marks) = marks("a\u{1}b\u{2}");
        let made = marks.unique_key.unwrap().of(stored.as_bytes());
        assert_eq!(made.len(), 32);
        assert_eq!(marks.keys, None);
    }
}
