//! Compiled SQL92 expressions of one core.
//!
//! **Owns** what was compiled, or why not, by the expression's text: pulls that carry their own
//! subscription, and every change of a group's members, name the same few again and again.
//! **Lives on** each data core.
//! **Invariants** forgetting costs a compilation, nothing else: who uses an expression holds it.
//! **Limits** [`TEXT_BYTES_MAX`] bytes of text, then all are forgotten.
//! **Not here** the language (`crate::sql92`).

use std::sync::Arc;

use hashbrown::HashMap;

use crate::sql92::Expression;

/// Bytes of expressions that are remembered: some thousands of usual ones, and at most some tens of
/// megabytes when compiled.
pub const TEXT_BYTES_MAX: usize = 512 * 1024;
/// What an entry counts beyond its text, so that many short ones are bounded as well.
const ENTRY_BYTES: usize = 64;

type Compiled = Result<Arc<Expression>, Arc<str>>;

/// What this core has compiled.
#[derive(Debug, Default)]
pub struct Expressions {
    known: HashMap<Box<str>, Compiled>,
    text_bytes: usize,
}

impl Expressions {
    /// The expression of this text.
    ///
    /// # Errors
    /// Why it is none.
    pub fn compiled(&mut self, text: &str) -> Compiled {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        let compiled = Expression::parse(text)
            .map(Arc::new)
            .map_err(|error| error.to_string().into());
        let bytes = text.len().saturating_add(ENTRY_BYTES);
        if bytes > TEXT_BYTES_MAX {
            return compiled;
        }
        if self.text_bytes + bytes > TEXT_BYTES_MAX {
            self.known.clear();
            self.text_bytes = 0;
        }
        self.text_bytes += bytes;
        self.known.insert(text.into(), compiled.clone());
        compiled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_compiled_once_and_the_table_is_bounded() {
        let mut known = Expressions::default();
        let first = known.compiled("a > 1").unwrap();
        assert!(Arc::ptr_eq(&first, &known.compiled("a > 1").unwrap()));
        assert!(known.compiled("a >").is_err());
        for number in 0..50_000 {
            known.compiled(&format!("a > {number}")).unwrap();
            assert!(known.text_bytes <= TEXT_BYTES_MAX);
        }
        assert!(known.known.len() < 10_000, "{}", known.known.len());
        let long = format!("a = '{}'", "x".repeat(TEXT_BYTES_MAX));
        assert!(known.compiled(&long).is_err());
        assert!(known.text_bytes <= TEXT_BYTES_MAX);
    }
}
