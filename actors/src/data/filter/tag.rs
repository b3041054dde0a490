//! What a subscription filters by.
//!
//! **Owns** the choice between what this broker filters by and what it doesn't yet.
//! **Lives on** the data cores.
//! **Invariants** tags are hashed from the expression: not every client sends usable codes (traps
//! 24, 98, 100). What can't be used is refused when a pull comes, not dropped.
//! **Limits** those of `gantry_protocol::subscription`.
//! **Not here** the matching of hashes (`gantry_protocol::subscription::TagFilter`), SQL92 (not
//! built yet).

use gantry_protocol::body::SubscriptionData;
use gantry_protocol::subscription::{TagFilter, is_tag_type};

use crate::refusal::quoted;

/// What a subscription filters by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// By tag hash.
    Tag(TagFilter),
    /// By something this broker doesn't do yet: the name of the expression type.
    Unsupported(String),
    /// By an expression that can't be parsed: why.
    Invalid(String),
}

impl Filter {
    /// The filter of a live subscription.
    pub fn of_subscription(data: &SubscriptionData) -> Self {
        if data.class_filter {
            return Self::Unsupported("class filter".to_owned());
        }
        if is_tag_type(Some(&data.expression_type)) {
            return Self::Tag(data.filter.clone());
        }
        Self::of_expression(Some(&data.expression_type), &data.sub_string)
    }

    /// The filter of an expression in a request; no type, or an empty one, means TAG.
    pub fn of_expression(kind: Option<&str>, expression: &str) -> Self {
        if !is_tag_type(kind) {
            return Self::Unsupported(quoted(kind.unwrap_or_default()));
        }
        match TagFilter::parse(expression) {
            Ok(filter) => Self::Tag(filter),
            Err(error) => Self::Invalid(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap_66_what_cannot_be_used_is_told_apart() {
        let sql = Filter::of_expression(Some("SQL92"), "a > 1");
        assert_eq!(sql, Filter::Unsupported("SQL92".to_owned()));
        assert!(matches!(
            Filter::of_expression(None, "||"),
            Filter::Invalid(_)
        ));
        assert_eq!(
            Filter::of_expression(Some(""), "*"),
            Filter::Tag(TagFilter::All)
        );
    }
}
