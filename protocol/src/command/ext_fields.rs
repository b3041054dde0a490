//! The ext fields of a header as it lies in the read buffer.
//!
//! **Owns** the list of names and values, in the order they were sent.
//! **Lives on** the session's core, for the time one request is dispatched.
//! **Invariants** what lies in the header as it is meant is borrowed; what had to be made (a text
//! with escapes, a text that isn't UTF-8) is kept beside the list, in the place of its field.
//! **Limits** [`EXT_INLINE`] fields and one that was made without an allocation; whoever fills it
//! counts them.
//! **Not here** the grammar (`json`, `binary`), what the fields mean (`request`).

use std::borrow::Cow;

use smallvec::SmallVec;

/// Fields kept without an allocation: a 310 send has 13 to 15, plus namespace fields.
const EXT_INLINE: usize = 20;

/// Names and values in the order they were sent.
///
/// Each send fills one: two texts are four words, written where they stay. A pair of `Cow`s was put
/// together elsewhere and copied, which took a fifth of the decoding.
#[derive(Debug, Clone)]
pub struct ExtFields<'a> {
    first: [(&'a str, &'a str); EXT_INLINE],
    more: Vec<(&'a str, &'a str)>,
    count: usize,
    /// By place.
    made: SmallVec<[Made<'a>; 1]>,
}

/// A field that isn't in the header as it is meant.
#[derive(Debug, Clone)]
struct Made<'a> {
    at: usize,
    name: Cow<'a, str>,
    value: Cow<'a, str>,
}

impl<'a> ExtFields<'a> {
    /// No fields.
    #[inline]
    pub fn new() -> Self {
        Self {
            first: [("", ""); EXT_INLINE],
            more: Vec::new(),
            count: 0,
            made: SmallVec::new(),
        }
    }

    /// Adds a field that lies in the header.
    #[inline]
    pub fn push(&mut self, name: &'a str, value: &'a str) {
        match self.first.get_mut(self.count) {
            Some(slot) => *slot = (name, value),
            None => self.more.push((name, value)),
        }
        self.count += 1;
    }

    /// Adds a field, some of which may have been made.
    pub fn push_made(&mut self, name: Cow<'a, str>, value: Cow<'a, str>) {
        if let (Cow::Borrowed(name), Cow::Borrowed(value)) = (&name, &value) {
            return self.push(name, value);
        }
        let at = self.count;
        self.made.push(Made { at, name, value });
        self.push("", "");
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Names and values.
    #[inline]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &str)> {
        (0..self.count).map(|at| self.get(at))
    }

    /// Calls `told` with each name and value.
    #[inline]
    pub fn each<'s>(&'s self, mut told: impl FnMut(&'s str, &'s str)) {
        if self.made.is_empty() {
            for (name, value) in self.first.iter().take(self.count).chain(&self.more) {
                told(name, value);
            }
        } else {
            for (name, value) in self.iter() {
                told(name, value);
            }
        }
    }

    #[inline]
    fn get(&self, at: usize) -> (&str, &str) {
        if let Ok(nth) = self.made.binary_search_by_key(&at, |made| made.at)
            && let Some(made) = self.made.get(nth)
        {
            return (&made.name, &made.value);
        }
        let borrowed = match self.first.get(at) {
            None => self.more.get(at.saturating_sub(EXT_INLINE)),
            found => found,
        };
        borrowed.copied().unwrap_or_default()
    }
}

impl Default for ExtFields<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for ExtFields<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ExtFields<'_> {}

impl<'a> FromIterator<(&'a str, &'a str)> for ExtFields<'a> {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(fields: T) -> Self {
        let mut all = Self::new();
        for (name, value) in fields {
            all.push(name, value);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order_whether_borrowed_or_made_inline_or_not() {
        let names: Vec<String> = (0..2 * EXT_INLINE).map(|n| n.to_string()).collect();
        let (mut mixed, mut borrowed) = (ExtFields::new(), ExtFields::new());
        for (n, name) in names.iter().enumerate() {
            borrowed.push(name, "v");
            if n % 7 == 3 {
                mixed.push_made(Cow::Borrowed(name), Cow::Owned("v".to_owned()));
            } else {
                mixed.push_made(Cow::Borrowed(name), Cow::Borrowed("v"));
            }
        }
        assert_eq!(mixed.made.len(), 6);
        assert_eq!(mixed, borrowed);
        for fields in [&mixed, &borrowed] {
            let mut each = Vec::new();
            fields.each(|name, value| each.push((name, value)));
            assert!(fields.iter().eq(each));
        }
        let there: Vec<&str> = mixed.iter().map(|(name, _)| name).collect();
        assert_eq!(there, names);
        let back: Vec<&str> = mixed.iter().rev().map(|(name, _)| name).collect();
        assert!(back.iter().rev().eq(names.iter()));
    }
}
