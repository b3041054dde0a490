//! Pulling one queue.
//!
//! **Owns** where a queue starts, the pull loop, and what each answer means.
//! **Lives on** a tokio task per queue.
//! **Invariants** the next pull starts where the broker says (`nextBeginOffset`), so filtered and
//! moved offsets never make it spin.
//! **Limits** `MESSAGES_MAX` per pull, `WAIT_MAX` per held pull.
//! **Not here** which queues (`receive`, `assign`).

use std::time::Duration;

use bytes::Bytes;
use gantry_protocol::Command;
use gantry_protocol::code::{request, response};
use gantry_protocol::request::pull::{FLAG_SUBSCRIPTION, FLAG_SUSPEND, PullHeader};
use gantry_runtime::net::client::{CallError, Client};
use tokio::sync::mpsc;

use super::assign::Queue;
use super::start_at::StartAt;
use super::{CALL_MAX, ask, refused};

/// Messages per pull.
const MESSAGES_MAX: i32 = 32;
/// How long a broker may hold a pull, and how long we wait for it; as the Java client.
const WAIT_MAX: Duration = Duration::from_secs(15);
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Pause after a refusal that may pass.
const PAUSE: Duration = Duration::from_secs(1);
/// Refusals in a row before a puller gives up.
const REFUSALS_MAX: u32 = 5;

/// From a puller to the printer.
#[derive(Debug)]
pub enum Pulled {
    /// Messages.
    Messages {
        /// Of this queue.
        queue: Queue,
        /// Records, one after the other.
        body: Bytes,
        /// The position after them.
        next: i64,
    },
    /// The end of the queue was reached; without `--follow` the puller is finished.
    End {
        /// Of this queue.
        queue: Queue,
        /// The position there.
        next: i64,
    },
    /// It can't go on.
    Failed {
        /// This queue.
        queue: Queue,
        /// Why.
        why: String,
    },
}

/// One queue's loop.
pub struct Puller {
    /// The broker.
    pub client: Client,
    /// The group.
    pub group: String,
    /// The queue.
    pub queue: Queue,
    /// The next offset wanted.
    pub position: i64,
    /// The subscription's version.
    pub version: i64,
    /// Whether to wait at the end.
    pub follow: bool,
    /// To the printer.
    pub out: mpsc::Sender<Pulled>,
}

enum Step {
    Go(Option<Pulled>),
    Stop(Pulled),
}

impl Puller {
    /// Pulls until the end, a failure, or for ever.
    pub async fn run(mut self) {
        let mut refusals = 0;
        loop {
            let outcome = self.client.call(self.command(), ANSWER_MAX).await;
            let step = match outcome {
                Ok(reply) if is_answer(reply.code) => {
                    refusals = 0;
                    self.answered(&reply)
                }
                Ok(reply) => {
                    refusals += 1;
                    if refusals >= REFUSALS_MAX {
                        Step::Stop(self.failed(refused("pull", &reply)))
                    } else {
                        tokio::time::sleep(PAUSE).await;
                        Step::Go(None)
                    }
                }
                // A held pull whose answer was lost: ask again.
                Err(CallError::TimedOut { .. }) if self.follow => Step::Go(None),
                Err(error) => Step::Stop(self.failed(error.to_string())),
            };
            let (message, is_last) = match step {
                Step::Go(message) => (message, false),
                Step::Stop(message) => (Some(message), true),
            };
            if let Some(message) = message
                && self.out.send(message).await.is_err()
            {
                return;
            }
            if is_last {
                return;
            }
        }
    }

    fn failed(&self, why: String) -> Pulled {
        Pulled::Failed {
            queue: self.queue.clone(),
            why,
        }
    }

    fn command(&self) -> Command {
        let suspend = if self.follow { FLAG_SUSPEND } else { 0 };
        let header = PullHeader {
            consumer_group: &self.group,
            topic: &self.queue.topic,
            queue_id: self.queue.id,
            queue_offset: self.position,
            max_msg_nums: MESSAGES_MAX,
            sys_flag: FLAG_SUBSCRIPTION | suspend,
            commit_offset: 0,
            suspend_timeout_ms: i64::try_from(WAIT_MAX.as_millis()).unwrap_or(0),
            sub_version: self.version,
            subscription: Some("*"),
            expression_type: Some("TAG"),
            max_msg_bytes: None,
        };
        ask(request::PULL_MESSAGE, header.to_ext())
    }

    fn answered(&mut self, reply: &Command) -> Step {
        let next = reply
            .ext("nextBeginOffset")
            .and_then(|text| text.parse::<i64>().ok());
        let Some(next) = next else {
            return Step::Stop(self.failed("the pull's answer has no nextBeginOffset".into()));
        };
        self.position = next;
        match reply.code {
            response::SUCCESS => Step::Go(Some(Pulled::Messages {
                queue: self.queue.clone(),
                body: reply.body.clone(),
                next,
            })),
            response::PULL_NOT_FOUND if !self.follow => Step::Stop(Pulled::End {
                queue: self.queue.clone(),
                next,
            }),
            _ => Step::Go(None),
        }
    }
}

/// The four codes that carry positions.
fn is_answer(code: i32) -> bool {
    [
        response::SUCCESS,
        response::PULL_NOT_FOUND,
        response::PULL_RETRY_IMMEDIATELY,
        response::PULL_OFFSET_MOVED,
    ]
    .contains(&code)
}

/// Where a group goes on in a queue, or starts.
///
/// # Errors
/// The broker doesn't say.
pub async fn position(
    client: &Client,
    group: &str,
    queue: &Queue,
    start_at: StartAt,
) -> Result<i64, String> {
    // Without the last field a broker answers 0 for a young queue, whatever the group wants.
    let held = ask(
        request::QUERY_CONSUMER_OFFSET,
        [
            ("consumerGroup", group.into()),
            ("topic", queue.topic.as_str().into()),
            ("queueId", queue.id.into()),
            ("setZeroIfNotFound", false.into()),
        ],
    );
    if let Some(offset) = offset(client, held, Some(response::QUERY_NOT_FOUND)).await? {
        return Ok(offset);
    }
    let (topic, id) = (
        ("topic", queue.topic.as_str().into()),
        ("queueId", queue.id.into()),
    );
    let command = match start_at {
        StartAt::First => ask(request::GET_MIN_OFFSET, [topic, id]),
        StartAt::Last => ask(request::GET_MAX_OFFSET, [topic, id]),
        StartAt::Time(ms) => ask(
            request::SEARCH_OFFSET_BY_TIMESTAMP,
            [topic, id, ("timestamp", ms.into())],
        ),
    };
    offset(client, command, None)
        .await
        .map(|offset| offset.unwrap_or(0))
}

async fn offset(
    client: &Client,
    command: Command,
    missing: Option<i32>,
) -> Result<Option<i64>, String> {
    let what = gantry_protocol::code::request_name(command.code).unwrap_or("offset");
    let reply = client
        .call(command, CALL_MAX)
        .await
        .map_err(|error| error.to_string())?;
    if Some(reply.code) == missing {
        return Ok(None);
    }
    if reply.code != response::SUCCESS {
        return Err(refused(what, &reply));
    }
    let offset = reply.ext("offset").and_then(|text| text.parse().ok());
    offset
        .map(Some)
        .ok_or_else(|| format!("{what}: the answer has no offset"))
}
