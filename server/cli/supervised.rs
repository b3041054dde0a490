//! The command line of `gantry admin dlq|tx|delay`: what waits in a broker, and an operator's hand
//! on it.
//!
//! **Owns** names, options and help.
//! **Lives on** the main thread.
//! **Invariants** as `admin`'s: every command takes the options of [`At`].
//! **Limits** none of its own.
//! **Not here** what the commands do (`crate::admin`).

use clap::{Args, Subcommand, ValueEnum};

use super::admin::At;

/// The commands of `admin dlq`.
#[derive(Debug, Subcommand)]
pub enum AdminDlq {
    /// List groups with dead letters: how many, how many resent.
    List {
        /// Where.
        #[command(flatten)]
        at: At,
    },
    /// Show a group's dead letters, the oldest first.
    Show(DlqShow),
    /// Send a group's dead letters again, to the topic each came from.
    ///
    /// Body, tags, keys and properties stay; nothing is deleted. How far it came is kept by the
    /// broker, as the committed offset of the group gantry-dlq-resend in the %DLQ% topic, every
    /// 32 messages: a second run sends only what came since, and one that was killed sends at most
    /// those again. A filtered run goes past what its filter leaves out; `--again` starts at the
    /// oldest one.
    Resend(DlqResend),
}

/// Options of `admin dlq show`.
#[derive(Debug, Args)]
pub struct DlqShow {
    /// The consumer group.
    pub group: String,
    /// Only with this tag or property (KEYS=word for a key); several must all fit.
    #[arg(long, value_name = "KEY=VALUE|TAG")]
    pub filter: Vec<String>,
    /// Most messages.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub max: usize,
    /// Where.
    #[command(flatten)]
    pub at: At,
}

/// Options of `admin dlq resend`.
#[derive(Debug, Args)]
pub struct DlqResend {
    /// The consumer group.
    pub group: String,
    /// To this topic instead.
    #[arg(long, value_name = "T")]
    pub to_topic: Option<String>,
    /// Only with this tag or property (KEYS=word for a key); several must all fit.
    #[arg(long, value_name = "KEY=VALUE|TAG")]
    pub filter: Vec<String>,
    /// Start at the oldest one, whatever was sent before.
    #[arg(long)]
    pub again: bool,
    /// Most messages to send.
    #[arg(long, value_name = "N")]
    pub max: Option<u64>,
    /// Only say what would be sent.
    #[arg(long)]
    pub dry_run: bool,
    /// Where.
    #[command(flatten)]
    pub at: At,
}

/// The commands of `admin tx`.
#[derive(Debug, Subcommand)]
pub enum AdminTx {
    /// List half messages that nobody has decided: age, checks so far, next check.
    List {
        /// Only of this producer group.
        #[arg(long, short = 'g')]
        group: Option<String>,
        /// Only for this topic.
        #[arg(long, short = 't')]
        topic: Option<String>,
        /// Most of them.
        #[arg(long, value_name = "N", default_value_t = 100)]
        max: usize,
        /// Where.
        #[command(flatten)]
        at: At,
    },
    /// Show one of them.
    Show {
        /// Its id, as `tx list` prints it.
        id: String,
        /// Where.
        #[command(flatten)]
        at: At,
    },
    /// Commit it or roll it back, as its producer would.
    Resolve {
        /// How it ends.
        verdict: Verdict,
        /// Its id, as `tx list` prints it.
        id: String,
        /// Only show what would be ended.
        #[arg(long)]
        dry_run: bool,
        /// Where.
        #[command(flatten)]
        at: At,
    },
}

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Verdict {
    /// Its message is delivered.
    Commit,
    /// Its message is dropped.
    Rollback,
}

/// The commands of `admin delay`.
#[derive(Debug, Subcommand)]
pub enum AdminDelay {
    /// List what is pending, in the order it becomes due.
    List {
        /// Only for this topic.
        #[arg(long, short = 't')]
        topic: Option<String>,
        /// Most of them.
        #[arg(long, value_name = "N", default_value_t = 100)]
        max: usize,
        /// Where.
        #[command(flatten)]
        at: At,
    },
    /// Show one of them.
    Show {
        /// Its recall handle, as `delay list` or its send's answer has it.
        handle: String,
        /// Where.
        #[command(flatten)]
        at: At,
    },
    /// Recall one: it is never delivered. Brokers allow it with recallMessageEnable=true.
    Cancel {
        /// Its recall handle, as `delay list` or its send's answer has it.
        handle: String,
        /// Only show what would be recalled.
        #[arg(long)]
        dry_run: bool,
        /// Where.
        #[command(flatten)]
        at: At,
    },
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::Cli;

    #[test]
    fn lines_of_the_manual() {
        for line in [
            "supervisors --json",
            "dlq list",
            "delay list -t T --max 5",
            "delay show djEg",
            "delay cancel djEg --dry-run",
            "tx list -g p -t T --max 5",
            "tx show 0:17",
            "tx resolve rollback 0:17 --broker b --dry-run",
            "dlq show g --filter red --max 5",
            "dlq resend g --to-topic T --filter KEYS=k --filter red --max 9 --again --dry-run",
        ] {
            let words = ["gantry", "admin"].into_iter().chain(line.split(' '));
            let parsed = Cli::try_parse_from(words);
            assert!(parsed.is_ok(), "{line}: {:?}", parsed.err());
        }
        for line in ["dlq show", "dlq resend", "tx resolve maybe 0:1"] {
            let words = ["gantry", "admin"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }
}
