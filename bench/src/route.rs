//! Where to send: the broker's address from the name server, and the topic made on it.
//!
//! **Owns** the few blocking calls before a run.
//! **Lives on** the calling thread.
//! **Invariants** none of this happens inside the measured window.
//! **Limits** `CALL_TIMEOUT` a call.
//! **Not here** the connections of the run (`producer`).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::BytesMut;
use gantry_protocol::code::request as codes;
use gantry_protocol::command::Command;
use gantry_protocol::frame::take_frame;

use crate::error::BenchError;

/// Longest wait for an answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Finds a master broker, makes the topic there with `queues` queues, returns the broker's address.
///
/// # Errors
/// No name server, no broker, or a refusal.
pub fn prepare_topic(namesrv: &str, topic: &str, queues: u32) -> Result<SocketAddr, BenchError> {
    let namesrv = resolve(namesrv)?;
    let broker = resolve(&first_master(namesrv)?)?;
    let queues = queues.to_string();
    let fields = [
        ("topic", topic),
        ("defaultTopic", "TBW102"),
        ("readQueueNums", &queues),
        ("writeQueueNums", &queues),
        ("perm", "6"),
        ("topicFilterType", "SINGLE_TAG"),
        ("topicSysFlag", "0"),
        ("order", "false"),
    ];
    let ext = fields
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
    call(
        broker,
        "making the topic",
        codes::UPDATE_AND_CREATE_TOPIC,
        Some(ext),
    )?;
    Ok(broker)
}

fn resolve(addr: &str) -> Result<SocketAddr, BenchError> {
    addr.to_socket_addrs()
        .ok()
        .and_then(|mut addrs| addrs.next())
        .ok_or_else(|| BenchError::Address {
            value: addr.to_owned(),
        })
}

/// The first broker id 0 in the cluster table. The text is Java's JSON with unquoted number keys,
/// so it is searched, not parsed.
fn first_master(namesrv: SocketAddr) -> Result<String, BenchError> {
    const DOING: &str = "asking the name server for its brokers";
    let reply = call(namesrv, DOING, codes::GET_BROKER_CLUSTER_INFO, None)?;
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    text.split("\"brokerAddrs\":{")
        .skip(1)
        .filter_map(|rest| rest.split('}').next())
        .flat_map(|table| table.split(','))
        .find_map(|pair| {
            let (id, addr) = pair.split_once(':')?;
            (id.trim_matches('"') == "0").then(|| addr.trim_matches('"').to_owned())
        })
        .ok_or(BenchError::Answer {
            doing: DOING,
            what: format!("no master in {text}"),
        })
}

fn call(
    addr: SocketAddr,
    doing: &'static str,
    code: i32,
    ext: Option<Vec<(String, String)>>,
) -> Result<Command, BenchError> {
    let socket = |source| BenchError::Socket {
        doing,
        addr,
        source,
    };
    let mut stream = TcpStream::connect_timeout(&addr, CALL_TIMEOUT).map_err(socket)?;
    stream
        .set_read_timeout(Some(CALL_TIMEOUT))
        .map_err(socket)?;
    let mut request = Command::request(code, 1);
    request.ext = ext;
    let mut out = BytesMut::new();
    let answer = |what: String| BenchError::Answer { doing, what };
    request
        .encode(&mut out)
        .map_err(|e| answer(e.to_string()))?;
    stream.write_all(&out).map_err(socket)?;
    let mut input = BytesMut::new();
    let mut chunk = [0; 4096];
    loop {
        let read = stream.read(&mut chunk).map_err(socket)?;
        if read == 0 {
            return Err(answer("connection closed".to_owned()));
        }
        input.extend_from_slice(chunk.get(..read).unwrap_or_default());
        if let Some(frame) = take_frame(&mut input).map_err(|e| answer(e.to_string()))? {
            let reply = Command::from_frame(&frame).map_err(|e| answer(e.to_string()))?;
            return match reply.code {
                0 => Ok(reply),
                code => Err(answer(format!(
                    "code {code}: {}",
                    reply.remark.unwrap_or_default()
                ))),
            };
        }
    }
}
