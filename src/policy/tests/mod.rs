mod decisions;
mod periods;
mod problems;
mod records;
mod table;

use std::net::IpAddr;

use super::*;
use report_proto::id::Id;

/// Returns the Unix seconds of a time of RFC 3339.
fn at(text: &str) -> i64 {
    time(text).seconds()
}

fn time(text: &str) -> UnixTime {
    UnixTime::parse(text, &Zone::UTC).expect(text)
}

fn seconds(seconds: i64) -> Option<UnixTime> {
    UnixTime::new(seconds)
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn networks(texts: &[&str]) -> Networks {
    Networks::new(texts.iter().map(|text| text.parse().expect(text)).collect())
}

fn key_id(number: u8) -> Id {
    Id([number; 16])
}

fn credential(number: u8, account: i64) -> CredentialRecord {
    CredentialRecord {
        credential: Credential {
            id: CredentialId(Id([number; 16])),
            account: AccountId(account),
            name: format!("credential {number}"),
            role: report_proto::frame::Role::Server,
            not_before: None,
            expires: None,
            revoked: false,
        },
        verifier: Verifier {
            public_key: [number; 32],
            welcome_key: [number; 32],
        },
    }
}
