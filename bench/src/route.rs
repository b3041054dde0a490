//! Where to send: the broker's address from the name server, topics made on it where they are
//! missing, offsets asked.
//!
//! **Owns** the few blocking calls before and after a run.
//! **Lives on** the calling thread.
//! **Invariants** none of this happens inside the measured window. A topic that exists is never
//! changed.
//! **Limits** `CALL_TIMEOUT` a reply, `CALLS_AT_ONCE` calls under way.
//! **Not here** the connections of the run (`connection`).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::BytesMut;
use gantry_protocol::body::{ClusterInfo, TopicConfig};
use gantry_protocol::code::{request as codes, response};
use gantry_protocol::command::Command;
use gantry_protocol::fastjson::{self, Value};
use gantry_protocol::frame::take_frame;

use crate::error::BenchError;

/// Longest wait for an answer: making a topic on a busy broker takes seconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Calls under way on one connection; few enough for their replies to fit the socket's buffers.
const CALLS_AT_ONCE: usize = 64;

/// Broker id of a master.
const MASTER_ID: i64 = 0;

/// Fields of a request.
type Fields = Vec<(String, String)>;

/// One queue of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// The topic.
    pub topic: String,
    /// The queue in the topic.
    pub id: u32,
}

/// A blocking connection.
#[derive(Debug)]
pub struct Caller {
    addr: SocketAddr,
    stream: TcpStream,
    input: BytesMut,
}

/// Resolves `host:port` to one address at least.
///
/// # Errors
/// It can't be resolved.
pub fn resolve(addr: &str) -> Result<Vec<SocketAddr>, BenchError> {
    let addrs: Vec<SocketAddr> = addr.to_socket_addrs().into_iter().flatten().collect();
    if addrs.is_empty() {
        return Err(BenchError::Address {
            value: addr.to_owned(),
        });
    }
    Ok(addrs)
}

/// The first of the addresses of `host:port` where somebody listens.
///
/// # Errors
/// It can't be resolved, or nobody listens at any of them.
pub fn reach(addr: &str) -> Result<SocketAddr, BenchError> {
    Ok(Caller::connect_any(&resolve(addr)?, addr)?.addr)
}

fn fields(pairs: &[(&str, &str)]) -> Fields {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

impl Caller {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(addr: SocketAddr) -> Result<Self, BenchError> {
        let socket = |source| BenchError::Socket {
            doing: "connecting to",
            addr,
            source,
        };
        let stream = TcpStream::connect_timeout(&addr, CALL_TIMEOUT).map_err(socket)?;
        stream.set_nodelay(true).map_err(socket)?;
        let limit = Some(CALL_TIMEOUT);
        stream.set_read_timeout(limit).map_err(socket)?;
        stream.set_write_timeout(limit).map_err(socket)?;
        Ok(Self {
            addr,
            stream,
            input: BytesMut::new(),
        })
    }

    /// Connects to the first of these addresses that takes it; they are those of `name`.
    fn connect_any(addrs: &[SocketAddr], name: &str) -> Result<Self, BenchError> {
        let mut failure = BenchError::Address {
            value: name.to_owned(),
        };
        for addr in addrs {
            match Self::connect(*addr) {
                Ok(caller) => return Ok(caller),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Sends requests, several at once, and returns the replies in their order.
    ///
    /// # Errors
    /// The connection breaks; a refusal is none.
    pub fn calls(
        &mut self,
        doing: &'static str,
        requests: &[Command],
    ) -> Result<Vec<Command>, BenchError> {
        let mut replies = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(CALLS_AT_ONCE) {
            let mut out = BytesMut::new();
            for (opaque, request) in (0..).zip(chunk) {
                let mut request = request.clone();
                request.opaque = opaque;
                request.encode(&mut out).map_err(|e| BenchError::Answer {
                    doing,
                    what: e.to_string(),
                })?;
            }
            self.stream
                .write_all(&out)
                .map_err(|source| BenchError::Socket {
                    doing,
                    addr: self.addr,
                    source,
                })?;
            let mut got = Vec::with_capacity(chunk.len());
            while got.len() < chunk.len() {
                let reply = self.next_frame(doing)?;
                if reply.is_reply() {
                    got.push(reply);
                }
            }
            got.sort_by_key(|reply| reply.opaque);
            replies.append(&mut got);
        }
        Ok(replies)
    }

    fn next_frame(&mut self, doing: &'static str) -> Result<Command, BenchError> {
        let answer = |what: String| BenchError::Answer { doing, what };
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(frame) = take_frame(&mut self.input).map_err(|e| answer(e.to_string()))? {
                return Command::from_frame(&frame).map_err(|e| answer(e.to_string()));
            }
            let read = self
                .stream
                .read(&mut chunk)
                .map_err(|source| BenchError::Socket {
                    doing,
                    addr: self.addr,
                    source,
                })?;
            if read == 0 {
                return Err(answer("connection closed".to_owned()));
            }
            self.input
                .extend_from_slice(chunk.get(..read).unwrap_or_default());
        }
    }

    /// One request that must succeed.
    ///
    /// # Errors
    /// The connection breaks or the request is refused.
    pub fn call(
        &mut self,
        doing: &'static str,
        code: i32,
        ext: Option<Fields>,
    ) -> Result<Command, BenchError> {
        let mut request = Command::request(code, 0);
        request.ext = ext;
        let mut replies = self.calls(doing, &[request])?;
        let reply = replies.pop().ok_or(BenchError::Answer {
            doing,
            what: "no reply".to_owned(),
        })?;
        succeeded(doing, reply)
    }

    /// Makes those of the topics that don't exist, with `queues` queues each. One that exists stays
    /// as it is: of more queues than these the first ones are used.
    ///
    /// # Errors
    /// A topic that exists with fewer queues, a refusal, or the connection breaks.
    pub fn ensure_topics(&mut self, topics: &[String], queues: u32) -> Result<(), BenchError> {
        let found = self.queues_of(topics)?;
        let missing = topics.iter().zip(&found).filter(|(_, f)| f.is_none());
        let missing: Vec<&String> = missing.map(|(topic, _)| topic).collect();
        for (topic, found) in topics.iter().zip(found) {
            if let Some(found) = found.filter(|found| *found < queues) {
                return Err(BenchError::Topic {
                    topic: topic.clone(),
                    found,
                    wanted: queues,
                });
            }
        }
        self.make_topics(&missing, queues)
    }

    /// Queues of each topic that can be written and read; `None` of one that doesn't exist.
    fn queues_of(&mut self, topics: &[String]) -> Result<Vec<Option<u32>>, BenchError> {
        const DOING: &str = "asking for the topic";
        let request = |topic: &String| {
            let mut request = Command::request(codes::GET_TOPIC_CONFIG, 0);
            request.ext = Some(fields(&[("topic", topic)]));
            request
        };
        let requests: Vec<Command> = topics.iter().map(request).collect();
        let replies = self.calls(DOING, &requests)?;
        let unknown = |reply: &Command| reply.code == response::REQUEST_CODE_NOT_SUPPORTED;
        if replies.iter().any(unknown) {
            // RocketMQ before 5 only tells of all topics at once.
            let reply = self.call(DOING, codes::GET_ALL_TOPIC_CONFIG, None)?;
            let all = parsed(DOING, &reply)?;
            let table = all.get("topicConfigTable");
            let config = |topic: &String| table.and_then(|table| table.get(topic));
            return Ok(topics.iter().map(|t| config(t).map(usable)).collect());
        }
        let of = |reply: Command| match reply.code {
            response::TOPIC_NOT_EXIST => Ok(None),
            _ => Ok(Some(usable(&parsed(DOING, &succeeded(DOING, reply)?)?))),
        };
        replies.into_iter().map(of).collect()
    }

    fn make_topics(&mut self, topics: &[&String], queues: u32) -> Result<(), BenchError> {
        let queues = queues.to_string();
        for topic in topics {
            let ext = fields(&[
                ("topic", topic),
                ("defaultTopic", "TBW102"),
                ("readQueueNums", &queues),
                ("writeQueueNums", &queues),
                ("perm", "6"),
                ("topicFilterType", "SINGLE_TAG"),
                ("topicSysFlag", "0"),
                ("order", "false"),
            ]);
            self.call(
                "making the topic",
                codes::UPDATE_AND_CREATE_TOPIC,
                Some(ext),
            )?;
        }
        Ok(())
    }

    /// The offset behind the last message of each queue, or that of the first one.
    ///
    /// # Errors
    /// A refusal, or the connection breaks.
    pub fn offsets(&mut self, queues: &[Queue], last: bool) -> Result<Vec<i64>, BenchError> {
        const DOING: &str = "asking for the offsets of a queue";
        let code = if last {
            codes::GET_MAX_OFFSET
        } else {
            codes::GET_MIN_OFFSET
        };
        let request = |queue: &Queue| {
            let mut request = Command::request(code, 0);
            let id = queue.id.to_string();
            request.ext = Some(fields(&[("topic", &queue.topic), ("queueId", &id)]));
            request
        };
        let requests: Vec<Command> = queues.iter().map(request).collect();
        let replies = self.calls(DOING, &requests)?;
        let offset = |reply: Command| {
            let reply = succeeded(DOING, reply)?;
            let text = reply.ext("offset").and_then(|text| text.parse().ok());
            text.ok_or(BenchError::Answer {
                doing: DOING,
                what: "no offset in the reply".to_owned(),
            })
        };
        replies.into_iter().map(offset).collect()
    }
}

fn parsed(doing: &'static str, reply: &Command) -> Result<Value, BenchError> {
    fastjson::parse(&reply.body).map_err(|e| BenchError::Answer {
        doing,
        what: e.to_string(),
    })
}

/// Queues of a topic that can be both written and read.
fn usable(config: &Value) -> u32 {
    let config = TopicConfig::from_value(config);
    let queues = config.write_queue_nums.min(config.read_queue_nums);
    u32::try_from(queues).unwrap_or(0)
}

fn succeeded(doing: &'static str, reply: Command) -> Result<Command, BenchError> {
    match reply.code {
        0 => Ok(reply),
        code => Err(BenchError::Answer {
            doing,
            what: format!("code {code}: {}", reply.remark.unwrap_or_default()),
        }),
    }
}

/// The first master that a name server knows.
///
/// # Errors
/// No name server, or no master.
pub fn first_master(namesrv: &str) -> Result<SocketAddr, BenchError> {
    const DOING: &str = "asking the name server for its brokers";
    let mut caller = Caller::connect_any(&resolve(namesrv)?, namesrv)?;
    let reply = caller.call(DOING, codes::GET_BROKER_CLUSTER_INFO, None)?;
    let answer = |what: String| BenchError::Answer { doing: DOING, what };
    let cluster = ClusterInfo::parse(&reply.body).map_err(|e| answer(e.to_string()))?;
    let master = cluster
        .brokers
        .values()
        .find_map(|broker| broker.addresses.get(&MASTER_ID));
    let master = master.ok_or_else(|| answer("no master is registered".to_owned()))?;
    reach(master)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn each_address_of_a_name_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let closed = SocketAddr::new("127.0.0.2".parse().unwrap(), open.port());
        let caller = Caller::connect_any(&[closed, open], "two").unwrap();
        assert_eq!(caller.addr, open);
        let nobody = Caller::connect_any(&[closed], "one").unwrap_err();
        assert!(nobody.to_string().contains("127.0.0.2"), "{nobody}");
        assert!(reach("no-such-host.invalid:1").is_err());
    }
}
