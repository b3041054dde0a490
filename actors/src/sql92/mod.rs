//! SQL92 filters: an expression over the properties of a message.
//!
//! **Owns** the language as RocketMQ 5.5.0 has it: what is an expression (`parser`), and what it
//! says of a message (`values`).
//! **Lives on** the control plane (is it one? code 46) and the data cores (pulls); pure.
//! **Invariants** text that is no expression is told why and never filters anything; an evaluation
//! allocates nothing for up to [`SLOTS_INLINE`] properties, and ends in "not wanted" whenever types
//! don't fit.
//! **Limits** [`EXPRESSION_BYTES_MAX`], [`DEPTH_MAX`], [`PROPERTIES_MAX`]; what one pull may look
//! at is [`Expression::scan_bytes_max`].
//! **Not here** which expression counts for a pull (`data::requests::pulls`), tags.

mod lexer;
mod parser;
mod values;

use gantry_protocol::message::RecordView;
use gantry_protocol::properties;
use smallvec::SmallVec;

use self::values::{Slots, Value};

/// Longest expression. Lists of some hundred words fit; a compiled one takes a few times as much
/// memory on every core.
pub const EXPRESSION_BYTES_MAX: usize = 16 * 1024;
/// Deepest nesting, of parentheses and of what they hold: it is recursion on a core's stack.
pub const DEPTH_MAX: u32 = 64;
/// Most different properties of one expression.
pub const PROPERTIES_MAX: usize = 64;
/// Properties whose values are gathered without an allocation.
pub const SLOTS_INLINE: usize = 8;
/// Bytes of records that a pull looks at for an expression of few comparisons. Copying and looking
/// at as much takes about a millisecond, a core's slice of time.
pub const SCAN_BYTES_MAX: u64 = 1024 * 1024;
/// Comparisons that count as few.
const COMPARISONS_FEW: u64 = 8;

/// Why a text is no expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an SQL92 expression, at byte {at}: {why}")]
pub struct SyntaxError {
    /// Where, from the expression's beginning.
    pub at: usize,
    /// What is wrong there.
    pub why: String,
}

/// A compiled expression.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    root: values::Node,
    /// Name and slot of each property, by name.
    names: Vec<(Box<str>, usize)>,
    comparisons: u64,
}

impl Expression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// It is none, or exceeds a limit of this room.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        if text.len() > EXPRESSION_BYTES_MAX {
            let why = format!("it has more than {EXPRESSION_BYTES_MAX} bytes");
            let at = EXPRESSION_BYTES_MAX;
            return Err(SyntaxError { at, why });
        }
        let parsed = parser::parse(text)?;
        let slots = parsed.names.into_iter().enumerate();
        let mut names: Vec<_> = slots.map(|(slot, name)| (name, slot)).collect();
        names.sort_unstable();
        Ok(Self {
            root: parsed.root,
            names,
            comparisons: parsed.comparisons,
        })
    }

    /// Whether a message with this property string is wanted.
    pub fn matches(&self, properties: &str) -> bool {
        let mut slots: Slots<'_> = SmallVec::from_elem(None, self.names.len());
        // Of duplicates the last one counts, as in Java's map.
        for (name, value) in properties::items(properties) {
            let found = self.names.binary_search_by(|(own, _)| (**own).cmp(name));
            let slot = found.ok().and_then(|at| self.names.get(at));
            if let Some(slot) = slot.and_then(|(_, slot)| slots.get_mut(*slot)) {
                *slot = Some(value);
            }
        }
        matches!(self.root.value(&slots), Ok(Value::Bool(true)))
    }

    /// Whether this stored record is wanted; bytes that are no record are not.
    pub fn matches_record(&self, record: &[u8]) -> bool {
        RecordView::parse(record).is_ok_and(|record| self.matches(record.properties))
    }

    /// Bytes of records that one pull may look at: the more comparisons, the fewer, so that a pull
    /// takes about as long whatever it asks for.
    pub fn scan_bytes_max(&self) -> u64 {
        SCAN_BYTES_MAX / self.comparisons.div_ceil(COMPARISONS_FEW).max(1)
    }
}

#[cfg(test)]
mod tests;
