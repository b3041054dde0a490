//! A topic's queues, broker by broker.
//!
//! **Owns** a small sorted table.
//! **Lives on** the control plane; pure.
//! **Invariants** one row a broker, sorted by the broker's name.
//! **Limits** one row a known broker. Most topics lie on a few: a tree's first node would be 456
//! bytes a topic, 6 MB with 12,500.
//! **Not here** which brokers are known (`routes`).

use super::routes::Queues;

/// See the room's head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PerBroker {
    rows: Vec<(Box<str>, Queues)>,
}

impl PerBroker {
    fn find(&self, broker: &str) -> Result<usize, usize> {
        self.rows.binary_search_by(|(name, _)| (**name).cmp(broker))
    }

    /// Whether a broker has queues.
    pub fn has(&self, broker: &str) -> bool {
        self.find(broker).is_ok()
    }

    /// A broker's queues.
    pub fn get_mut(&mut self, broker: &str) -> Option<&mut Queues> {
        let at = self.find(broker).ok()?;
        self.rows.get_mut(at).map(|(_, queues)| queues)
    }

    /// Sets a broker's queues.
    pub fn set(&mut self, broker: &str, queues: Queues) {
        match self.find(broker) {
            Ok(at) => {
                if let Some(row) = self.rows.get_mut(at) {
                    row.1 = queues;
                }
            }
            Err(at) => {
                self.rows.reserve_exact(1);
                self.rows.insert(at, (Box::from(broker), queues));
            }
        }
    }

    /// Forgets a broker.
    pub fn remove(&mut self, broker: &str) {
        if let Ok(at) = self.find(broker) {
            self.rows.remove(at);
        }
    }

    /// Forgets the brokers that are not wanted.
    pub fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.rows.retain(|(name, _)| wanted(name));
    }

    /// Whether no broker has queues.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Every broker's queues, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Queues)> {
        self.rows.iter().map(|(name, queues)| (&**name, queues))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_come_by_name_once_each() {
        let queues = |write| Queues {
            read: 4,
            write,
            perm: 6,
            sys_flag: 0,
        };
        let mut table = PerBroker::default();
        for (name, write) in [("b", 1), ("a", 2), ("c", 3), ("a", 4)] {
            table.set(name, queues(write));
        }
        let rows = |table: &PerBroker| -> Vec<(String, i32)> {
            let rows = table.iter();
            rows.map(|(name, queues)| (name.to_owned(), queues.write))
                .collect()
        };
        let expected = [("a", 4), ("b", 1), ("c", 3)].map(|(name, n)| (name.to_owned(), n));
        assert_eq!(rows(&table), expected);
        table.get_mut("b").unwrap().write = 9;
        table.remove("a");
        table.remove("never there");
        assert!(table.has("b") && !table.has("a"));
        table.retain(|name| name == "b");
        assert_eq!(rows(&table), [("b".to_owned(), 9)]);
        table.remove("b");
        assert!(table.is_empty());
    }
}
