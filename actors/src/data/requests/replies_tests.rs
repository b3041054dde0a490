use std::sync::Arc;

use gantry_protocol::command::{Command, ExtValue, FLAG_REPLY, writer};
use gantry_protocol::frame::{Frame, HeaderEncoding, take_frame};
use gantry_protocol::properties;

use bytes::BytesMut;
use gantry_protocol::code::response;
use gantry_runtime::net::PeerRef;

use crate::data::requests::pushes::PUSH_MS_MAX;
use crate::data::testing::{
    TestBroker, ext, peer, pull_frame, pull_header, records, request_frame, send_header,
};
use crate::seam::{CatalogChange, RequesterChange, ToControl, ToData};

const V2: i32 = 325;
const PUSH: i32 = 326;
const ASKER: &str = "asker@1";
const PROPERTIES: &str = "CORRELATION_ID\u{1}c1\u{2}REPLY_TO_CLIENT\u{1}asker@1\u{2}";

fn knows(broker: &TestBroker, at: Option<PeerRef>) {
    broker.tell_all(|| {
        let id = Arc::from(ASKER);
        ToData::Catalog(CatalogChange::Requester(RequesterChange { id, peer: at }))
    });
}

fn reply_frame(properties: &str) -> Frame {
    let mut header = send_header("T");
    header.properties = properties;
    header.queue_id = 1;
    request_frame(V2, 9, &header.to_ext(V2), b"answer")
}

/// The requester's answer to a push.
fn answer_frame(opaque: i32, code: i32) -> Frame {
    let mut out = BytesMut::new();
    let nothing: &[(&str, ExtValue<'_>)] = &[];
    let encoding = HeaderEncoding::Json;
    writer::write_reply(&mut out, encoding, opaque, code, None, Some(nothing), &[]).unwrap();
    take_frame(&mut out).unwrap().unwrap()
}

fn pushed(broker: &TestBroker, at: PeerRef) -> Command {
    broker.settle();
    let mut got = broker.world.take_replies(at);
    assert_eq!(got.len(), 1, "{got:?}");
    let push = got.remove(0);
    assert_eq!(push.code, PUSH);
    assert_eq!(push.flag & FLAG_REPLY, 0);
    push
}

fn stored(broker: &TestBroker) -> Vec<(i64, String)> {
    broker.request(&pull_frame(77, &pull_header("T", 1, 0)));
    records(&broker.reply().body)
}

#[test]
fn a_reply_crosses_cores_to_who_asked_and_is_stored() {
    let broker = TestBroker::new(2, 2, |_| {});
    let asker = peer(1, 4);
    knows(&broker, Some(asker));
    broker.request(&reply_frame(PROPERTIES));
    let push = pushed(&broker, asker);
    assert_eq!(&push.body[..], b"answer");
    assert_eq!(ext(&push, "topic"), "T");
    assert_eq!(ext(&push, "producerGroup"), "p");
    assert_eq!(ext(&push, "bornHost"), "10.1.2.3:4567");
    assert_eq!(ext(&push, "storeHost"), "127.0.0.1:10911");
    let sent = ext(&push, "properties");
    assert_eq!(properties::get(sent, "CORRELATION_ID"), Some("c1"));
    assert!(properties::get(sent, "PUSH_REPLY_TIME").is_some());
    assert_eq!(properties::get(sent, "MSG_REGION"), Some("DefaultRegion"));
    assert_eq!(properties::get(sent, "TRACE_ON"), Some("true"));
    assert_eq!(push.ext("batch"), None);
    assert!(
        broker.replies().is_empty(),
        "the replier waits for the push"
    );

    // Somebody else's answer with this number counts for nothing.
    broker.request_at(1, 5, &answer_frame(push.opaque, response::SUCCESS));
    assert!(broker.replies().is_empty());
    broker.request_at(1, 4, &answer_frame(push.opaque, response::SUCCESS));
    let reply = broker.reply();
    assert_eq!((reply.code, reply.opaque), (response::SUCCESS, 9));
    assert_eq!(ext(&reply, "queueId"), "1");
    assert_eq!(ext(&reply, "queueOffset"), "0");
    assert_eq!(ext(&reply, "MSG_REGION"), "DefaultRegion");
    assert_eq!(ext(&reply, "msgId").len(), 32);
    assert_eq!(stored(&broker), [(0, "answer".to_owned())]);
    let to_control = broker.world.take_control();
    let hops = to_control
        .iter()
        .filter(|word| matches!(word, ToControl::Request(_) | ToControl::ClientReply { .. }));
    assert_eq!(hops.count(), 0, "the control plane has no part in it");
}

/// The answer of a replier whose push ended without success.
fn failed(broker: &TestBroker) -> String {
    let reply = broker.reply();
    assert_eq!(reply.code, response::SYSTEM_ERROR);
    assert_eq!(ext(&reply, "queueId"), "1");
    assert_eq!(ext(&reply, "msgId").len(), 32, "it is stored all the same");
    assert_eq!(stored(broker).len(), 1);
    reply.remark.unwrap()
}

#[test]
fn trap_89_who_is_no_known_producer_gets_nothing() {
    let broker = TestBroker::new(1, 1, |_| {});
    broker.request(&reply_frame(PROPERTIES));
    let remark = failed(&broker);
    assert_eq!(
        remark,
        "push reply message fail, channel of <asker@1> not found."
    );

    let broker = TestBroker::new(1, 1, |_| {});
    broker.request(&reply_frame("CORRELATION_ID\u{1}c1\u{2}"));
    let remark = failed(&broker);
    assert_eq!(remark, "reply message properties[REPLY_TO_CLIENT] is null");
}

/// How a push ends; told the broker and the push's number.
type End<'a> = &'a dyn Fn(&TestBroker, i32);

#[test]
fn a_requester_that_goes_or_refuses_or_is_silent_fails_the_push() {
    let gone = |broker: &TestBroker, _: i32| {
        for core in &broker.cores {
            core.peer_closed(peer(1, 4));
        }
    };
    let refuses = |broker: &TestBroker, opaque| {
        broker.request_at(1, 4, &answer_frame(opaque, response::SYSTEM_ERROR));
    };
    let silent = |broker: &TestBroker, _| {
        broker.pass_ms(PUSH_MS_MAX - 1);
        assert!(broker.replies().is_empty());
        broker.pass_ms(1);
    };
    let ends: [End<'_>; 3] = [&gone, &refuses, &silent];
    for end in ends {
        let broker = TestBroker::new(2, 2, |_| {});
        knows(&broker, Some(peer(1, 4)));
        broker.request(&reply_frame(PROPERTIES));
        let push = pushed(&broker, peer(1, 4));
        end(&broker, push.opaque);
        assert_eq!(failed(&broker), "push reply message to asker@1fail.");
    }
}

#[test]
fn a_closed_connection_is_not_pushed_to_before_the_control_plane_knows() {
    let broker = TestBroker::new(2, 2, |_| {});
    knows(&broker, Some(peer(1, 4)));
    broker.cores[1].peer_closed(peer(1, 4));
    broker.settle();
    broker.request(&reply_frame(PROPERTIES));
    assert!(failed(&broker).contains("not found"));
}

#[test]
fn nothing_is_stored_when_nothing_shall_be_or_can_be() {
    for refusing in [false, true] {
        let broker = TestBroker::new(1, 1, |settings| {
            settings.store_reply_message_enable = refusing;
        });
        if refusing {
            broker.cores[0].desk.refuse_writes(Some(Arc::from("full")));
        }
        knows(&broker, Some(peer(0, 4)));
        broker.request(&reply_frame(PROPERTIES));
        let push = pushed(&broker, peer(0, 4));
        broker.request_at(0, 4, &answer_frame(push.opaque, response::SUCCESS));
        let reply = broker.reply();
        assert_eq!(reply.code, response::SUCCESS);
        assert_eq!(ext(&reply, "msgId"), "0");
        assert_eq!(ext(&reply, "queueId"), "1");
        assert!(stored(&broker).is_empty());
    }
}

#[test]
fn a_store_that_is_closed_does_not_hide_how_the_push_ended() {
    let broker = TestBroker::new(1, 1, |_| {});
    knows(&broker, Some(peer(0, 4)));
    broker.request(&reply_frame(PROPERTIES));
    let push = pushed(&broker, peer(0, 4));
    for shard in broker.cores[0].shards() {
        shard.close_inboxes();
    }
    broker.request_at(0, 4, &answer_frame(push.opaque, response::SUCCESS));
    let reply = broker.reply();
    assert_eq!(reply.code, response::SUCCESS);
    assert_eq!(ext(&reply, "msgId"), "0");
}

#[test]
fn a_reply_that_clients_would_split_by_themselves_gets_13() {
    let broker = TestBroker::new(1, 1, |_| {});
    for (sys_flag, more) in [(192, ""), (0, "INNER_NUM\u{1}2\u{2}")] {
        let properties = format!("{PROPERTIES}{more}");
        let mut header = send_header("T");
        header.properties = &properties;
        header.sys_flag = sys_flag;
        broker.request(&request_frame(V2, 9, &header.to_ext(V2), b"answer"));
        assert_eq!(broker.reply().code, 13);
    }
    broker.request(&pull_frame(77, &pull_header("T", 0, 0)));
    assert!(records(&broker.reply().body).is_empty());
}

/// What waits for requesters is a part of `memoryLimit`: less under a small one.
#[test]
fn open_pushes_have_a_bound_in_bytes_that_follows_the_memory_limit() {
    let broker = TestBroker::new(1, 1, |s| s.memory_limit_bytes = 64 << 20);
    let asker = peer(0, 4);
    knows(&broker, Some(asker));
    let mut header = send_header("T");
    header.properties = PROPERTIES;
    let body = vec![1; 1 << 20];
    let reply = request_frame(V2, 9, &header.to_ext(V2), &body);
    let most = broker.cores[0].settings.memory_plan(1).push_bytes / body.len();
    for _ in 0..=most {
        broker.request(&reply);
    }
    broker.settle();
    assert_eq!(broker.world.take_replies(asker).len(), most);
    let refused = broker.reply();
    assert_eq!(refused.code, response::SYSTEM_BUSY);
    assert!(refused.remark.unwrap().contains("stage push"));
}

/// Answers to questions of the control plane count as requests on their way there do: what comes
/// while it doesn't look is bounded.
#[test]
fn answers_for_the_control_plane_have_a_bound_in_bytes() {
    let broker = TestBroker::new(1, 1, |_| {});
    let bound = broker.cores[0].settings.memory_plan(1).control_bytes;
    let mut answer = answer_frame(7, response::SUCCESS);
    answer.body = vec![1; 1 << 20].into();
    let most = bound / answer.wire_bytes() + 1;
    let passed_on = || {
        for _ in 0..most + 8 {
            broker.request_at(0, 5, &answer);
        }
        broker.world.take_control()
    };
    let first = passed_on();
    let is_answer = |word: &ToControl| matches!(word, ToControl::ClientReply { .. });
    assert!(first.iter().all(is_answer));
    assert_eq!(first.len(), most);
    assert_eq!(passed_on().len(), 0, "in its hands they still count");
    drop(first);
    assert_eq!(passed_on().len(), most);
}
