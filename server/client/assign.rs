//! Dealing queues out to the members of a group.
//!
//! **Owns** the average allocation, as every RocketMQ client computes it for itself.
//! **Lives on** the client; pure.
//! **Invariants** all members that see the same two lists deal alike: each queue has one owner.
//! **Limits** none of its own.
//! **Not here** asking for the members (`receive`).

/// A queue to consume.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Queue {
    /// Its topic.
    pub topic: String,
    /// Its broker's name.
    pub broker: String,
    /// Its number.
    pub id: i32,
}

/// This client's queues of one topic (`AllocateMessageQueueAveragely`, 5.5.0): consecutive runs of
/// the sorted queues, the first members get one more when they can't be even.
pub fn average(mut queues: Vec<Queue>, mut members: Vec<String>, me: &str) -> Vec<Queue> {
    queues.sort();
    members.sort();
    members.dedup();
    let Some(index) = members.iter().position(|member| member == me) else {
        return Vec::new();
    };
    let (share, rest) = (queues.len() / members.len(), queues.len() % members.len());
    let start = index * share + index.min(rest);
    let count = share + usize::from(index < rest);
    queues.into_iter().skip(start).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(count: i32) -> Vec<Queue> {
        (0..count)
            .map(|id| Queue {
                topic: "T".into(),
                broker: "b".into(),
                id,
            })
            .collect()
    }

    fn ids(members: &[&str], me: &str, count: i32) -> Vec<i32> {
        let members = members.iter().map(|m| (*m).to_owned()).collect();
        average(queues(count), members, me)
            .into_iter()
            .map(|q| q.id)
            .collect()
    }

    #[test]
    fn as_java_deals() {
        assert_eq!(ids(&["a"], "a", 4), [0, 1, 2, 3]);
        assert_eq!(ids(&["b", "a"], "a", 5), [0, 1, 2]);
        assert_eq!(ids(&["b", "a"], "b", 5), [3, 4]);
        assert_eq!(ids(&["a", "b", "c"], "c", 2), [0; 0]);
    }

    #[test]
    fn whoever_is_no_member_yet_has_nothing() {
        assert!(ids(&["a"], "z", 4).is_empty());
        assert!(ids(&[], "z", 4).is_empty());
    }
}
