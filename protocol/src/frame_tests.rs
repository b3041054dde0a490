use proptest::prelude::*;

use super::*;

fn frame_bytes(type_byte: u8, header: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(
        &u32::try_from(4 + header.len() + body.len())
            .unwrap()
            .to_be_bytes(),
    );
    let word = (u32::from(type_byte) << 24) | u32::try_from(header.len()).unwrap();
    out.extend_from_slice(&word.to_be_bytes());
    out.extend_from_slice(header);
    out.extend_from_slice(body);
    out
}

#[test]
fn refuses_a_length_of_two_gib_without_waiting_for_it() {
    let mut buffered = BytesMut::from(&0x8000_0000_u32.to_be_bytes()[..]);
    assert!(matches!(
        take_frame(&mut buffered),
        Err(FrameError::TooLong { .. })
    ));
    assert!(buffered.capacity() < 1024);
}

#[test]
fn refuses_impossible_heads() {
    let mut short = BytesMut::from(&[0, 0, 0, 3][..]);
    assert_eq!(
        take_frame(&mut short),
        Err(FrameError::TooShort { bytes: 3 })
    );
    let mut lying = BytesMut::from(&[0, 0, 0, 8, 0, 0, 0, 9][..]);
    assert_eq!(
        take_frame(&mut lying),
        Err(FrameError::HeaderTooLong {
            header: 9,
            frame: 8
        })
    );
    let mut kind = BytesMut::from(&[0, 0, 0, 8, 7, 0, 0, 4][..]);
    assert_eq!(take_frame(&mut kind), Err(FrameError::UnknownEncoding(7)));
}

/// Trap 13: bodies of pulls and batches of several MiB pass, the limit itself included.
#[test]
fn takes_the_largest_frame() {
    let body = vec![7_u8; FRAME_BYTES_MAX as usize - 4 - 2];
    let mut buffered = BytesMut::from(&frame_bytes(0, b"{}", &body)[..]);
    let frame = take_frame(&mut buffered).unwrap().unwrap();
    assert_eq!(frame.body.len(), body.len());
    assert_eq!(frame.wire_bytes(), FRAME_BYTES_MAX as usize + 4);
}

proptest! {
    /// Trap 7: the encoding byte is masked out of the header length.
    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut(
        parts in prop::collection::vec(
            (
                0_u8..2,
                prop::collection::vec(any::<u8>(), 0..80),
                prop::collection::vec(any::<u8>(), 0..200),
            ),
            1..6,
        ),
        cut in 1_usize..64,
    ) {
        let mut stream = Vec::new();
        for (kind, header, body) in &parts {
            stream.extend_from_slice(&frame_bytes(*kind, header, body));
        }
        let mut buffered = BytesMut::new();
        let mut frames = Vec::new();
        for piece in stream.chunks(cut) {
            buffered.extend_from_slice(piece);
            while let Some(frame) = take_frame(&mut buffered).unwrap() {
                frames.push(frame);
            }
        }
        prop_assert!(buffered.is_empty());
        prop_assert_eq!(frames.len(), parts.len());
        for (frame, (kind, header, body)) in frames.iter().zip(&parts) {
            prop_assert_eq!(frame.encoding.type_byte(), *kind);
            prop_assert_eq!(&frame.header[..], &header[..]);
            prop_assert_eq!(&frame.body[..], &body[..]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut buffered = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = take_frame(&mut buffered) {}
    }
}
