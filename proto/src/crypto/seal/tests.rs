//! Tests of sealing, with every method.

use proptest::prelude::*;

use super::*;
use crate::crypto::EncryptMethod;

fn pair(method: EncryptMethod) -> (Sealer, Opener) {
    let direction = || DirectionKeys::derive(method, &[1; 32], &[2; 32]);
    (Sealer::new(direction()), Opener::new(direction()))
}

fn sealed(sealer: &mut Sealer, message: &[u8]) -> BytesMut {
    let mut buffer = BytesMut::from(message);
    sealer.seal(&mut buffer, 0).unwrap();
    assert_eq!(buffer.len(), message.len() + OVERHEAD);
    buffer
}

#[test]
fn open_rejects_altered_message_and_all_later_ones() {
    for method in EncryptMethod::ALL {
        for index in 0..40 + OVERHEAD {
            let (mut sealer, mut opener) = pair(method);
            let mut altered = sealed(&mut sealer, &[5; 40]);
            altered[index] ^= 0x10;
            assert_eq!(
                opener.open(&mut altered),
                Err(SealError::Corrupt),
                "{method}, byte {index}"
            );
            let mut good = sealed(&mut sealer, b"good");
            assert_eq!(opener.open(&mut good), Err(SealError::Failed), "{method}");
        }
    }
}

#[test]
fn open_rejects_message_shorter_than_tag() {
    for method in EncryptMethod::ALL {
        for length in 0..OVERHEAD {
            let (_, mut opener) = pair(method);
            assert_eq!(
                opener.open(&mut BytesMut::zeroed(length)),
                Err(SealError::Corrupt),
                "{method} {length}"
            );
            assert_eq!(
                opener.open(&mut BytesMut::zeroed(50)),
                Err(SealError::Failed),
                "{method} {length}"
            );
        }
    }
}

#[test]
fn open_rejects_replayed_and_skipped_messages() {
    for method in EncryptMethod::ALL {
        let messages = || {
            let (mut sealer, opener) = pair(method);
            (
                [sealed(&mut sealer, b"same"), sealed(&mut sealer, b"same")],
                opener,
            )
        };
        let ([first, _], mut opener) = messages();
        assert_eq!(opener.open(&mut first.clone()), Ok(()));
        assert_eq!(
            opener.open(&mut first.clone()),
            Err(SealError::Corrupt),
            "{method}: replayed"
        );
        let ([_, mut second], mut opener) = messages();
        assert_eq!(
            opener.open(&mut second),
            Err(SealError::Corrupt),
            "{method}: the first message skipped"
        );
    }
}

#[test]
fn open_rejects_extended_and_truncated_messages() {
    for method in EncryptMethod::ALL {
        let (mut sealer, mut opener) = pair(method);
        let mut longer = sealed(&mut sealer, b"message");
        longer.extend_from_slice(&[0]);
        assert_eq!(
            opener.open(&mut longer),
            Err(SealError::Corrupt),
            "{method}"
        );
        let (mut sealer, mut opener) = pair(method);
        let mut shorter = sealed(&mut sealer, b"message");
        shorter.truncate(shorter.len() - 1);
        assert_eq!(
            opener.open(&mut shorter),
            Err(SealError::Corrupt),
            "{method}"
        );
    }
}

#[test]
fn only_plain_is_readable() {
    let secret = b"a known plaintext of some length";
    for method in EncryptMethod::ALL {
        let buffer = sealed(&mut pair(method).0, secret);
        let readable = buffer
            .windows(8)
            .any(|window| secret.windows(8).any(|part| part == window));
        assert_eq!(readable, method == EncryptMethod::Plain, "{method}");
    }
}

#[test]
fn message_numbers_do_not_wrap() {
    for method in EncryptMethod::ALL {
        let (mut sealer, mut opener) = pair(method);
        (sealer.next, opener.next) = (u64::MAX - 1, u64::MAX - 1);
        let mut last = sealed(&mut sealer, b"last");
        assert_eq!(opener.open(&mut last), Ok(()));
        let mut more = BytesMut::from(&b"more"[..]);
        assert_eq!(sealer.seal(&mut more, 0), Err(SealError::Exhausted));
        assert_eq!(&more[..], b"more", "the buffer is unchanged");
        assert_eq!(
            opener.open(&mut BytesMut::zeroed(20)),
            Err(SealError::Exhausted)
        );
    }
}

#[test]
fn seal_rejects_start_beyond_buffer_without_using_a_number() {
    for method in EncryptMethod::ALL {
        let (mut sealer, mut opener) = pair(method);
        assert_eq!(
            sealer.seal(&mut BytesMut::zeroed(3), 4),
            Err(SealError::Range)
        );
        assert_eq!(opener.open(&mut sealed(&mut sealer, b"next")), Ok(()));
    }
}

#[test]
fn seal_and_open_work_in_place() {
    for method in EncryptMethod::ALL {
        let (mut sealer, mut opener) = pair(method);
        let mut buffer = BytesMut::with_capacity(5 + 1000 + OVERHEAD);
        buffer.extend_from_slice(&[0; 1005]);
        let place = buffer.as_ptr();
        sealer.seal(&mut buffer, 5).unwrap();
        assert_eq!(buffer.as_ptr(), place, "{method}");
        let mut opened = buffer.split_off(5);
        opener.open(&mut opened).unwrap();
        assert_eq!(opened.as_ptr(), place.wrapping_add(5), "{method}");
        assert_eq!(opened, vec![0; 1000]);
    }
}

proptest! {
    #[test]
    fn sealed_messages_open(messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..20)) {
        for method in EncryptMethod::ALL {
            let (mut sealer, mut opener) = pair(method);
            for message in &messages {
                let mut buffer = sealed(&mut sealer, message);
                opener.open(&mut buffer).unwrap();
                prop_assert_eq!(&buffer[..], &message[..]);
            }
        }
    }

    #[test]
    fn open_rejects_arbitrary_bytes(garbage in proptest::collection::vec(any::<u8>(), 0..300)) {
        for method in EncryptMethod::ALL {
            prop_assert_eq!(pair(method).1.open(&mut BytesMut::from(&garbage[..])), Err(SealError::Corrupt));
        }
    }
}
