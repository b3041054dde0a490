//! Order comes from serialization: what one connection sends to one queue is stored as it was sent,
//! however much of it is on the way at once.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::collections::BTreeMap;

use common::client::send_ext;
use common::record::batch_element;
use common::{Client, Dice, Gantry, code, fresh, reply};

/// Most sends that wait for their reply at once.
const WINDOW: usize = 512;

/// Bodies of a queue in stored order, all as text.
fn stored(client: &mut Client, topic: &str, queue: i32) -> Vec<String> {
    let all = client.drain(topic, queue, 0);
    all.into_iter()
        .map(|r| String::from_utf8(r.body).unwrap())
        .collect()
}

#[test]
fn pipelined_on_one_connection_to_one_queue() {
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    let topic = fresh("order");
    client.create_topic(&topic, 1);
    let count = 20_000;
    let mut offsets = BTreeMap::new();
    let (mut sent, mut first_opaque) = (0, None);
    while offsets.len() < count {
        while sent < count && sent - offsets.len() < WINDOW {
            let body = format!("m{sent}");
            let opaque = client.post(
                code::SEND_V2,
                &send_ext(&topic, 0, &[], false),
                body.as_bytes(),
            );
            first_opaque.get_or_insert(opaque);
            sent += 1;
        }
        client.flush().unwrap();
        let got = client.next_reply().unwrap().expect(reply::SUCCESS);
        let nth = i64::from(got.opaque - first_opaque.unwrap());
        offsets.insert(nth, got.number("queueOffset"));
    }
    // Each reply names the very offset that its place in the pipeline promises.
    for (nth, offset) in &offsets {
        assert_eq!(nth, offset, "message {nth} was stored at {offset}");
    }
    let expected: Vec<String> = (0..count).map(|n| format!("m{n}")).collect();
    assert!(stored(&mut client, &topic, 0) == expected);
}

#[test]
fn pipelined_over_several_queues_and_kinds_of_send() {
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    let topic = fresh("kinds");
    client.create_topic(&topic, 4);
    let mut dice = Dice(42);
    let mut expected: Vec<Vec<String>> = vec![Vec::new(); 4];
    let mut waiting = 0;
    for n in 0..4_000 {
        let queue = dice.below(4);
        let bodies: Vec<String> = match n % 5 {
            0 => (0..3).map(|k| format!("{n}.{k}")).collect(),
            _ => vec![format!("{n}")],
        };
        let wire_queue = i32::try_from(queue).unwrap();
        let fields = send_ext(&topic, wire_queue, &[], bodies.len() > 1);
        match n % 5 {
            0 => {
                let batch: Vec<u8> = bodies
                    .iter()
                    .flat_map(|b| batch_element(b.as_bytes(), ""))
                    .collect();
                client.post(code::SEND_BATCH, &fields, &batch);
                waiting += 1;
            }
            1 => client.post_oneway(code::SEND_V2, &fields, bodies[0].as_bytes()),
            _ => {
                client.post(code::SEND_V2, &fields, bodies[0].as_bytes());
                waiting += 1;
            }
        }
        expected[queue].extend(bodies);
        if waiting >= WINDOW {
            client.flush().unwrap();
            for _ in 0..waiting {
                client.next_reply().unwrap().expect(reply::SUCCESS);
            }
            waiting = 0;
        }
    }
    client.flush().unwrap();
    for _ in 0..waiting {
        client.next_reply().unwrap().expect(reply::SUCCESS);
    }
    for (queue, expected) in expected.iter().enumerate() {
        let queue = i32::try_from(queue).unwrap();
        // One-way messages at the very end may still be on their way.
        common::until(5, "all one-way messages", || {
            let max = client.offset(code::MAX_OFFSET, &topic, queue, &[]);
            (max == i64::try_from(expected.len()).unwrap()).then_some(())
        });
        assert!(
            stored(&mut client, &topic, queue) == *expected,
            "queue {queue}"
        );
    }
}

#[test]
fn several_connections_each_keep_their_own_order() {
    let gantry = Gantry::up(&[]);
    let topic = fresh("several");
    gantry.client().create_topic(&topic, 1);
    let addr = gantry.broker();
    let senders: Vec<_> = (0..4)
        .map(|who| {
            let topic = topic.clone();
            std::thread::spawn(move || {
                let mut client = Client::connect(addr);
                for n in 0..2_000 {
                    let body = format!("{who}:{n}");
                    client.post(
                        code::SEND_V2,
                        &send_ext(&topic, 0, &[], false),
                        body.as_bytes(),
                    );
                    if n % 64 == 63 {
                        client.flush().unwrap();
                    }
                }
                client.flush().unwrap();
                for _ in 0..2_000 {
                    client.next_reply().unwrap().expect(reply::SUCCESS);
                }
            })
        })
        .collect();
    for sender in senders {
        sender.join().unwrap();
    }
    let all = stored(&mut gantry.client(), &topic, 0);
    assert_eq!(all.len(), 8_000);
    for who in 0..4 {
        let prefix = format!("{who}:");
        let own: Vec<&str> = all.iter().filter_map(|b| b.strip_prefix(&prefix)).collect();
        let expected: Vec<String> = (0..2_000).map(|n| n.to_string()).collect();
        assert!(own == expected, "connection {who}");
    }
}
