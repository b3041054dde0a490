//! What a subscription filters by.
//!
//! **Owns** the choice between tags and SQL92, and what is neither.
//! **Lives on** the data cores.
//! **Invariants** tags are hashed from the expression: not every client sends usable codes (traps
//! 24, 98, 100). What can't be used is refused when a pull comes, not dropped.
//! **Limits** those of `gantry_protocol::subscription` and of `crate::sql92`.
//! **Not here** the matching of hashes (`gantry_protocol::subscription::TagFilter`), of properties
//! (`crate::sql92`).

use std::sync::Arc;

use gantry_protocol::body::SubscriptionData;
use gantry_protocol::subscription::{TYPE_SQL92, TagFilter, is_tag_type};
use gantry_storage::shard_store::RecordFilter;

use super::expressions::Expressions;
use crate::refusal::quoted;
use crate::sql92::Expression;

/// What a pull is served by.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// Records with these tag hashes; the client compares the tags.
    Tags(TagFilter),
    /// Records of which this holds.
    Sql(Arc<Expression>),
}

impl RecordFilter for Wanted {
    fn wants_code(&self, tags_code: i64) -> bool {
        match self {
            Self::Tags(tags) => tags.matches(tags_code),
            Self::Sql(_) => true,
        }
    }

    fn wants_record(&self, record: &[u8]) -> bool {
        match self {
            Self::Tags(_) => true,
            Self::Sql(expression) => expression.matches_record(record),
        }
    }

    fn scan_bytes_max(&self) -> Option<u64> {
        match self {
            Self::Tags(_) => None,
            Self::Sql(expression) => Some(expression.scan_bytes_max()),
        }
    }
}

/// What a subscription filters by.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// By this.
    Wanted(Wanted),
    /// By something that can't be used: why. `by_tag`: whatever `enablePropertyFilter` says.
    Refused {
        /// A tag expression, or none at all.
        by_tag: bool,
        /// Why.
        why: Arc<str>,
    },
}

impl Filter {
    /// The filter of a live subscription.
    pub fn of_subscription(data: &SubscriptionData, known: &mut Expressions) -> Self {
        if data.class_filter {
            let why = "class filters are not supported".into();
            return Self::Refused { by_tag: true, why };
        }
        if is_tag_type(Some(&data.expression_type)) {
            return Self::Wanted(Wanted::Tags(data.filter.clone()));
        }
        Self::of_expression(Some(&data.expression_type), &data.sub_string, known)
    }

    /// The filter of an expression in a request; no type, or an empty one, means TAG.
    pub fn of_expression(kind: Option<&str>, expression: &str, known: &mut Expressions) -> Self {
        let by_tag = is_tag_type(kind);
        let refused = |why: &str| {
            let why = why.into();
            Self::Refused { by_tag, why }
        };
        if by_tag {
            let parsed = TagFilter::parse(expression);
            let usable = |tags| Self::Wanted(Wanted::Tags(tags));
            return parsed.map_or_else(|error| refused(&error.to_string()), usable);
        }
        let kind = kind.unwrap_or_default();
        if kind != TYPE_SQL92 {
            return refused(&format!("nothing filters by {}", quoted(kind)));
        }
        match known.compiled(expression) {
            Ok(expression) => Self::Wanted(Wanted::Sql(expression)),
            Err(why) => Self::Refused { by_tag, why },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap_66_what_cannot_be_used_is_told_apart() {
        let mut known = Expressions::default();
        let mut of = |kind, text| Filter::of_expression(kind, text, &mut known);
        let is_refused = |filter: &Filter, wanted: bool| match filter {
            Filter::Refused { by_tag, .. } => *by_tag == wanted,
            Filter::Wanted(_) => false,
        };
        assert!(is_refused(&of(Some("SQL92"), "a > > 3"), false));
        assert!(is_refused(&of(Some("BINARY"), "a > 3"), false));
        assert!(is_refused(&of(None, "||"), true));
        let all = Wanted::Tags(TagFilter::All);
        assert_eq!(of(Some(""), "*"), Filter::Wanted(all));
        let sql = of(Some("SQL92"), "a > 1");
        assert!(matches!(sql, Filter::Wanted(Wanted::Sql(_))));
        let mut classes = SubscriptionData::tag("T", "some.Class", 1);
        classes.class_filter = true;
        let filter = Filter::of_subscription(&classes, &mut known);
        assert!(is_refused(&filter, true));
    }
}
