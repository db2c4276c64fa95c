//! Text that people write: of files, with whatever editor they have (UTF-8 with or without a byte order mark, or UTF-16 with one), and of addresses, which
//! may hold a password.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Read},
    path::Path,
};

/// The longest file of a key or of headers that is read, in bytes.
pub const SHORT_FILE_MAX: u64 = 1024 * 1024;

/// The longest configuration or file of certificates that is read, in bytes.
pub const LONG_FILE_MAX: u64 = 16 * 1024 * 1024;

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// When it cannot be read, or is longer: a wrong path may lead to a file that never ends.
pub fn read_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let expected = file.metadata()?.len().min(limit).saturating_add(1);
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or_default());
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= limit) {
        Ok(bytes)
    } else {
        Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is longer than {limit} bytes"),
        ))
    }
}

/// Where the bytes stop being text, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is neither UTF-8 nor UTF-16 with a byte order mark from byte {0} on: save it as UTF-8")]
pub struct NotText(pub usize);

/// The text without its byte order mark.
///
/// # Errors
/// When it is none.
pub fn decode(bytes: &[u8]) -> Result<String, NotText> {
    match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest, 3),
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        _ => utf8(bytes, 0),
    }
}

fn utf8(bytes: &[u8], before: usize) -> Result<String, NotText> {
    let wrong = |error: std::str::Utf8Error| {
        NotText(error.valid_up_to().saturating_add(before).saturating_add(1))
    };
    std::str::from_utf8(bytes).map(str::to_owned).map_err(wrong)
}

fn utf16(bytes: &[u8], unit: impl Fn([u8; 2]) -> u16) -> Result<String, NotText> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let mut text = String::with_capacity(bytes.len());
    let mut at = 3_usize; // behind the mark
    for letter in char::decode_utf16(pairs.iter().map(|pair| unit(*pair))) {
        let letter = letter.map_err(|_| NotText(at))?;
        text.push(letter);
        at = at.saturating_add(letter.len_utf16().saturating_mul(2));
    }
    if rest.is_empty() {
        Ok(text)
    } else {
        Err(NotText(at))
    }
}

/// An address as a message may show it: `***` in place of the password of `user:password@host`, with or without a scheme before it.
#[must_use]
pub fn without_password(address: &str) -> Cow<'_, str> {
    let is_scheme = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    let scheme = address
        .find("://")
        .filter(|end| address.get(..*end).is_some_and(is_scheme));
    let (scheme, rest) = address.split_at(scheme.map_or(0, |end| end.saturating_add("://".len())));
    // A password may hold an @ that should have been escaped: the last one is before the host.
    let Some((user, host)) = rest
        .rsplit_once('@')
        .and_then(|(user, host)| Some((user.split_once(':')?.0, host)))
    else {
        return address.into();
    };
    format!("{scheme}{user}:***@{host}").into()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The text as editors save it: UTF-8 with a mark, UTF-16 of both orders.
    pub(crate) fn encodings(text: &str) -> [Vec<u8>; 3] {
        let units = || "\u{feff}".encode_utf16().chain(text.encode_utf16());
        let utf8 = format!("\u{feff}{text}").into_bytes();
        [
            utf8,
            units().flat_map(u16::to_le_bytes).collect(),
            units().flat_map(u16::to_be_bytes).collect(),
        ]
    }

    #[test]
    fn every_encoding_reads_as_the_same_text() {
        for bytes in encodings("远程 🌉 a\r\n") {
            assert_eq!(decode(&bytes).as_deref(), Ok("远程 🌉 a\r\n"));
        }
        assert_eq!(decode(b"plain").as_deref(), Ok("plain"));
        assert_eq!(decode(b"").as_deref(), Ok(""));
    }

    #[test]
    fn a_password_in_an_address_is_replaced() {
        for (address, shown) in [
            ("http://ann:secret@proxy:3128", "http://ann:***@proxy:3128"),
            ("ann:secret@proxy:3128", "ann:***@proxy:3128"),
            ("wss://ann:se:c@ret/x@host/path", "wss://ann:***@host/path"),
            ("ann:p://secret@host", "ann:***@host"),
            ("http://:secret@host", "http://:***@host"),
            ("http://ann:secret@", "http://ann:***@"),
            ("http://ann@proxy:3128", "http://ann@proxy:3128"),
            ("[::1]:22", "[::1]:22"),
            ("", ""),
        ] {
            assert_eq!(without_password(address), shown);
        }
    }

    #[test]
    fn what_is_no_text_says_where() {
        for (bytes, at) in [
            (&b"a\xff"[..], 2),
            (b"\xef\xbb\xbfa\xff", 5),
            (b"\xff\xfea\0b", 5),           // half a unit
            (b"\xff\xfea\0\x00\xd8b\0", 5), // half a pair
        ] {
            assert_eq!(decode(bytes), Err(NotText(at)), "{bytes:?}");
        }
    }

    #[test]
    fn a_file_is_read_up_to_its_limit_and_not_beyond() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "four").expect("written");
        assert_eq!(
            read_file(&path, 4).expect("is as long as it may be"),
            b"four"
        );
        for (path, limit) in [
            (path.as_path(), 3),
            (Path::new("/dev/zero"), SHORT_FILE_MAX),
        ] {
            let error = read_file(path, limit).expect_err("is longer");
            assert_eq!(
                error.to_string(),
                format!("it is longer than {limit} bytes")
            );
        }
    }
}
