//! The command line of `gantry admin`'s operator commands.
//!
//! **Owns** names, options and help of `admin topic|group|offset|broker|cluster|message|
//! connection|stats`.
//! **Lives on** the main thread.
//! **Invariants** every command takes the options of [`At`]; what destroys takes `--dry-run`.
//! **Limits** none of its own.
//! **Not here** what the commands do (`crate::admin`, a file a noun).

use clap::{Args, Subcommand};

use super::{Where, key_value};

/// Where an operator command works, and how it prints.
#[derive(Debug, Clone, Args)]
pub struct At {
    /// Name servers.
    #[command(flatten)]
    pub name_servers: Where,
    /// Only this cluster.
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Only this broker, by name or address.
    #[arg(long, value_name = "NAME|HOST:PORT")]
    pub broker: Option<String>,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// The commands of `admin topic`.
#[derive(Debug, Subcommand)]
pub enum AdminTopic {
    /// List topics with their queues and permissions.
    List {
        /// Also those of the system, retry and dead-letter topics.
        #[arg(long)]
        all: bool,
        /// Where.
        #[command(flatten)]
        at: At,
    },
    /// Show a topic: route, configuration, queues with their offsets, groups that consume it.
    Show {
        /// The topic.
        topic: String,
        /// Where.
        #[command(flatten)]
        at: At,
    },
    /// Create a topic, or change it.
    Create(TopicCreate),
    /// Delete a topic with its messages.
    Delete {
        /// The topic.
        topic: String,
        /// Only say what would be deleted.
        #[arg(long)]
        dry_run: bool,
        /// Where.
        #[command(flatten)]
        at: At,
    },
}

/// Options of `admin topic create`.
#[derive(Debug, Args)]
pub struct TopicCreate {
    /// The topic.
    pub topic: String,
    /// Queues to write to and to read from.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub queues: i32,
    /// What clients may do: r, w or rw.
    #[arg(long, value_name = "r|w|rw", default_value = "rw", value_parser = perm)]
    pub perm: i32,
    /// Its messages are ordered by whoever sends them.
    #[arg(long)]
    pub order: bool,
    /// An attribute, like message.type=DELAY; may be repeated.
    #[arg(long = "attribute", value_name = "K=V", value_parser = key_value)]
    pub attributes: Vec<(String, String)>,
    /// Where.
    #[command(flatten)]
    pub at: At,
}

/// The commands of `admin group`.
#[derive(Debug, Subcommand)]
pub enum AdminGroup {
    /// List consumer groups.
    List {
        /// Also those of the system.
        #[arg(long)]
        all: bool,
        /// Where.
        #[command(flatten)]
        at: At,
    },
    /// Show a group: configuration, members, subscriptions, lag by queue.
    Show {
        /// The group.
        group: String,
        /// Where.
        #[command(flatten)]
        at: At,
    },
    /// Create a group, or change it.
    Create(GroupCreate),
    /// Delete a group and its offsets.
    Delete {
        /// The group.
        group: String,
        /// Leave its offsets.
        #[arg(long)]
        keep_offsets: bool,
        /// Only say what would be deleted.
        #[arg(long)]
        dry_run: bool,
        /// Where.
        #[command(flatten)]
        at: At,
    },
}

/// Options of `admin group create`.
#[derive(Debug, Args)]
pub struct GroupCreate {
    /// The group.
    pub group: String,
    /// Redeliveries before a message goes to the dead letters.
    #[arg(long, value_name = "N")]
    pub retry_max: Option<i32>,
    /// Queues of its retry topic.
    #[arg(long, value_name = "N")]
    pub retry_queues: Option<i32>,
    /// Whether it may consume.
    #[arg(long, value_name = "true|false", action = clap::ArgAction::Set)]
    pub consume: Option<bool>,
    /// Whether it may broadcast.
    #[arg(long, value_name = "true|false", action = clap::ArgAction::Set)]
    pub broadcast: Option<bool>,
    /// Whether it consumes in order.
    #[arg(long, value_name = "true|false", action = clap::ArgAction::Set)]
    pub orderly: Option<bool>,
    /// Where.
    #[command(flatten)]
    pub at: At,
}

/// The commands of `admin offset`.
#[derive(Debug, Subcommand)]
pub enum AdminOffset {
    /// Show where a group is in every queue, and how far behind.
    Show {
        /// The group.
        #[arg(long, short = 'g')]
        group: String,
        /// Only this topic.
        #[arg(long, short = 't')]
        topic: Option<String>,
        /// Where.
        #[command(flatten)]
        at: At,
    },
    /// Move a group to another place in a topic.
    Reset(OffsetReset),
}

/// Options of `admin offset reset`.
#[derive(Debug, Args)]
pub struct OffsetReset {
    /// The group.
    #[arg(long, short = 'g')]
    pub group: String,
    /// The topic.
    #[arg(long, short = 't')]
    pub topic: String,
    /// first, last, a time as 2026-01-31T12:00:00 (UTC) or as ms since 1970 (13 digits), or an
    /// offset (up to 12 digits).
    #[arg(long, value_name = "first|last|TIME|OFFSET")]
    pub to: String,
    /// Only this queue.
    #[arg(long, value_name = "N")]
    pub queue: Option<i32>,
    /// Only show where each queue would go.
    #[arg(long)]
    pub dry_run: bool,
    /// Where.
    #[command(flatten)]
    pub at: At,
}

/// The commands of `admin broker`.
#[derive(Debug, Subcommand)]
pub enum AdminBroker {
    /// List brokers with their version and rates.
    List {
        /// Where.
        #[command(flatten)]
        at: At,
    },
    /// Show what a broker says of itself.
    Show {
        /// Where.
        #[command(flatten)]
        at: At,
    },
    /// Read or change a broker's settings.
    #[command(subcommand)]
    Config(BrokerConfig),
}

/// The commands of `admin broker config`.
#[derive(Debug, Subcommand)]
pub enum BrokerConfig {
    /// Show settings.
    Get {
        /// Only keys that contain this.
        key: Option<String>,
        /// Where.
        #[command(flatten)]
        at: At,
    },
    /// Change settings.
    Set {
        /// What to change.
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = key_value)]
        settings: Vec<(String, String)>,
        /// Only show the present values beside the wanted ones.
        #[arg(long)]
        dry_run: bool,
        /// Where.
        #[command(flatten)]
        at: At,
    },
}

/// The commands of `admin cluster`.
#[derive(Debug, Subcommand)]
pub enum AdminCluster {
    /// List clusters with their brokers.
    List {
        /// Where.
        #[command(flatten)]
        at: At,
    },
}

/// The commands of `admin message`.
#[derive(Debug, Subcommand)]
pub enum AdminMessage {
    /// Show one message.
    Show {
        /// Its offset id, as a send's answer names it (msgId, `offsetMsgId`).
        #[arg(long)]
        id: String,
        /// Where.
        #[command(flatten)]
        at: At,
    },
    /// Find messages by key.
    Query(MessageQuery),
}

/// Options of `admin message query`.
#[derive(Debug, Args)]
pub struct MessageQuery {
    /// The topic.
    #[arg(long, short = 't')]
    pub topic: String,
    /// A word of its KEYS.
    #[arg(long, required_unless_present = "unique_key")]
    pub key: Option<String>,
    /// Its unique key (`UNIQ_KEY`, the client's msgId).
    #[arg(long, conflicts_with = "key")]
    pub unique_key: Option<String>,
    /// Most messages of a broker.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub max: i32,
    /// Where.
    #[command(flatten)]
    pub at: At,
}

/// The commands of `admin connection`.
#[derive(Debug, Subcommand)]
pub enum AdminConnection {
    /// List the connected producers, or those of a group.
    List {
        /// The members of this consumer group.
        #[arg(long, short = 'g', conflicts_with = "producer_group")]
        group: Option<String>,
        /// The members of this producer group.
        #[arg(long)]
        producer_group: Option<String>,
        /// Where.
        #[command(flatten)]
        at: At,
    },
}

/// The commands of `admin stats`.
#[derive(Debug, Subcommand)]
pub enum AdminStats {
    /// Show messages and bytes of the last minute, hour and day.
    Show {
        /// Of this topic; else of each broker.
        #[arg(long, short = 't')]
        topic: Option<String>,
        /// Delivered to this group (with --topic).
        #[arg(long, short = 'g', requires = "topic")]
        group: Option<String>,
        /// Where.
        #[command(flatten)]
        at: At,
    },
}

fn perm(text: &str) -> Result<i32, String> {
    match text {
        "r" => Ok(4),
        "w" => Ok(2),
        "rw" | "wr" => Ok(6),
        _ => Err("it takes r, w or rw".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::Cli;

    #[test]
    fn lines_of_the_manual() {
        for line in [
            "topic list --all --json -n a:1",
            "topic create T --queues 4 --perm r --cluster C --attribute message.type=DELAY",
            "topic delete T --dry-run --broker b",
            "group create g --retry-max 3 --broadcast false",
            "group delete g --keep-offsets --dry-run",
            "offset show -g g -t T",
            "offset reset -g g -t T --to 2026-01-31T12:00:00 --queue 1 --dry-run",
            "broker config get maxMessageSize",
            "broker config set a=b c=d",
            "message query -t T --unique-key U",
            "connection list --producer-group p",
            "stats show -t T -g g",
        ] {
            let words = ["gantry", "admin"].into_iter().chain(line.split(' '));
            let parsed = Cli::try_parse_from(words);
            assert!(parsed.is_ok(), "{line}: {:?}", parsed.err());
        }
        for line in [
            "topic create T --perm x",
            "message query -t T",
            "offset reset -g g -t T",
            "stats show -g g",
        ] {
            let words = ["gantry", "admin"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }
}
