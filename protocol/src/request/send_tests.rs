use super::*;
use crate::frame::HeaderEncoding;

const LETTER_HEADER: &[u8] =
    br#"{"code":310,"extFields":{"a":"pg","b":"T","c":"TBW102","d":"4","e":"-1","f":"0",
    "g":"1732300000000","h":"0","i":"TAGS\u0001A\u0002","j":"0","k":"false","l":"3",
    "m":"false","n":"b0","ns":"x"},"opaque":1,"version":121}"#;

fn view(header: &[u8]) -> HeaderView<'_> {
    HeaderView::parse(HeaderEncoding::Json, header).unwrap()
}

#[test]
fn letters() {
    let view = view(LETTER_HEADER);
    let send = SendHeader::parse(&view).unwrap();
    assert_eq!(
        (send.producer_group, send.topic, send.default_topic),
        ("pg", "T", "TBW102")
    );
    assert_eq!(
        (send.queue_id, send.born_timestamp),
        (-1, 1_732_300_000_000)
    );
    assert_eq!(
        (send.properties, send.max_reconsume_times),
        ("TAGS\u{1}A\u{2}", Some(3))
    );
    assert_eq!(
        (send.batch, send.unit_mode, send.broker_name),
        (false, false, Some("b0"))
    );
}

/// Trap 102: Go's single sends use code 10 with long names; C++ sends numbers.
#[test]
fn trap_102_long_names_and_numbers() {
    let view = view(
        br#"{"code":10,"extFields":{"producerGroup":"pg","topic":"T","defaultTopic":"TBW102",
        "defaultTopicQueueNums":8,"queueId":2,"sysFlag":1,"bornTimestamp":"7","flag":5,
        "properties":"","reconsumeTimes":"1","unitMode":"TRUE","maxReconsumeTimes":0,"batch":"true",
        "Signature":"","AccessKey":""},"version":317}"#,
    );
    let send = SendHeader::parse(&view).unwrap();
    assert_eq!(
        (send.default_topic_queue_nums, send.queue_id, send.flag),
        (8, 2, 5)
    );
    assert_eq!(
        (send.reconsume_times, send.unit_mode, send.batch),
        (1, true, true)
    );
    assert_eq!((send.properties, send.max_reconsume_times), ("", Some(0)));
}

#[test]
fn a_missing_queue_count_is_the_clients_default() {
    let view =
        view(br#"{"code":310,"extFields":{"a":"p","b":"T","e":"0","f":"0","g":"1","h":"0"}}"#);
    let send = SendHeader::parse(&view).unwrap();
    assert_eq!(send.default_topic_queue_nums, DEFAULT_TOPIC_QUEUE_NUMS);
}

#[test]
fn errors_name_the_field_as_the_client_spells_it() {
    let missing = view(br#"{"code":310,"extFields":{"a":"p","b":"T","e":"0","f":"0","h":"0"}}"#);
    let error = SendHeader::parse(&missing).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the custom field <g> is null; allowed: a 64-bit integer"
    );
    let bad = view(br#"{"code":10,"extFields":{"a":"p","topic":"T","queueId":"x"}}"#);
    let error = SendHeader::parse(&bad).unwrap_err();
    let wanted = "the custom field <queueId> is \"x\"; allowed: a 32-bit integer";
    assert_eq!(error.to_string(), wanted);
    let long = format!(
        r#"{{"code":10,"extFields":{{"a":"p","b":"T","e":"{}"}}}}"#,
        "9".repeat(999)
    );
    let text = SendHeader::parse(&view(long.as_bytes()))
        .unwrap_err()
        .to_string();
    assert!(text.len() < 200, "foreign text is cut: {text}");
}

#[test]
fn written_headers_are_read_back() {
    let view = view(LETTER_HEADER);
    let send = SendHeader::parse(&view).unwrap();
    for code in [10, 310] {
        for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary] {
            let mut out = bytes::BytesMut::new();
            let ext = send.to_ext(code);
            crate::command::writer::write_request(
                &mut out,
                encoding,
                1,
                code,
                false,
                Some(&ext),
                &[b"body"],
            )
            .unwrap();
            let frame = crate::take_frame(&mut out).unwrap().unwrap();
            let view = HeaderView::parse(encoding, &frame.header).unwrap();
            assert_eq!(SendHeader::parse(&view).unwrap(), send);
        }
    }
}

#[test]
fn what_older_clients_say_of_the_most_tries_means_nothing() {
    let old = std::str::from_utf8(LETTER_HEADER).unwrap();
    let old = old.replace("\"version\":121", "\"version\":120");
    let view = view(old.as_bytes());
    let send = SendHeader::parse(&view).unwrap();
    assert_eq!((send.max_reconsume_times, send.reconsume_times), (None, 0));
}
