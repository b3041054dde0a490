use proptest::prelude::*;

use super::*;
use crate::command::{ExtValue, writer};
use crate::frame::HeaderEncoding;
use crate::message_id::offset_id;

fn host() -> SocketAddr {
    "192.168.0.7:10911".parse().unwrap()
}

fn by_the_general_writer(
    encoding: HeaderEncoding,
    region: &str,
    trace_on: bool,
    stored: &Stored<'_>,
) -> BytesMut {
    let mut out = BytesMut::new();
    let id = offset_id(host(), stored.physical_offset);
    let ext = [
        ("MSG_REGION", ExtValue::Str(region)),
        ("TRACE_ON", ExtValue::from(trace_on)),
        ("msgId", ExtValue::Str(id.as_str())),
        ("queueId", ExtValue::from(i32::from(stored.queue_id))),
        ("queueOffset", ExtValue::from(stored.queue_offset)),
        (
            "transactionId",
            ExtValue::Str(std::str::from_utf8(stored.unique_key).unwrap()),
        ),
    ];
    let ext = Some(&ext[..]);
    writer::write_reply(&mut out, encoding, stored.opaque, 0, None, ext, &[]).unwrap();
    out
}

proptest! {
    #[test]
    fn same_bytes_as_the_general_writer(
        region in "[a-zA-Z\"\\\\ü-]{0,40}",
        trace_on: bool,
        is_binary: bool,
        opaque: i32,
        physical_offset in 0_i64..,
        queue_id: u16,
        queue_offset in 0_i64..,
        unique in "[ -~]{1,64}",
    ) {
        let stored = Stored {
            opaque,
            physical_offset,
            queue_id,
            queue_offset,
            unique_key: unique.as_bytes(),
        };
        let form = SendReplyForm::new(&region, trace_on, host()).unwrap();
        let mut out = BytesMut::from(&b"before"[..]);
        let encoding = if is_binary { HeaderEncoding::Binary } else { HeaderEncoding::Json };
        let written = form.write(&mut out, encoding, &stored);
        let escaped = unique.contains(['"', '\\']);
        prop_assert_eq!(written, !escaped);
        let before = out.split_to(6);
        prop_assert_eq!(&before[..], b"before");
        if written {
            prop_assert_eq!(out, by_the_general_writer(encoding, &region, trace_on, &stored));
        } else {
            prop_assert!(out.is_empty());
        }
    }
}

#[test]
fn what_does_not_fit_is_left_to_the_general_writer() {
    assert!(SendReplyForm::new(&"r".repeat(300), true, host()).is_none());
    let form = SendReplyForm::new("DefaultRegion", true, host()).unwrap();
    let long = [b'A'; UNIQUE_KEY_BYTES_MAX + 1];
    let mut out = BytesMut::new();
    for unique_key in [&long[..], "schlüssel".as_bytes(), b"", b"\x01"] {
        let stored = Stored {
            opaque: 1,
            physical_offset: 2,
            queue_id: 3,
            queue_offset: 4,
            unique_key,
        };
        assert!(!form.write(&mut out, HeaderEncoding::Json, &stored));
        assert!(!form.write(&mut out, HeaderEncoding::Binary, &stored));
    }
    assert!(out.is_empty());
}
