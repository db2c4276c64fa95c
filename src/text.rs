//! Text written by users: files in any common encoding (UTF-8 with or without a byte order mark,
//! UTF-16 with one), and addresses that may contain a password.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Read},
    path::Path,
};

/// The maximum length of a key file or headers file, in bytes.
pub const SHORT_FILE_MAX: u64 = 1024 * 1024;

/// The maximum length of a configuration or certificate file, in bytes.
pub const LONG_FILE_MAX: u64 = 16 * 1024 * 1024;

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// If the file cannot be read, or is longer than `limit`. A wrong path may name a file without end.
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

/// The position of the first byte that is not text, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is neither UTF-8 nor UTF-16 with a byte order mark from byte {0} on: save it as UTF-8")]
pub struct NotText(pub usize);

/// Decodes the text and removes its byte order mark.
///
/// # Errors
/// If the bytes are not text.
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
    // Start after the byte order mark.
    let mut at = 3_usize;
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

/// Returns whether the text has only characters of a URL's scheme. Other text in front of `://` may
/// be part of a password that was not escaped.
pub(crate) fn has_scheme_characters(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// Replaces the password in `user:password@host` with `***`, with or without a scheme in front.
#[must_use]
pub fn without_password(address: &str) -> Cow<'_, str> {
    let scheme = address
        .find("://")
        .filter(|end| address.get(..*end).is_some_and(has_scheme_characters));
    let (scheme, rest) = address.split_at(scheme.map_or(0, |end| end.saturating_add("://".len())));
    // A password may contain an @ that was not escaped: the last @ precedes the host.
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

    /// Encodes the text as editors save it: UTF-8 with a mark, and UTF-16 in both byte orders.
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
    fn every_encoding_decodes_to_the_same_text() {
        for bytes in encodings("远程 🌉 a\r\n") {
            assert_eq!(decode(&bytes).as_deref(), Ok("远程 🌉 a\r\n"));
        }
        assert_eq!(decode(b"plain").as_deref(), Ok("plain"));
        assert_eq!(decode(b"").as_deref(), Ok(""));
    }

    #[test]
    fn password_in_an_address_is_replaced() {
        for (address, masked) in [
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
            assert_eq!(without_password(address), masked);
        }
    }

    #[test]
    fn invalid_text_reports_its_position() {
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
    fn file_is_read_up_to_its_limit() {
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
