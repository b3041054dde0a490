//! All topics or groups of a broker, page by page.
//!
//! **Owns** asking 21 and 201 until everything is there.
//! **Lives on** the command's runtime.
//! **Invariants** what is returned is of one version of the broker's table: a page of another one
//! begins anew. A broker that knows no pages answers whole, and that is taken.
//! **Limits** [`PAGE`] entries a call, [`BEGINNINGS_MAX`] versions.
//! **Not here** what is done with them.

use std::collections::BTreeMap;

use gantry_protocol::Command;
use gantry_protocol::body::{
    DataVersion, SubscriptionGroupConfig, SubscriptionGroupWrapper, TopicConfig, TopicConfigWrapper,
};
use gantry_protocol::code::request;
use gantry_protocol::fastjson::{IntegerKeys, to_bytes};

use super::Session;

/// Entries of a page: with the longest names a fifth of a frame.
const PAGE: usize = 5_000;
/// How often a table may change while it is read: each change begins anew.
const BEGINNINGS_MAX: usize = 16;

/// The words of one of the two codes.
struct Kind<T> {
    code: i32,
    first: &'static str,
    max: &'static str,
    total: &'static str,
    read: fn(&[u8]) -> Result<Page<T>, String>,
}

/// The version of the whole table, and some of its entries.
type Page<T> = (DataVersion, BTreeMap<String, T>);

/// Every topic.
///
/// # Errors
/// The broker can't be reached, or refuses.
pub async fn topics(
    session: &mut Session,
    address: &str,
) -> Result<BTreeMap<String, TopicConfig>, String> {
    let kind = Kind {
        code: request::GET_ALL_TOPIC_CONFIG,
        first: "topicSeq",
        max: "maxTopicNum",
        total: "totalTopicNum",
        read: |body| {
            let page = TopicConfigWrapper::parse(body).map_err(|error| error.to_string())?;
            Ok((page.data_version, page.topics))
        },
    };
    all(session, address, &kind).await
}

/// Every group.
///
/// # Errors
/// The broker can't be reached, or refuses.
pub async fn groups(
    session: &mut Session,
    address: &str,
) -> Result<BTreeMap<String, SubscriptionGroupConfig>, String> {
    let kind = Kind {
        code: request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG,
        first: "groupSeq",
        max: "maxGroupNum",
        total: "totalGroupNum",
        read: |body| {
            let page = SubscriptionGroupWrapper::parse(body).map_err(|error| error.to_string())?;
            Ok((page.data_version, page.groups))
        },
    };
    all(session, address, &kind).await
}

async fn all<T>(
    session: &mut Session,
    address: &str,
    kind: &Kind<T>,
) -> Result<BTreeMap<String, T>, String> {
    let mut gathered = Gathered::default();
    for _ in 0..BEGINNINGS_MAX {
        loop {
            let from = gathered.found.len();
            let reply = ask(session, address, kind, from, gathered.version).await?;
            let (version, page) = (kind.read)(&reply.body)?;
            let total = reply.ext(kind.total).and_then(|text| text.parse().ok());
            match gathered.add(from, version, page, total) {
                Step::On => {}
                Step::Done => return Ok(gathered.found),
                Step::Anew => break,
            }
        }
    }
    Err(format!(
        "{address}: its table changes faster than it can be read; try again"
    ))
}

async fn ask<T>(
    session: &mut Session,
    address: &str,
    kind: &Kind<T>,
    from: usize,
    version: Option<DataVersion>,
) -> Result<Command, String> {
    let version = version.map(|version| to_bytes(&version.to_value(), IntegerKeys::Quoted));
    let version = version.map(|json| String::from_utf8_lossy(&json).into_owned());
    let (from, max) = (from.to_string(), PAGE.to_string());
    let mut ext = vec![
        (kind.first, from.as_str().into()),
        (kind.max, max.as_str().into()),
    ];
    ext.extend(version.as_deref().map(|json| ("dataVersion", json.into())));
    session.call(address, kind.code, ext).await
}

/// What pages have brought so far.
struct Gathered<T> {
    found: BTreeMap<String, T>,
    version: Option<DataVersion>,
}

impl<T> Default for Gathered<T> {
    fn default() -> Self {
        Self {
            found: BTreeMap::new(),
            version: None,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    On,
    Done,
    Anew,
}

impl<T> Gathered<T> {
    /// Adds the page from `from` on of a table of `total`, which only brokers with pages tell.
    fn add(
        &mut self,
        from: usize,
        version: DataVersion,
        page: BTreeMap<String, T>,
        total: Option<usize>,
    ) -> Step {
        if total.is_some() && from > 0 && self.version != Some(version) {
            // Positions have moved, and this page may be the first of the new version.
            *self = Self::default();
            return Step::Anew;
        }
        self.version = Some(version);
        let is_last = page.is_empty();
        self.found.extend(page);
        let is_all = total.is_none_or(|total| self.found.len() >= total);
        // A page that brings nothing new would be asked for again and again.
        if is_all || is_last || self.found.len() == from {
            Step::Done
        } else {
            Step::On
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(names: &[&str]) -> BTreeMap<String, u8> {
        names.iter().map(|name| ((*name).to_owned(), 0)).collect()
    }

    fn version(counter: i64) -> DataVersion {
        DataVersion {
            counter,
            ..DataVersion::default()
        }
    }

    #[test]
    fn pages_add_up_until_all_are_there() {
        let mut all = Gathered::default();
        assert_eq!(all.add(0, version(1), page(&["a", "b"]), Some(3)), Step::On);
        assert_eq!(all.add(2, version(1), page(&["c"]), Some(3)), Step::Done);
        assert_eq!(all.found.len(), 3);
    }

    #[test]
    fn a_broker_without_pages_answers_whole() {
        let mut all = Gathered::default();
        assert_eq!(all.add(0, version(1), page(&["a", "b"]), None), Step::Done);
        assert_eq!(all.found.len(), 2);
    }

    #[test]
    fn another_version_begins_anew_and_a_page_without_news_ends() {
        let mut all = Gathered::default();
        assert_eq!(all.add(0, version(1), page(&["a"]), Some(3)), Step::On);
        assert_eq!(all.add(1, version(2), page(&["a"]), Some(3)), Step::Anew);
        assert!(all.found.is_empty() && all.version.is_none());
        assert_eq!(all.add(0, version(2), page(&["a"]), Some(3)), Step::On);
        assert_eq!(all.add(1, version(2), page(&["a"]), Some(3)), Step::Done);
    }
}
