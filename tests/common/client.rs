//! A plain blocking client: frames out, frames in, nothing decided. Its codec is its own (JSON
//! headers only), so that what the product reads and writes is judged by something else than
//! itself.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{code, properties, reply};

/// How long a reply may take before a test fails.
const REPLY_SECONDS: u64 = 30;
/// The version a client of these tests announces: Java 5.5.0.
const VERSION: i32 = 513;
/// The longest frame taken from a server.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// A frame as it came.
#[derive(Debug, Clone)]
pub struct Frame {
    pub code: i32,
    pub opaque: i32,
    pub flag: i32,
    pub remark: String,
    pub ext: BTreeMap<String, String>,
    pub header: Value,
    pub body: Vec<u8>,
}

impl Frame {
    /// Whether it answers a request.
    pub fn is_reply(&self) -> bool {
        self.flag & 1 != 0
    }

    /// A number among the ext fields.
    pub fn number(&self, name: &str) -> i64 {
        let text = self
            .ext
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {self:?}"));
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is '{text}'"))
    }

    /// The reply itself, when its code is this one.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "code {} '{}' {:?}",
            self.code, self.remark, self.ext
        );
        self
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

/// Ext fields from pairs.
pub fn ext(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

/// The bytes of a request.
pub fn encode(code: i32, opaque: i32, flag: i32, ext: &[(String, String)], body: &[u8]) -> Vec<u8> {
    let fields: Map<String, Value> = ext
        .iter()
        .map(|(k, v)| (k.clone(), Value::String(v.clone())))
        .collect();
    let header = json!({"code": code, "language": "JAVA", "version": VERSION, "opaque": opaque,
        "flag": flag, "extFields": fields, "serializeTypeCurrentRPC": "JSON"});
    let header = serde_json::to_vec(&header).unwrap();
    let mut out = Vec::with_capacity(8 + header.len() + body.len());
    out.extend_from_slice(&((4 + header.len() + body.len()) as u32).to_be_bytes());
    out.extend_from_slice(&(header.len() as u32).to_be_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(body);
    out
}

fn decode(frame: &[u8]) -> Frame {
    let word = u32::from_be_bytes(frame[..4].try_into().unwrap());
    assert_eq!(word >> 24, 0, "a JSON request is answered in JSON");
    let (head, body) = frame[4..].split_at(word as usize);
    let header: Value = serde_json::from_slice(head).expect("a JSON header");
    let number = |name: &str| {
        header[name]
            .as_i64()
            .unwrap_or_else(|| panic!("{name}: {header}")) as i32
    };
    let mut ext = BTreeMap::new();
    for (name, value) in header["extFields"].as_object().into_iter().flatten() {
        let text = value
            .as_str()
            .unwrap_or_else(|| panic!("{name} is not a string: {header}"));
        ext.insert(name.clone(), text.to_owned());
    }
    Frame {
        code: number("code"),
        opaque: number("opaque"),
        flag: number("flag"),
        remark: header["remark"].as_str().unwrap_or_default().to_owned(),
        ext,
        body: body.to_vec(),
        header,
    }
}

/// One connection.
pub struct Client {
    stream: TcpStream,
    opaque: i32,
    out: Vec<u8>,
    input: Vec<u8>,
    taken: usize,
    /// Requests of the server to this client, in the order they came.
    pub pushed: Vec<Frame>,
    early: BTreeMap<i32, Frame>,
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Self {
        Self::try_connect(addr).unwrap_or_else(|e| panic!("connect to {addr}: {e}"))
    }

    pub fn try_connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(REPLY_SECONDS)))?;
        stream.set_write_timeout(Some(Duration::from_secs(REPLY_SECONDS)))?;
        Ok(Self {
            stream,
            opaque: 0,
            out: Vec::new(),
            input: Vec::new(),
            taken: 0,
            pushed: Vec::new(),
            early: BTreeMap::new(),
        })
    }

    /// The socket itself, for what a client should not do.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Puts a request into the out buffer; its opaque.
    pub fn post(&mut self, code: i32, ext: &[(String, String)], body: &[u8]) -> i32 {
        self.opaque += 1;
        self.out.extend(encode(code, self.opaque, 0, ext, body));
        self.opaque
    }

    /// Puts a one-way request into the out buffer.
    pub fn post_oneway(&mut self, code: i32, ext: &[(String, String)], body: &[u8]) {
        self.opaque += 1;
        self.out.extend(encode(code, self.opaque, 2, ext, body));
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// The next frame from the server, whatever it is.
    pub fn next_frame(&mut self) -> io::Result<Frame> {
        self.fill(4)?;
        let word = &self.input[self.taken..self.taken + 4];
        let len = u32::from_be_bytes(word.try_into().unwrap()) as usize;
        assert!(
            len <= FRAME_BYTES_MAX,
            "the server sends a frame of {len} bytes"
        );
        self.fill(4 + len)?;
        let frame = decode(&self.input[self.taken + 4..self.taken + 4 + len]);
        self.taken += 4 + len;
        Ok(frame)
    }

    /// At least `n` bytes behind what was taken.
    fn fill(&mut self, n: usize) -> io::Result<()> {
        if self.input.len() - self.taken >= n {
            return Ok(());
        }
        self.input.drain(..self.taken);
        self.taken = 0;
        let mut chunk = vec![0; 65536];
        while self.input.len() < n {
            match self.stream.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                got => self.input.extend_from_slice(&chunk[..got]),
            }
        }
        Ok(())
    }

    /// The next reply, in the order the server sends them; requests of the server go to `pushed`.
    pub fn next_reply(&mut self) -> io::Result<Frame> {
        loop {
            let frame = self.next_frame()?;
            if frame.is_reply() {
                return Ok(frame);
            }
            self.pushed.push(frame);
        }
    }

    /// The reply to one request; others that come first are kept for their own `reply_to`.
    pub fn reply_to(&mut self, opaque: i32) -> io::Result<Frame> {
        if let Some(frame) = self.early.remove(&opaque) {
            return Ok(frame);
        }
        loop {
            let frame = self.next_reply()?;
            if frame.opaque == opaque {
                return Ok(frame);
            }
            self.early.insert(frame.opaque, frame);
        }
    }

    pub fn try_call(
        &mut self,
        code: i32,
        ext: &[(String, String)],
        body: &[u8],
    ) -> io::Result<Frame> {
        let opaque = self.post(code, ext, body);
        self.flush()?;
        self.reply_to(opaque)
    }

    pub fn call(&mut self, code: i32, ext: &[(String, String)], body: &[u8]) -> Frame {
        self.try_call(code, ext, body)
            .unwrap_or_else(|e| panic!("request {code}: {e}"))
    }

    /// Answers a request of the server.
    pub fn answer(&mut self, question: &Frame, code: i32, body: &[u8]) {
        let reply = encode(code, question.opaque, 1, &[], body);
        self.stream.write_all(&reply).unwrap();
    }

    /// Waits until the server has sent a request of this code.
    pub fn await_push(&mut self, code: i32) -> Frame {
        loop {
            if let Some(at) = self.pushed.iter().position(|f| f.code == code) {
                return self.pushed.remove(at);
            }
            let frame = self
                .next_frame()
                .unwrap_or_else(|e| panic!("no push {code}: {e}"));
            if frame.is_reply() {
                self.early.insert(frame.opaque, frame);
            } else {
                self.pushed.push(frame);
            }
        }
    }

    /// The server closed the connection, or does so within `seconds`; what it still sends is
    /// dropped.
    pub fn closes_within(&mut self, seconds: u64) -> bool {
        self.stream
            .set_read_timeout(Some(Duration::from_secs(seconds)))
            .unwrap();
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) => {
                    let slow = matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    );
                    return !slow;
                }
            }
        }
    }
}

/// Ext fields of a send with the letters of code 310 and 320.
pub fn send_ext(
    topic: &str,
    queue: i32,
    props: &[(&str, &str)],
    batch: bool,
) -> Vec<(String, String)> {
    let queue = queue.to_string();
    let props = properties(props);
    let mut fields = ext(&[
        ("a", "test-producers"),
        ("b", topic),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", &queue),
        ("f", "0"),
        ("g", "1700000000000"),
        ("h", "7"),
        ("i", &props),
        ("j", "0"),
        ("k", "false"),
        ("m", if batch { "true" } else { "false" }),
    ]);
    fields.retain(|(name, value)| name != "i" || !value.is_empty());
    fields
}

/// What a pull asks for; the defaults do not wait and bring their subscription along.
#[derive(Clone)]
pub struct Pull<'a> {
    pub group: &'a str,
    pub topic: &'a str,
    pub queue: i32,
    pub offset: i64,
    pub max: i32,
    pub tags: &'a str,
    pub sys_flag: i32,
    pub suspend_ms: u64,
    pub commit: i64,
}

impl<'a> Pull<'a> {
    pub fn new(topic: &'a str, queue: i32, offset: i64) -> Self {
        Self {
            group: "test-readers",
            topic,
            queue,
            offset,
            max: 32,
            tags: "*",
            sys_flag: 4,
            suspend_ms: 0,
            commit: 0,
        }
    }

    /// Held until a message comes or the time is over.
    pub fn waiting(mut self, suspend_ms: u64) -> Self {
        self.sys_flag |= 2;
        self.suspend_ms = suspend_ms;
        self
    }

    pub fn tagged(mut self, tags: &'a str) -> Self {
        self.tags = tags;
        self
    }

    pub fn at_most(mut self, max: i32) -> Self {
        self.max = max;
        self
    }

    pub fn ext(&self) -> Vec<(String, String)> {
        ext(&[
            ("consumerGroup", self.group),
            ("topic", self.topic),
            ("queueId", &self.queue.to_string()),
            ("queueOffset", &self.offset.to_string()),
            ("maxMsgNums", &self.max.to_string()),
            ("sysFlag", &self.sys_flag.to_string()),
            ("commitOffset", &self.commit.to_string()),
            ("suspendTimeoutMillis", &self.suspend_ms.to_string()),
            ("subscription", self.tags),
            ("expressionType", "TAG"),
            ("subVersion", "0"),
        ])
    }
}

/// The fields of a request that creates or changes a topic.
pub fn topic_ext(topic: &str, queues: i32) -> Vec<(String, String)> {
    let queues = queues.to_string();
    ext(&[
        ("topic", topic),
        ("defaultTopic", "TBW102"),
        ("readQueueNums", &queues),
        ("writeQueueNums", &queues),
        ("perm", "6"),
        ("topicFilterType", "SINGLE_TAG"),
        ("topicSysFlag", "0"),
        ("order", "false"),
    ])
}

impl Client {
    /// A heartbeat of one consumer of all tags of a topic.
    pub fn beat(&mut self, id: &str, group: &str, topic: &str) -> Frame {
        let body = json!({"clientID": id, "producerDataSet": [],
            "consumerDataSet": [{"groupName": group, "consumeType": "CONSUME_PASSIVELY",
                "messageModel": "CLUSTERING", "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET",
                "unitMode": false, "subscriptionDataSet": [{"topic": topic, "subString": "*",
                    "tagsSet": [], "codeSet": [], "subVersion": 1, "expressionType": "TAG",
                    "classFilterMode": false}]}]});
        self.call(code::HEART_BEAT, &[], body.to_string().as_bytes())
    }

    /// Creates or changes a topic.
    pub fn create_topic(&mut self, topic: &str, queues: i32) {
        self.call(code::CREATE_TOPIC, &topic_ext(topic, queues), b"")
            .expect(reply::SUCCESS);
    }

    pub fn send(&mut self, topic: &str, queue: i32, body: &[u8], props: &[(&str, &str)]) -> Frame {
        self.call(code::SEND_V2, &send_ext(topic, queue, props, false), body)
    }

    pub fn pull(&mut self, pull: &Pull<'_>) -> Frame {
        self.call(code::PULL, &pull.ext(), b"")
    }

    /// Everything readable in a queue from `offset` on.
    pub fn drain(&mut self, topic: &str, queue: i32, mut offset: i64) -> Vec<super::Record> {
        let mut all = Vec::new();
        loop {
            let got = self.pull(&Pull::new(topic, queue, offset));
            match got.code {
                reply::SUCCESS => all.extend(super::records(&got.body)),
                reply::PULL_NOT_FOUND => return all,
                other => panic!("pull at {offset}: code {other} '{}'", got.remark),
            }
            let next = got.number("nextBeginOffset");
            assert!(
                next > offset,
                "the next offset {next} does not move on from {offset}"
            );
            offset = next;
        }
    }

    /// An offset that one of the codes 29 to 31 answers.
    pub fn offset(&mut self, code: i32, topic: &str, queue: i32, more: &[(&str, &str)]) -> i64 {
        let mut fields = ext(&[("topic", topic), ("queueId", &queue.to_string())]);
        fields.extend(ext(more));
        self.call(code, &fields, b"")
            .expect(reply::SUCCESS)
            .number("offset")
    }
}
